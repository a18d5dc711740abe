"""The table of a study, on scores whose differences are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mamba.study.protocol import pairs

CASES = [f"case_{i:03}" for i in range(40)]
LABELS = ("Anterior", "Posterior")


def _scores(**shifts: float) -> pd.DataFrame:
    """A model's Dice of a case and label: 0.7, noise that all models share, noise of its own, and its shift"""
    shared = np.random.default_rng(0).normal(0, 0.1, (len(CASES), len(LABELS)))
    found = []
    for index, (model, shift) in enumerate(shifts.items()):
        own = np.random.default_rng(index + 1).normal(0, 0.01, shared.shape)
        for i, case in enumerate(CASES):
            for j, label in enumerate(LABELS):
                found.append((model, case, label, 0.7 + shared[i, j] + own[i, j] + shift))
            found.append((model, case, "all masks", -1.0))  # must not be averaged with the labels
    return pd.DataFrame(found, columns=["model", "case", "mask", "Dice"])


def test_differences_are_found_by_sign_and_size() -> None:
    scores = _scores(better=0.02, control=0.0, same=0.0, worse=-0.02)
    better, same, worse = pairs.rows(scores, [("better", "control"), ("same", "control"), ("worse", "control")])
    assert better.mean == pytest.approx(0.02, abs=0.005)
    assert better.low < better.mean < better.high
    assert better.corrected < pairs.SIGNIFICANT
    assert worse.mean == pytest.approx(-0.02, abs=0.005)
    assert worse.corrected < pairs.SIGNIFICANT
    assert same.corrected > pairs.SIGNIFICANT
    assert better.cases == len(CASES)
    assert better.of_model - better.of_control == pytest.approx(better.mean)
    text = pairs.in_words([better, same, worse], 3)
    assert "1 (better) is better than the control, 1 (worse) is worse; for 1 the difference" in text
    table = pairs.as_markdown([better, same, worse])
    assert "| better | control | 0.7" in table
    assert "< 0.001" in table


def test_a_pair_that_is_missing_makes_no_other_look_surer() -> None:
    scores = _scores(a=0.004, b=0.0)
    alone = pairs.rows(scores, [("a", "b")])[0]
    among = pairs.rows(scores, [("a", "b"), ("c", "d"), ("e", "b")])
    assert [r.model for r in among] == ["a"]
    assert among[0].p == alone.p
    assert among[0].corrected == pytest.approx(min(1, 3 * alone.p))
    assert "2 of 3 announced pairs have no scores yet" in pairs.in_words(among, 3)
    assert pairs.rows(scores, [("c", "d")]) == []


def test_cases_that_one_lacks_are_left_out() -> None:
    scores = _scores(a=0.1, b=0.0)
    scores = scores[(scores["model"] != "b") | (scores["case"] != CASES[0])]
    assert pairs.rows(scores, [("a", "b")])[0].cases == len(CASES) - 1


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.05, 0.05))
def test_turned_round_it_is_the_opposite(shift: float) -> None:
    scores = _scores(a=shift, b=0.0)
    on, back = pairs.rows(scores, [("a", "b")])[0], pairs.rows(scores, [("b", "a")])[0]
    assert on.mean == pytest.approx(-back.mean)
    assert on.p == pytest.approx(back.p, abs=0.01)


def test_seeds_of_models_that_have_several() -> None:
    means = pairs.spread({1: _scores(a=0.0, b=0.0), 2: _scores(a=0.02)})
    assert list(means.index) == ["a"]
    assert means.loc["a", 2] - means.loc["a", 1] == pytest.approx(0.02)
    assert pairs.standard_deviation(means) == pytest.approx(0.02 / 2**0.5)


def test_luck_is_what_seeds_alone_make_of_two_equal_models() -> None:
    draws = np.random.default_rng(0).normal(0.8, 0.01, (2000, 2))
    means = pd.DataFrame(draws[:50], columns=[1, 2])
    luck = pairs.largest_luck(means)
    differences = np.abs(draws[::2, 0] - draws[1::2, 0])
    assert np.mean(differences < luck) == pytest.approx(0.95, abs=0.03)  # 50 models estimate a deviation to a tenth
    assert pairs.largest_luck(means[:3]) != luck  # few models: fewer degrees of freedom


def test_only_differences_beyond_luck_are_named() -> None:
    found = pairs.rows(_scores(a=0.03, b=0.0, c=-0.05), [("a", "b"), ("c", "b")])
    assert "larger for c." in pairs.beyond_luck(found, 0.04)
    assert "larger for a, c." in pairs.beyond_luck(found, 0.01)
    text = "up to 0.1000 in 95 of 100 studies; the difference from the control is larger for none."
    assert text in pairs.beyond_luck(found, 0.1)
