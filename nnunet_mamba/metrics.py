"""Metrics of two masks in Python, as `nnunet-mamba evaluate` has them: Dice, 95 % Hausdorff distance, surface Dice.

Masks are arrays of two or three axes, of truth values or of numbers (all but 0 is inside); a and b may be exchanged.
Where both are empty the value is the best one, 1 or 0 mm; where one is, 0 or the diagonal of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnunet_mamba.study.evaluation.empty_masks import EmptyRule
from nnunet_mamba.study.evaluation.metrics import find, score

__all__ = ["dice", "hd95", "nsd"]


def dice(a: ArrayLike, b: ArrayLike, spacing: Sequence[float] | None = None) -> float:
    """2 |A and B| / (|A| + |B|), in voxels: spacing makes no difference, and is there for the others' sake."""
    return _score("Dice", a, b, spacing)


def hd95(a: ArrayLike, b: ArrayLike, spacing: Sequence[float]) -> float:
    """In mm: the larger of the two directed 95th percentiles of distances between border voxels (MONAI's definition).

    spacing: mm between voxels, along the arrays' axes: SimpleITK's `GetSpacing()[::-1]`.
    """
    return _score("HD95", a, b, spacing)


def nsd(a: ArrayLike, b: ArrayLike, spacing: Sequence[float], tolerance: float = 1.0) -> float:
    """Share of both surfaces within `tolerance` mm of the other, weighted by area (MONAI, sub-voxels)."""
    if not 0 < tolerance < 1e6:
        raise ValueError(f"tolerance {tolerance!r}; expected mm, more than 0")
    return _score(f"NSD{tolerance:.6f}", a, b, spacing)


def _score(name: str, a: ArrayLike, b: ArrayLike, spacing: Sequence[float] | None) -> float:
    first, second = (_mask(m, which) for m, which in ((a, "a"), (b, "b")))
    if first.shape != second.shape:
        raise ValueError(f"a has the shape {first.shape}, b {second.shape}; expected two masks on one grid")
    mm = [1.0] * first.ndim if spacing is None else [float(s) for s in spacing]
    if len(mm) != first.ndim or not all(0 < s < float("inf") for s in mm):
        raise ValueError(f"spacing {spacing!r}; expected {first.ndim} numbers of mm, more than 0")
    (metric,) = find([name])
    return score(metric, first, second, mm, EmptyRule())


def _mask(given: ArrayLike, which: str) -> np.ndarray:
    mask: Any = np.asarray(given)
    if mask.ndim not in (2, 3) or mask.dtype.kind not in "biuf":
        raise ValueError(f"{which}: {mask.ndim} axes of {mask.dtype}; expected a mask of two or three axes")
    return mask != 0
