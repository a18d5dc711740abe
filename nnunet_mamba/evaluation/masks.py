"""Reading a pair of label maps, and the masks of the labels or regions in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

SAME_PLACE_MM = 1e-2
"""Grids whose corners are nearer than this are the same: file formats round."""


@dataclass(frozen=True)
class LabelMap:
    """Labels (z y x) with the size of a voxel in mm along the same axes."""

    labels: np.ndarray
    spacing: tuple[float, ...]


def files_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """Case -> file, sorted. ending: what follows a case's name, such as `.nii.gz` or `_0000.nii.gz`"""
    return {p.name.removesuffix(ending): p for p in sorted(folder.glob(f"*{ending}"))}


def read_pair(reference: Path, prediction: Path) -> tuple[LabelMap, LabelMap]:
    """Both maps on one grid. Raises ValueError for files that cannot be read or lie elsewhere."""
    images = [_read(path) for path in (reference, prediction)]
    a, b = images
    if a.GetSize() != b.GetSize():
        raise ValueError(f"{prediction}: {b.GetSize()} voxels, but {reference} has {a.GetSize()}")
    for corner in _corners(a.GetSize()):
        far = np.subtract(*(i.TransformContinuousIndexToPhysicalPoint(corner) for i in images))
        if np.abs(far).max() > SAME_PLACE_MM:
            raise ValueError(
                f"{prediction} lies elsewhere than {reference}: {np.abs(far).max():.3g} mm at voxel "
                f"{tuple(int(c) for c in corner)}; origin, spacing or direction differ"
            )
    return _map(a), _map(b)


def masks_of(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Label values of every foreground label or region of a dataset.json, in its order."""
    wanted = {}
    for name, value in labels.items():
        values = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),)
        if name != "ignore" and set(values) != {0}:
            wanted[name] = values
    return wanted


def _read(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}") from None


def _map(image: sitk.Image) -> LabelMap:
    return LabelMap(sitk.GetArrayFromImage(image), tuple(image.GetSpacing()[::-1]))


def _corners(size: Sequence[int]) -> list[tuple[float, ...]]:
    grids = np.meshgrid(*([0.0, s - 1.0] for s in size), indexing="ij")
    return [tuple(map(float, corner)) for corner in np.stack([g.ravel() for g in grids], -1)]
