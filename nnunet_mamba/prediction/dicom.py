"""Series of DICOM files: found in a folder, checked slice by slice, read by SimpleITK.

SimpleITK stacks whatever files it is given. So gaps, two series in one folder and tilted slices are looked for before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

PREAMBLE, MAGIC = 128, b"DICM"
UNEVEN = 0.1
"""Share of the distance of slices that a distance may be off: scanners round positions."""
SAME_PLACE = 1e-3
"""Share of it up to which two slices are at one place."""
STRAIGHT = 1e-3
"""Largest difference of cosines that is rounding."""
TILT_DEGREES = 0.5
SHOWN = 3
SERIES, NUMBER, DESCRIPTION, INSTANCE = "0020|000e", "0020|0011", "0008|103e", "0020|0013"
SLOPE, INTERCEPT = "0028|1053", "0028|1052"
POSITION, ORIENTATION, PIXEL_SPACING, FRAMES = "0020|0032", "0020|0037", "0028|0030", "0028|0008"


@dataclass(frozen=True)
class Slice:
    """One file. position: of its first voxel, in mm; rows, columns: directions; size: columns and rows; scale: of its
    values, as the file has it."""

    path: Path
    instance: int | None
    position: tuple[float, ...]
    directions: tuple[float, ...]
    size: tuple[int, int]
    scale: tuple[str, str]


@dataclass(frozen=True)
class Series:
    """A series of one folder. name: its number and description."""

    folder: Path
    name: str
    number: str
    slices: tuple[Slice, ...] = field(repr=False)

    @property
    def files(self) -> list[Path]:
        return [s.path for s in self.slices]


def is_dicom(path: Path) -> bool:
    """By its content, whatever its name is"""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(PREAMBLE)
        return file.read(len(MAGIC)) == MAGIC


def holds_dicom(folder: Path) -> bool:
    """Whether a folder has DICOM files, not looking below it"""
    return any(is_dicom(p) for p in folder.iterdir() if not p.name.startswith(".") and p.name != "DICOMDIR")


def find_series(folder: Path, wanted: str | None = None) -> Series:
    """The only series of a folder, or the one of this number.

    Raises ValueError in one sentence for several, and for what cannot be stacked to a volume.
    """
    of_series: dict[str, list[tuple[Slice, str, str]]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "DICOMDIR" or not is_dicom(path):
            continue
        uid, number, description, one = _read_slice(path)
        of_series.setdefault(uid, []).append((one, number, description))
    found = []
    for slices in of_series.values():
        _, number, description = slices[0]
        name = " ".join(filter(None, (f"series {number}" if number else "a series", description)))
        found.append(Series(folder, name, number, tuple(s for s, _, _ in slices)))
    told = ", ".join(f"{s.name} ({len(s.slices)} files)" for s in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    if wanted is not None:
        found = [s for s in found if s.number == wanted]
        if not found:
            raise ValueError(f"-series {wanted}: {folder} holds {told}{more}")
    if len(found) > 1:
        raise ValueError(
            f"{folder}: {len(found)} series in one folder: {told}{more}; choose one by its number, -series NUMBER, or "
            "move the others out"
        )
    return _stacked(found[0])


def read_series(series: Series) -> sitk.Image:
    """The volume. Raises ValueError for a file whose voxels are damaged."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(p) for p in series.files])
    if len({s.scale for s in series.slices}) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # it would give all slices the type of the first
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(f"{series.folder}: {series.name} cannot be read: {_last_line(error)}") from None
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{series.folder}: {series.name} is in colour; expected one value per voxel")
    first, last = (np.array(s.position) for s in (series.slices[0], series.slices[-1]))
    row, column = np.array(series.slices[0].directions).reshape(2, 3)
    normal = np.cross(row, column)
    image.SetOrigin(first.tolist())
    image.SetDirection(np.stack([row, column, normal], 1).ravel().tolist())
    distance = float((last - first) @ normal) / (len(series.slices) - 1)
    image.SetSpacing((*image.GetSpacing()[:2], distance))
    return image


