"""Scores at many thresholds, and the choice among them, against doing it one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_mamba.study.calibration import gain
from nnunet_mamba.study.calibration.scores import DEFAULT, GRID, METRICS, over_thresholds, overlap

PROBABILITIES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([float(np.float32(g)) for g in GRID]))


@given(
    probability=arrays(np.float32, (3, 4), elements=PROBABILITIES),
    truth=arrays(bool, (3, 4)),
    metric=st.sampled_from(sorted(METRICS)),
)
def test_all_thresholds_at_once_are_each_by_itself(probability: np.ndarray, truth: np.ndarray, metric: str) -> None:
    at_once = over_thresholds(metric, probability, truth)
    for t, score in zip(GRID, at_once, strict=True):
        mask = probability > float(t)  # as nnU-Net compares: in the probabilities' type
        assert score == pytest.approx(
            float(overlap(metric, np.asarray((mask & truth).sum()), np.asarray(mask.sum()), int(truth.sum())))
        )


def test_metrics_are_what_their_names_say() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    mask = np.array([1, 1, 1, 0, 1, 1, 0, 0], bool)  # precision 3/5, recall 3/4
    counts = np.asarray(3), np.asarray(5), 4
    dice, iou, f2, half = (float(overlap(m, *counts)) for m in ("Dice", "IoU", "F2", "F0.5"))
    assert (mask & truth).sum() == 3
    assert dice == pytest.approx(6 / 9)
    assert iou == pytest.approx(3 / 6)
    assert f2 == pytest.approx(5 * (3 / 5) * (3 / 4) / (4 * 3 / 5 + 3 / 4))
    assert half == pytest.approx(1.25 * (3 / 5) * (3 / 4) / (0.25 * 3 / 5 + 3 / 4))
    assert float(overlap("Dice", np.asarray(0), np.asarray(0), 0)) == 1.0
    assert float(overlap("Dice", np.asarray(0), np.asarray(2), 0)) == 0.0
    assert [float(overlap(m, np.asarray(0), np.asarray(0), 2)) for m in METRICS] == [0.0] * len(METRICS)
    assert DEFAULT in GRID


def _case(best: float) -> np.ndarray:
    return -np.abs(GRID - best)[None]


def test_the_best_mean_wins_and_ties_go_to_the_middle() -> None:
    assert gain.best_values([_case(0.3), _case(0.3), _case(0.7)]) == (0.3,)
    assert gain.best_values([np.zeros((2, len(GRID)))]) == (0.5, 0.5)


def test_a_case_has_no_say_in_its_own_threshold() -> None:
    scores = {"a": _case(0.2), "b": _case(0.2), "c": _case(0.8), "d": _case(0.8)}
    groups = {"a": "0", "b": "0", "c": "1", "d": "1"}
    assert gain.held_out(scores, groups) == {"a": (0.8,), "b": (0.8,), "c": (0.2,), "d": (0.2,)}
    with pytest.raises(ValueError, match="1 case: a gain needs cases"):
        gain.held_out({"a": _case(0.2)}, {"a": "0"})


def test_folds_are_groups_and_a_single_fold_is_cut() -> None:
    assert gain.groups_of({"a": "0", "b": "1"}) == {"a": "0", "b": "1"}
    alone = gain.groups_of(dict.fromkeys("abcdefg", "0"))
    assert len(set(alone.values())) == gain.GROUPS
    assert len(set(gain.groups_of({"a": "0", "b": "0"}).values())) == 2


def test_the_interval_covers_the_true_gain_as_often_as_it_says() -> None:
    """200 samples of 30 cases with a true gain of 0.02: a 95 % interval misses 10, give or take."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = gain.gain(np.zeros(30), rng.normal(0.02, 0.05, 30))
        covered += found.low <= 0.02 <= found.high
    assert 180 <= covered <= 199


def test_gains_that_are_all_alike_have_no_interval() -> None:
    found = gain.gain([0.5, 0.5], [0.5, 0.5])
    assert found.mean == 0
    assert math.isnan(found.low)
    assert not found.is_certain


def test_a_gain_is_certain_only_if_its_whole_interval_is_above_zero() -> None:
    few_gain_much = gain.gain([0.5] * 6, [0.9, 0.4, 0.45, 0.5, 0.6, 0.3])
    assert few_gain_much.mean > 0 > few_gain_much.low
    assert not few_gain_much.is_certain
    all_gain = gain.gain([0.5] * 6, [0.6, 0.62, 0.58, 0.61, 0.6, 0.59])
    assert all_gain.is_certain
