"""A case's voxels and grid: checked before anything is predicted, and as files that the model's reader takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion import volumes
from dataset_conversion.grid import Geometry, UnreadableError, Volume, geometry
from nnunet_mamba.prediction import dicom
from nnunet_mamba.prediction.images import Case, Source

PERCENTILES = (0.5, 50.0, 99.5)
ENOUGH = 2_000_000
"""Voxels from which percentiles are taken."""


@dataclass(frozen=True)
class Reading:
    """How files are read. prefer: sform or qform where these differ; fix_shear: make axes perpendicular.

    turn: as the training images lie, files too; series of DICOM files always are.
    """

    prefer: str | None = None
    fix_shear: bool = False
    turn: bool = False


@dataclass(frozen=True)
class Scan:
    """A case that can be predicted. intensities: per channel the 0.5, 50 and 99.5 percentile; notes: what is odd.

    repaired: channels whose files nnU-Net would read otherwise than they are meant.
    """

    case: Case
    grid: Geometry
    intensities: tuple[tuple[float, float, float], ...]
    notes: tuple[str, ...] = ()
    repaired: tuple[bool, ...] = ()


def check(case: Case, channels: Sequence[str], reading: Reading) -> Scan:
    """Reads a case to its end. Raises ValueError in one sentence for what is damaged, has a fourth axis, holds no
    numbers, or has channels that lie on different grids."""
    grids, intensities, repaired = [], [], []
    notes: list[str] = []
    for source, channel in zip(case.channels, channels, strict=True):
        volume = read(source, reading)
        finite = np.isfinite(volume.array) if volume.array.dtype.kind == "f" else None
        if finite is not None and not finite.all():
            raise ValueError(f"{source.path}: {int((~finite).sum())} voxels are NaN or infinite; set them to a number")
        low, middle, high = np.percentile(volume.array.ravel()[:: 1 + volume.array.size // ENOUGH], PERCENTILES)
        if volume.array.min() == volume.array.max():
            notes.append(f"{channel}: all voxels are {volume.array.flat[0]:g}")
        grids.append(volume.geometry)
        intensities.append((float(low), float(middle), float(high)))
        repaired.append(bool(volume.repairs))
        notes += volume.repairs
        notes += dicom.notes(source.series) if source.series else []
    first = grids[0]
    for source, grid in zip(case.channels[1:], grids[1:], strict=True):
        if grid.shape != first.shape or grid.distance(first) > grid.same:
            how = (
                f"{_sizes(grid.shape)} voxels, not {_sizes(first.shape)}"
                if grid.shape != first.shape
                else (f"its corners are up to {grid.distance(first):.3g} mm off")
            )
            raise ValueError(
                f"{source.path} lies on another grid than {case.channels[0].path}: {how}; resample it to that first"
            )
    return Scan(case, first, tuple(intensities), tuple(notes), tuple(repaired))


def read(source: Source, reading: Reading) -> Volume:
    """One channel. Raises ValueError"""
    if source.series is not None:
        return from_image(dicom.read_series(source.series))
    try:
        return volumes.read(source.path, reading.prefer, reading.fix_shear)
    except UnreadableError as error:
        raise ValueError(str(error)) from None


def as_files(scan: Scan, ending: str, folder: Path, reading: Reading) -> list[Path]:
    """A file per channel as the model's reader takes it: the user's own where it is one already, else a copy.

    ending: of the model's files; folder: for copies.
    """
    files = []
    for number, (source, repaired) in enumerate(zip(scan.case.channels, scan.repaired, strict=True)):
        if source.series is None and source.path.name.endswith(ending) and not repaired:
            files.append(source.path)
        else:
            files.append(folder / f"{number:04d}{ending}")
            sitk.WriteImage(as_image(read(source, reading)), str(files[-1]))
    return files


def as_image(volume: Volume) -> sitk.Image:
    """For SimpleITK's writers"""
    array = volume.array.astype(np.float32) if volume.array.dtype.kind == "f" else volume.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(volume.geometry.spacing.tolist())
    image.SetDirection(volume.geometry.direction.ravel().tolist())
    image.SetOrigin(volume.geometry.matrix[:3, 3].tolist())
    return image


def from_image(image: sitk.Image) -> Volume:
    """The other way round"""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), geometry(image.GetSize(), affine))


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