def notes(series: Series) -> list[str]:
    """What may be wrong with a series that can be read"""
    numbers = sorted(s.instance for s in series.slices if s.instance is not None)
    found = []
    if numbers and numbers[0] > 1:
        found.append(f"its instance numbers begin with {numbers[0]}: slices may be missing at one end")
    step = int(np.diff(numbers).min()) if len(numbers) > 1 else 1
    if step > 1:
        found.append(f"its instance numbers go up by {step}: slices between may be missing")
    return found


def _read_slice(path: Path) -> tuple[str, str, str, Slice]:
    """Its series, the series' number and description, and the slice"""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise ValueError(
            f"{path}: a DICOM file without a readable image (a report, a structure set, or damaged); move it out of "
            "the folder, or copy it again"
        ) from None

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip().strip("\0") if reader.HasMetaDataKey(tag) else ""

    position, directions = _numbers(text(POSITION)), _numbers(text(ORIENTATION))
    if len(position) != 3 or len(directions) != 6:
        frames = text(FRAMES)
        what = f"{frames} frames in one file" if frames.isdigit() and int(frames) > 1 else "no position in space"
        raise ValueError(
            f"{path}: {what}; expected one file per slice with its position (dcm2niix makes NIfTI of other files)"
        )
    instance = text(INSTANCE)
    size = reader.GetSize()
    one = Slice(path, int(instance) if instance.isdigit() else None, position, directions, (size[0], size[1]),
                (text(SLOPE), text(INTERCEPT)))  # fmt: skip
    return text(SERIES), text(NUMBER), text(DESCRIPTION), one


def _stacked(series: Series) -> Series:
    """The series with its slices in order. Raises ValueError where they make no volume of equal voxels"""
    where = f"{series.folder}: {series.name}"
    first = series.slices[0]
    if len(series.slices) < 2:
        raise ValueError(f"{where} has one slice; a volume has several: is the copy complete?")
    sizes = sorted({s.size for s in series.slices})
    if len(sizes) > 1:
        raise ValueError(f"{where} has slices of {' and '.join(f'{a} x {b}' for a, b in sizes[:SHOWN])} voxels")
    if any(np.abs(np.subtract(s.directions, first.directions)).max() > STRAIGHT for s in series.slices):
        raise ValueError(f"{where} has slices in several directions (a localizer?); expected parallel ones")
    row, column = np.array(first.directions).reshape(2, 3)
    normal = np.cross(row, column)
    slices = sorted(series.slices, key=lambda s: float(np.dot(s.position, normal)))
    positions = np.array([s.position for s in slices])
    along = positions @ normal
    distances = np.diff(along)
    typical = float(np.median(distances))
    if distances.min() <= SAME_PLACE * max(typical, 1e-6):
        raise ValueError(
            f"{where} has several slices at one place, {along[int(distances.argmin())]:.1f} mm: a series over time, "
            "several echoes, or a copy of a file; keep one of each"
        )
    _check_distances(where, along, distances, typical)
    moved = positions[-1] - positions[0]
    tilt = float(np.degrees(np.arccos(np.clip((moved @ normal) / np.linalg.norm(moved), -1, 1))))
    if tilt > TILT_DEGREES:
        raise ValueError(
            f"{where} was taken with a tilted gantry ({tilt:.1f} degrees), so its slices are shifted; have dcm2niix "
            "convert it, which corrects that"
        )
    return Series(series.folder, series.name, series.number, tuple(slices))


def _check_distances(where: str, along: np.ndarray, distances: np.ndarray, typical: float) -> None:
    off = np.abs(distances - typical) > UNEVEN * typical
    if not off.any():
        return
    at = int(distances.argmax())
    missing = round(float(distances[at]) / typical) - 1
    if missing >= 1 and abs(distances[at] / typical - missing - 1) <= UNEVEN * (missing + 1):
        total = sum(round(float(d) / typical) - 1 for d in distances[off])
        raise ValueError(
            f"{where} is incomplete: {total} slice{'' if total == 1 else 's'} missing, the first between "
            f"{along[at]:.1f} and {along[at + 1]:.1f} mm; copy it again"
        )
    raise ValueError(f"{where} has slices at uneven distances, {distances.min():.3g} to {distances.max():.3g} mm")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()


def _last_line(error: RuntimeError) -> str:
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
