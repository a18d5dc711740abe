"""Skeletons: skimage's, and one for each part that its thinning takes away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import skeletonize

from nnunet_mamba.skeletons import skeleton
from nnunet_mamba.study.evaluation.metrics import METRICS


def _tube(width: int, axis: int = 2) -> np.ndarray:
    mask = np.zeros((14, 14, 40), bool)
    mask[3 : 3 + width, 3 : 3 + width, 5:35] = True
    return np.moveaxis(mask, 2, axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 8])
def test_straight_tubes_have_a_line(width: int, axis: int) -> None:
    mask = _tube(width, axis)
    found = skeleton(mask)
    assert not (found & ~mask).any()
    along = found.any(tuple(a for a in range(3) if a != axis))
    assert along.sum() >= 30 - width, "from one end to the other, less what rounding of the ends takes"
    assert ndimage.label(found, np.ones((3, 3, 3)))[1] == 1
    assert METRICS["clDice"].of_two(mask, mask, (1, 1, 1)) == 1


def test_thinning_takes_even_tubes_away() -> None:
    """If skimage no longer does, skeletons.py is not needed"""
    assert not skeletonize(_tube(4)).any()


def test_what_skimage_finds_stays_beside_a_part_that_it_takes_away() -> None:
    mask = np.zeros((14, 30, 40), bool)
    mask[:, :14] = _tube(4)
    mask[:, 16:] = _tube(5)[:, :14]
    found = skeleton(mask)
    assert (found[:, 16:] == skeletonize(_tube(5))[:, :14]).all()
    assert found[:, :14].sum() >= 26


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(9, 10, 11), (16, 16)]), st.floats(0.05, 0.8))
def test_every_part_has_some_and_no_other_voxel_has(seed: int, shape: tuple[int, ...], share: float) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    found = skeleton(mask)
    assert not (found & ~mask).any()
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    assert set(np.unique(parts[found])) == set(range(1, count + 1))
    thinned = skeletonize(mask)
    assert (found | thinned == found).all()


def test_nothing_has_none() -> None:
    assert not skeleton(np.zeros((4, 4, 4), bool)).any()
