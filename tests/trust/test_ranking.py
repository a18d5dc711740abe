"""Risk, coverage and rank correlation against brute force and known extremes; limits, and what they catch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnunet_mamba.trust import looking, ranking

FEW = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10)), min_size=2, max_size=5)


def _every_order(doubts: np.ndarray, risk: np.ndarray) -> list[float]:
    """AURC of every order that sorts by doubt"""
    found = []
    for order in itertools.permutations(range(len(risk))):
        if all(doubts[a] <= doubts[b] for a, b in itertools.pairwise(order)):
            found.append(float(np.mean([np.mean(risk[list(order[:k])]) for k in range(1, len(order) + 1)])))
    return found


@settings(max_examples=80, deadline=None)
@given(FEW)
def test_aurc_is_the_mean_over_every_order_of_ties(cases: list[tuple[int, int]]) -> None:
    doubts, risk = np.array([float(d) for d, _ in cases]), np.array([r / 10 for _, r in cases])
    assert ranking.aurc(doubts, risk) == pytest.approx(np.mean(_every_order(doubts, risk)))
    best, worst = ranking.aurc(risk, risk), ranking.aurc(-risk, risk)
    assert best - 1e-12 <= ranking.aurc(doubts, risk) <= worst + 1e-12
    assert ranking.aurc(np.zeros(len(risk)), risk) == pytest.approx(risk.mean()), "no ranking is chance"


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = ranking.risk_coverage(np.array([3.0, 1.0, 2.0]), np.array([0.9, 0.0, 0.3]))
    assert coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk == pytest.approx([0, 0.15, 0.4])


def test_a_perfect_ranking() -> None:
    dice = np.linspace(0.2, 0.95, 40)
    found = ranking.rank(-dice, dice)
    assert found.correlation.value == pytest.approx(1)
    assert found.excess.value == pytest.approx(0)
    assert found.aurc.value == pytest.approx(found.best)
    assert found.of_the_way == pytest.approx(1)
    assert found.beats_chance
    assert not ranking.rank([1.0, 2.0, 3.0], [0.9, 0.8, 0.7]).beats_chance, "one of six orders of three"


def test_an_upside_down_ranking() -> None:
    dice = np.linspace(0.2, 0.95, 40)
    found = ranking.rank(dice, dice)
    assert found.correlation.value == pytest.approx(-1)
    assert found.aurc.value > found.chance
    assert not found.beats_chance


def test_random_rankings_are_chance() -> None:
    """On average; and hardly ever taken for better than chance"""
    random = np.random.default_rng(0)
    dice = random.uniform(0.3, 1, 60)
    found = [ranking.aurc(random.permutation(60).astype(float), 1 - dice) for _ in range(400)]
    assert np.mean(found) == pytest.approx(float((1 - dice).mean()), abs=0.01)
    mistaken = sum(ranking.rank(random.uniform(size=60), dice).beats_chance for _ in range(8))
    assert mistaken <= 2


def test_the_correlation_is_scipys_and_its_interval_holds_the_truth() -> None:
    random = np.random.default_rng(1)
    truth = random.normal(size=20_000)
    seen = truth + random.normal(size=20_000)
    of_all = float(stats.spearmanr(truth, seen).statistic)
    inside = 0
    for start in range(0, 20_000, 2000):
        part = slice(start, start + 50)
        found = ranking.rank(-seen[part], truth[part]).correlation
        assert found.value == pytest.approx(float(stats.spearmanr(seen[part], truth[part]).statistic))
        inside += found.low <= of_all <= found.high
    assert inside >= 8, "of 10 intervals of 95 %"


def test_cases_all_alike_have_no_ranking() -> None:
    found = ranking.rank(np.array([0.1, 0.2, 0.3]), np.ones(3))
    assert (found.aurc.value, found.best, found.chance) == (0, 0, 0)
    assert np.isnan([found.correlation.value, found.of_the_way]).all()
    assert not found.beats_chance
    assert str(found.correlation) == "-"
    with pytest.raises(ValueError, match="1 case: a ranking needs two or more"):
        ranking.rank([0.1], [0.9])


def test_a_limit_catches_its_share() -> None:
    doubts = np.array([9.0, 7.0, 8.0, 5.0, 1.0, 6.0])
    failed = np.array([True, True, False, True, False, True])  # at 9, 7, 6, 5
    assert looking.limit_that_catches(doubts, failed, 1.0) == 5
    assert looking.limit_that_catches(doubts, failed, 0.75) == 6
    assert looking.limit_that_catches(doubts, failed, 0.5) == 7
    assert looking.limit_that_catches(doubts, failed, 0.01) == 9
    assert looking.limit_that_catches(doubts, np.zeros(6, bool), 0.9) is None


@settings(max_examples=80, deadline=None)
@given(FEW, st.floats(0.01, 1))
def test_any_limit_catches_its_share_where_it_was_chosen(cases: list[tuple[int, int]], share: float) -> None:
    doubts, failed = np.array([float(d) for d, _ in cases]), np.array([r < 5 for _, r in cases])
    limit = looking.limit_that_catches(doubts, failed, share)
    assert (limit is None) == (not failed.any())
    if limit is not None:
        assert (doubts[failed] >= limit).mean() >= share - 1e-9


def test_what_is_caught_is_judged_on_others() -> None:
    """Two folds whose doubts have another scale: the limit of one is useless in the other, and that shows."""
    dice = np.array([0.2, 0.9, 0.9, 0.9] * 2)
    doubts = np.array([4.0, 1, 2, 3, 40, 10, 20, 30])
    folds = ["0"] * 4 + ["1"] * 4
    found = looking.held_out({"entropy": doubts}, dice, folds, 0.5, 1.0)
    assert list(found.looked) == [False] * 4 + [True] * 4
    assert (found.catch.failures, found.catch.caught, found.catch.looked, found.catch.in_vain) == (2, 1, 4, 3)
    assert found.catch.rate == 0.5
    assert str(found.catch).startswith("1 of 2 failures (50%, 95% interval 1% to 99%) by looking at 4 of 8 cases, 3 of")


def test_the_measure_is_chosen_on_others_too() -> None:
    """One that is right in fold 0 only would be chosen for fold 1, where it is wrong."""
    dice = np.array([0.2, 0.9, 0.8, 0.7] * 2)
    lucky = np.concatenate([1 - dice[:4], dice[4:]])
    steady = 1 - dice
    assert looking.best_measure({"lucky": lucky, "steady": steady}, 1 - dice) == "steady"
    found = looking.held_out({"lucky": lucky, "steady": steady}, dice, ["0"] * 4 + ["1"] * 4, 0.5, 1.0)
    assert found.catch.caught == 1, "the failure of fold 1 is missed: on fold 0 both are alike and the first is taken"


def test_no_failure_no_look() -> None:
    dice = np.ones(6)
    assert not (dice < looking.failing_below(dice)).any()
    found = looking.held_out({"entropy": np.arange(6.0)}, dice, ["0"] * 3 + ["1"] * 3, 1.0, 0.9)
    assert not found.looked.any()
    assert np.isnan(found.catch.rate)
    assert str(found.catch) == "no failure among 6 cases"
