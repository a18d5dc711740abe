"""Measures against numbers worked out by hand, and what must hold for any members."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_mamba.trust import measures

MASKS = {"a": (1,), "b": (2,)}
LABEL_MAPS = st.lists(arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 2)), min_size=2, max_size=4)


def _row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_pairwise_dice_by_hand() -> None:
    """a: 2*1/(2+2), 2*0/(2+1), 2*1/(2+1). b: nobody has it in the first two, the third has it alone."""
    members = [_row(1, 1, 0, 0), _row(0, 1, 1, 0), _row(0, 0, 1, 2)]
    found = measures.pairwise_dice(members, MASKS)
    assert found["a"] == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)
    assert found["b"] == pytest.approx((1 + 0 + 0) / 3), "both empty agree, one empty do not"


def test_volume_spread_by_hand() -> None:
    members = [_row(1, 1, 1, 2), _row(1, 0, 0, 2)]
    found = measures.volume_spread(members, {**MASKS, "c": (3,)})
    assert found == pytest.approx({"a": 1 / 2, "b": 0.0, "c": 0.0})


def test_regions_overlap() -> None:
    members = [_row(1, 2, 0), _row(2, 2, 0)]
    assert measures.pairwise_dice(members, {"whole": (1, 2), "core": (2,)}) == pytest.approx(
        {"whole": 1.0, "core": 2 / 3}
    )


def test_entropy_by_hand() -> None:
    p = np.array([[1.0, 0.25, 0.5], [0.0, 0.75, 0.5]]).reshape(2, 1, 1, 3)
    of_quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert measures.entropy_map(p, regions=False).ravel() == pytest.approx([0, of_quarter, 1], abs=1e-6)
    thirds = np.full((3, 1, 1, 1), 1 / 3)
    assert measures.entropy_map(thirds, regions=False).item() == pytest.approx(1, abs=1e-6)
    # of two regions, one in doubt and one certain
    p = np.array([0.5, 1.0]).reshape(2, 1, 1, 1)
    assert measures.entropy_map(p, regions=True).item() == pytest.approx(0.5, abs=1e-6)


def test_entropy_is_of_the_foreground_and_its_border() -> None:
    """Whatever lies further away does not count, and so does not how large the image is."""
    foreground = np.zeros((15, 9, 9), bool)
    foreground[4, 4, 4] = True
    p = np.zeros((2, 15, 9, 9), np.float32)
    p[0] = 1
    p[:, 4, 4, 4] = 0.5
    near = measures.around(foreground)
    assert near.sum() == 25, "voxels at most two steps from one"
    assert measures.entropy_near(foreground, p, False) == pytest.approx(1 / 25, abs=1e-6)
    p[:, 12, 4, 4] = 0.5
    assert measures.entropy_near(foreground, p, False) == pytest.approx(1 / 25, abs=1e-6)


def test_nothing_predicted_is_as_doubtful_as_its_most_doubtful_voxel() -> None:
    p = np.zeros((2, 4, 4, 4), np.float32)
    p[0] = 1
    nothing = np.zeros((4, 4, 4), np.uint8)
    assert measures.entropy_near(nothing > 0, p, False) == pytest.approx(0, abs=1e-6)
    p[:, 1, 2, 3] = 0.5
    found = measures.measure([nothing, nothing], nothing, p, MASKS, False)
    assert found.values() == pytest.approx({"pairwise_dice": 1, "entropy": 1, "volume_spread": 0}, abs=1e-6)


def test_one_member_has_only_an_entropy() -> None:
    found = measures.measure([_row(1, 0)], _row(1, 0), np.full((3, 1, 1, 2), 1 / 3), MASKS, False)
    assert set(found.values()) == {"entropy"}
    assert measures.mean_of([found, found]) == found


@settings(max_examples=60, deadline=None)
@given(LABEL_MAPS)
def test_any_members(members: list[np.ndarray]) -> None:
    """Dice as its definition says it, between 0 and 1, the same in any order and for images with a margin."""
    found = measures.pairwise_dice(members, MASKS)
    for name, values in MASKS.items():
        expected = []
        for a, b in itertools.combinations([{*np.flatnonzero(m == values[0])} for m in members], 2):
            expected.append(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
        assert found[name] == pytest.approx(np.mean(expected))
    assert measures.pairwise_dice(members[::-1], MASKS) == pytest.approx(found)
    wider = [np.pad(m, 3) for m in members]
    assert measures.pairwise_dice(wider, MASKS) == pytest.approx(found)
    assert measures.volume_spread(wider, MASKS) == pytest.approx(measures.volume_spread(members, MASKS))
    alike = measures.pairwise_dice([members[0]] * 3, MASKS)
    assert alike == {"a": 1.0, "b": 1.0}


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (3, 2, 2, 2), elements=st.floats(0, 1)), st.booleans())
def test_entropy_is_a_share(p: np.ndarray, regions: bool) -> None:
    if not regions:
        p = (p + 1e-9) / (p + 1e-9).sum(0)
    found = measures.entropy_map(p.astype(np.float16), regions)
    assert found.min() >= 0
    assert found.max() <= 1
    order = np.random.default_rng(0).permutation(3)
    assert measures.entropy_map(p[order].astype(np.float16), regions) == pytest.approx(found, abs=1e-6)
