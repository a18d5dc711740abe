"""Reading a pair of label maps: whole files, whole numbers, known values, one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.grid import UnreadableError
from dataset_conversion.volumes import check_raw
from nnunet_mamba.study.evaluation.intact import check_intact

SAME_PLACE_MM = 1e-2
"""Grids whose corners are nearer than this are the same: file formats round."""
ROUND = 1e-3
"""Label values nearer than this to a whole number are that number: resampling and scaling round."""
FEW = 2**16
HIGHEST_FLOAT = 2.0**53
MOST_SHOWN = 5
TO_COUNT = "--unknown_as_background counts them as background"


@dataclass(frozen=True)
class LabelMap:
    """Labels (z y x) with the size of a voxel in mm along the same axes. unknown: value -> voxels, of unknown values"""

    labels: np.ndarray
    spacing: tuple[float, ...]
    unknown: Mapping[int, int] = field(default_factory=dict)


def files_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """Case -> file, sorted, without hidden ones such as the `._x.nii.gz` that macOS leaves.

    ending: what follows a case's name, such as `.nii.gz` or `_0000.nii.gz`
    """
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return {n.removesuffix(ending): folder / n for n in names if n.endswith(ending) and not n.startswith(".")}


def read_pair(
    reference: Path, prediction: Path, known: frozenset[int] | None = None, unknown_is_background: bool = False
) -> tuple[LabelMap, LabelMap]:
    """Both maps on one grid.

    known: values that may be there; None for any. Raises ValueError for files that cannot be read, lie elsewhere, or
    hold other values, unless these are background.
    """
    images = [_read(path) for path in (reference, prediction)]
    if reference.samefile(prediction):
        raise ValueError(f"{prediction} is the same file as {reference}; the score would be perfect")
    a, b = images
    if a.GetSize() != b.GetSize():
        raise ValueError(f"{prediction}: {b.GetSize()} voxels, but {reference} has {a.GetSize()}")
    for corner in _corners(a.GetSize()):
        far = np.subtract(*(i.TransformContinuousIndexToPhysicalPoint(corner) for i in images))
        if not np.abs(far).max() <= SAME_PLACE_MM:
            raise ValueError(
                f"{prediction} lies elsewhere than {reference}: {np.abs(far).max():.3g} mm at voxel "
                f"{tuple(int(c) for c in corner)}; origin, spacing or direction differ"
            )
    maps = [_map(path, image, known) for path, image in ((reference, a), (prediction, b))]
    wrong = [
        f"{path} holds {shown(m.unknown)}"
        for path, m in zip((reference, prediction), maps, strict=True)
        if m.unknown and not unknown_is_background
    ]
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}; dataset.json has {_listed(sorted(known or ()))}. If that is right, {TO_COUNT}"
        )
    return maps[0], maps[1]


def check_image(path: Path, labels: Path) -> None:
    """Raises ValueError for an image that cannot be read, is damaged, or has another size than these labels"""
    sizes = [_read(p).GetSize() for p in (path, labels)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{path}: {sizes[0]} voxels, but {labels} has {sizes[1]}")


def read_labels(path: Path) -> tuple[np.ndarray, sitk.Image]:
    """One label map (z y x), whole numbers, and its image. Raises ValueError if it cannot be read or is none."""
    image = _read(path)
    return whole_numbers(sitk.GetArrayFromImage(image), path), image


def whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    """Labels, rounded if they are nearly whole. Raises ValueError naming the file and the value that is none."""
    if array.dtype.kind in "iub":
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{path}: voxels of type {array.dtype}; a label map has one number per voxel")
    finite = np.isfinite(array)
    if not finite.all():
        raise ValueError(f"{path} holds {int((~finite).sum())} voxels that are NaN or infinite; expected labels")
    rounded = np.rint(array)
    off = np.abs(array - rounded)
    if off.size and off.max() > ROUND:
        place = np.unravel_index(int(off.argmax()), array.shape)
        count = int((off > ROUND).sum())
        raise ValueError(
            f"{path} holds {array[place]:.6g} at voxel {tuple(int(i) for i in place[::-1])}, and {count} values that "
            "are not whole numbers: probabilities, or labels that were interpolated"
        )
    if not off.size or np.abs(rounded).max() < HIGHEST_FLOAT:
        return rounded.astype(np.int64)
    raise ValueError(f"{path} holds {np.abs(rounded).max():g}; expected labels")


def counts_of(labels: np.ndarray) -> dict[int, int]:
    """Value -> voxels. Label maps have few and small values, which can be counted; sorting voxels is slow."""
    if not labels.size:
        return {}
    least, most = int(labels.min()), int(labels.max())
    if most - least < FEW:
        counts = np.bincount(labels.ravel().astype(np.int64, copy=False) - least)
        return {int(v) + least: int(counts[v]) for v in np.flatnonzero(counts)}
    values, many = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, many, strict=True)}


def shown(counts: Mapping[int, int]) -> str:
    """`7 (120 voxels), 9 (1 voxel)`"""
    words = [f"{v} ({n} voxel{'' if n == 1 else 's'})" for v, n in sorted(counts.items())]
    return _listed(words)


def _listed(words: Sequence[object]) -> str:
    more = f" and {len(words) - MOST_SHOWN} more" if len(words) > MOST_SHOWN else ""
    return ", ".join(map(str, words[:MOST_SHOWN])) + more


def _read(path: Path) -> sitk.Image:
    """The image. Raises ValueError naming the file"""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path!r}: its name is no UTF-8, which SimpleITK cannot open; rename it") from None
    check_intact(path)
    try:
        image = sitk.ReadImage(str(path))
        check_raw(path, image.GetNumberOfPixels() * image.GetSizeOfPixelComponent())
    except UnreadableError as error:
        raise ValueError(str(error)) from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{path} cannot be read: {lines[-1] if lines else 'no reason given'}") from None
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{path}: {image.GetNumberOfComponentsPerPixel()} values per voxel; a label map has one")
    if not (np.isfinite(image.GetSpacing()).all() and min(image.GetSpacing()) > 0):
        raise ValueError(f"{path}: voxels of {' x '.join(f'{s:g}' for s in image.GetSpacing())} mm")
    return image


def _map(path: Path, image: sitk.Image, known: frozenset[int] | None) -> LabelMap:
    labels = whole_numbers(sitk.GetArrayFromImage(image), path)
    counts = counts_of(labels) if known is not None else {}
    unknown = {v: n for v, n in counts.items() if known is not None and v not in known}
    return LabelMap(labels, tuple(image.GetSpacing()[::-1]), unknown)


def _corners(size: Sequence[int]) -> list[tuple[float, ...]]:
    grids = np.meshgrid(*([0.0, s - 1.0] for s in size), indexing="ij")
    return [tuple(map(float, corner)) for corner in np.stack([g.ravel() for g in grids], -1)]
