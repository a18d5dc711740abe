"""Skeletons of masks: skimage's, for every part of a mask.

skimage's thinning (Lee et al. 1994) can take away both sides of an object of even width at once, and nothing is left: a
straight tube of four voxels has no skeleton. Such a part is made one voxel narrower first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize


def skeleton(mask: np.ndarray) -> np.ndarray:
    """(*space) bool, 2 or 3 axes -> voxels of the mask; none only where the mask is empty"""
    found = skeletonize(mask).astype(bool)
    labelled: Any = ndimage.label(mask, np.ones((3,) * mask.ndim))
    parts, count = labelled
    kept = np.bincount(parts[found], minlength=count + 1)
    boxes: Any = ndimage.find_objects(parts)
    for number, box in enumerate(boxes, start=1):
        if not kept[number]:
            found[box] |= _of_narrower(parts[box] == number)
    return found


def _of_narrower(part: np.ndarray) -> np.ndarray:
    """Of a part that thinning would take away: it without one layer at one end of every axis that has two"""
    for axis in range(part.ndim):
        narrower = part & _moved(part, axis)
        if narrower.any():
            part = narrower
    found = skeletonize(part).astype(bool)
    if not found.any():  # whatever its shape, its innermost voxel
        depth: Any = ndimage.distance_transform_edt(np.pad(part, 1))
        found.flat[int(np.argmax(depth[(slice(1, -1),) * part.ndim]))] = True
    return found


def _moved(part: np.ndarray, axis: int) -> np.ndarray:
    """By one voxel along an axis, nothing moved in at the end"""
    found = np.zeros_like(part)
    found.swapaxes(0, axis)[:-1] = part.swapaxes(0, axis)[1:]
    return found
