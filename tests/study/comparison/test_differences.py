"""Intervals and p-values against closed forms, brute force and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnunet_mamba.study.comparison.cases import Groups
from nnunet_mamba.study.comparison.differences import differences, paired, permutation_p, wilcoxon_p
from nnunet_mamba.study.evaluation.evaluate import INDEX
from nnunet_mamba.study.evaluation.intervals import mean_interval


def _table(values: dict[str, list[float]], cases: list[str] | None = None) -> pd.DataFrame:
    """One metric, Dice, of some masks"""
    names = cases or [f"case{i:02d}" for i in range(len(next(iter(values.values()))))]
    rows = [
        {"case": c, "mask": m, "Dice": v} for m, scores in values.items() for c, v in zip(names, scores, strict=True)
    ]
    return pd.DataFrame(rows).set_index(INDEX)


def test_exact_permutation_is_the_enumeration_of_all_signs() -> None:
    change = np.array([0.3, -0.1, 0.25, 0.4, 0.05, -0.02, 0.31])
    means = [np.mean(change * signs) for signs in itertools.product((1, -1), repeat=len(change))]
    right = np.mean(np.array(means) >= change.mean() - 1e-12)
    left = np.mean(np.array(means) <= change.mean() + 1e-12)
    assert permutation_p(change) == pytest.approx(2 * min(left, right))


def test_identical_candidates_differ_in_nothing() -> None:
    assert permutation_p(np.zeros(9)) == wilcoxon_p(np.zeros(9)) == 1.0
    assert all(np.isnan(f(np.array([]))) for f in (permutation_p, wilcoxon_p))
    assert all(f(np.array([0.3])) == 1 for f in (permutation_p, wilcoxon_p)), "one case shows nothing"
    assert all(np.isnan(mean_interval([0.5] * 4)))
    assert all(np.isnan(mean_interval([0.5])))


def test_two_cases_are_enough_for_a_p() -> None:
    assert permutation_p(np.array([0.1, 0.2])) == pytest.approx(0.5), "2 of 4 signs"
    assert permutation_p(np.array([0.1, 0.2, 0.1])) == pytest.approx(0.25)


def test_wilcoxon_is_scipys_where_nothing_is_zero() -> None:
    change = np.random.default_rng(1).normal(0.1, 0.2, 30)
    assert wilcoxon_p(change) == pytest.approx(stats.wilcoxon(change).pvalue)


def test_wilcoxon_shares_zeros_as_pratt_does() -> None:
    """Ranks of all differences, zeros among them; only those that are not zero are summed (Pratt 1959)"""
    random = np.random.default_rng(4)
    change = np.concatenate([random.normal(0.1, 0.2, 70), np.zeros(20)])
    n, zeros = len(change), 20
    ranks = stats.rankdata(np.abs(change))
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    deviation = np.sqrt((n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24)
    z = (ranks[change > 0].sum() - mean) / deviation
    assert wilcoxon_p(change) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-6)
    without = wilcoxon_p(change[:70])
    assert abs(without - wilcoxon_p(change)) > 1e-5, "leaving zeros out gives another number"


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """150 samples of 25 skewed values: 95% nominal; the bootstrap of so few is known to be a little short."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(150):
        low, high = mean_interval(random.exponential(1.0, 25))
        inside += low <= 1.0 <= high
    assert 0.86 <= inside / 150 <= 0.99


def test_false_alarms_under_no_difference() -> None:
    """Of 200 comparisons of equal candidates about one in twenty is below 0.05: 3 to 20, at 99.9%."""
    random = np.random.default_rng(2)
    alarms = sum(permutation_p(random.normal(0, 1, 12)) < 0.05 for _ in range(200))
    assert 1 <= alarms <= 22


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1)), min_size=1, max_size=20))
def test_patients_count_once(entries: list[tuple[int, float]]) -> None:
    groups = [f"p{g}" for g, _ in entries]
    change = np.array([d for _, d in entries])
    found = paired(np.zeros(len(entries)), change, groups)
    expected = [change[[g == name for g in groups]].mean() for name in sorted(set(groups))]
    assert np.allclose(found, expected, atol=1e-12)


def test_cases_without_a_value_are_left_out() -> None:
    assert paired(np.array([0.1, np.nan, 0.3]), np.array([0.2, 0.4, np.nan]), ["a", "b", "c"]) == pytest.approx([0.1])


def test_pairs_families_and_correction() -> None:
    random = np.random.default_rng(3)
    base = random.uniform(0.5, 0.8, 20)
    tables = {
        "a": _table({"all": list(base), "x": list(base)}),
        "b": _table({"all": list(base + random.normal(0.05, 0.02, 20)), "x": list(base)}),
        "c": _table({"all": list(base + random.normal(0, 0.02, 20)), "x": list(base)}),
    }
    found = differences(tables, ["Dice"], ["all", "x"], Groups(), "permutation")
    assert [(d.first, d.second) for d in found if d.primary] == [("a", "b"), ("a", "c"), ("b", "c")]
    by_pair = {(d.first, d.second): d for d in found if d.primary}
    ab = by_pair["a", "b"]
    assert ab.mean == pytest.approx(float((tables["b"]["Dice"] - tables["a"]["Dice"]).xs("all", level="mask").mean()))
    assert ab.low < 0.05 < ab.high
    assert ab.units == 20
    raw = sorted(d.permutation for d in by_pair.values())
    holm = np.minimum(1, np.maximum.accumulate([p * (3 - i) for i, p in enumerate(raw)]))
    assert sorted(d.corrected for d in by_pair.values()) == pytest.approx(list(holm))
    assert all(d.corrected == 1 for d in found if not d.primary), "the second mask is the same for all"


def test_order_of_cases_does_not_matter() -> None:
    first = _table({"all": [0.1, 0.5, 0.9]}, ["a", "b", "c"])
    second = _table({"all": [0.9, 0.6, 0.2]}, ["c", "b", "a"])
    (found,) = differences({"f": first, "s": second}, ["Dice"], ["all"], Groups(), "wilcoxon")
    assert found.mean == pytest.approx((0.1 + 0.1 + 0.0) / 3)


def test_cases_are_paired_by_name() -> None:
    """The mean of differences is the same in any order; their spread is not"""
    values = [0.1, 0.5, 0.9, 0.3]
    names = ["a", "b", "c", "d"]
    first = _table({"all": values}, names)
    second = _table({"all": [v + 0.1 for v in reversed(values)]}, names[::-1])
    (found,) = differences({"f": first, "s": second}, ["Dice"], ["all"], Groups(), "permutation")
    assert found.mean == pytest.approx(0.1)
    assert found.permutation == pytest.approx(2 / 16), "all four are better by the same"


def test_unknown_test_is_refused() -> None:
    with pytest.raises(ValueError, match="-test t; expected one of permutation, wilcoxon"):
        differences({}, ["Dice"], ["all"], Groups(), "t")
