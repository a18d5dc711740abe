"""Distances between the surfaces of two masks, in mm: MONAI's, with the image's border as a surface and cropped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.surface_distance import compute_average_surface_distance

Spacing = Sequence[float]


def hausdorff(percentile: float, prediction: np.ndarray, reference: np.ndarray, spacing: Spacing) -> float:
    """Larger of the two directed percentiles of the distances between border voxels. Neither mask may be empty."""
    return _of_masks(compute_hausdorff_distance, prediction, reference, spacing, percentile=percentile)


def average(prediction: np.ndarray, reference: np.ndarray, spacing: Spacing) -> float:
    """Mean distance of all border voxels of both masks to the other border."""
    return _of_masks(compute_average_surface_distance, prediction, reference, spacing, symmetric=True)


def surface_dice(tolerance: float, prediction: np.ndarray, reference: np.ndarray, spacing: Spacing) -> float:
    """Share of both surfaces that lies within `tolerance` mm of the other, weighted by area."""
    options = {"class_thresholds": [tolerance], "use_subvoxels": True}
    return _of_masks(compute_surface_dice, prediction, reference, spacing, **options)


def _of_masks(
    metric: Callable[..., Any], prediction: np.ndarray, reference: np.ndarray, spacing: Spacing, **options: Any
) -> float:
    """MONAI's metric of one pair, without its warnings about its own old arguments"""
    pair = _cropped(prediction, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return float(metric(*pair, include_background=True, spacing=list(spacing), **options))


def _cropped(prediction: np.ndarray, reference: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The box around both, with a margin of one voxel that is in neither: also where a mask touches the image's end"""
    box = bounding_box(prediction | reference)
    first, second = (torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (prediction, reference))
    return first, second


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Around all voxels of a mask that is not empty"""
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)
