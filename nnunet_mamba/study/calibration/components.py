"""Connected components of a label map below a minimum size: what removing them would score, and removing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_mamba.study.calibration.scores import overlap

SIZES = np.array([0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000], float)
"""Minimum sizes tried, in voxels or mm3. 0 removes nothing."""


def over_sizes(metric: str, prediction: np.ndarray, truth: np.ndarray, voxel: float) -> np.ndarray:
    """The metric of a mask without its components smaller than each of `SIZES`. voxel: size of one, in their unit."""
    numbered, count = _label(prediction)
    voxels = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    inside = np.bincount(numbered[truth], minlength=count + 1)[1:]
    kept = voxels * voxel >= SIZES[:, None]
    hits, predicted = (kept @ counts.astype(float) for counts in (inside, voxels))
    return overlap(metric, hits, predicted, int(truth.sum()))


def remove_small_components(
    segmentation: np.ndarray, values: Sequence[Sequence[int]], sizes: Sequence[float], fill: Sequence[int],
    voxel: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """A copy of the label map without the small components of each mask, one mask after the other.

    values, sizes, fill: of each mask, the labels in it, its minimum size, and the label its lost voxels get. nnU-Net's
    `postprocessing.pkl` names this function, so its own command can apply it (sizes in voxels).
    """
    result = np.copy(segmentation)
    for of_mask, size, label in zip(values, sizes, fill, strict=True):
        numbered, count = _label(np.isin(result, of_mask))
        small = np.bincount(numbered.ravel(), minlength=count + 1) * voxel < size
        small[0] = False
        result[small[numbered]] = label
    return result


def fills(masks: Mapping[str, Sequence[int]], class_order: Sequence[int] | None) -> list[int]:
    """What lost voxels become: the label that the next larger region is painted with, background where there is none"""
    names, chosen = list(masks), []
    for name in names:
        around = [n for n in names if set(masks[n]) > set(masks[name])]
        smallest = min(around, key=lambda n: len(masks[n]), default=None)
        chosen.append(0 if smallest is None or class_order is None else int(class_order[names.index(smallest)]))
    return chosen


def outermost_last(masks: Mapping[str, Sequence[int]]) -> list[str]:
    """Names in the order of removal: what a region loses can belong to the one around it"""
    return sorted(masks, key=lambda name: len(masks[name]))


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Components that touch, also at corners, numbered from 1; and how many"""
    numbered: Any = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return numbered
