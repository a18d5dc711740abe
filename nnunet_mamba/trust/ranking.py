"""How well a measure ranks cases: would those it doubts most be those with the lowest Dice?

Cases are taken from the surest on. Coverage is the share taken, risk their mean of 1 - Dice; the area under the risk
over the coverage (AURC, Geifman et al. 2019) is small for a measure that keeps the bad cases to the end. Sorting the
cases by their Dice itself gives the smallest area possible, sorting them at random the mean of 1 - Dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nnunet_mamba.study.evaluation.intervals import CONFIDENCE, SEED

RESAMPLES = 2000
"""Of the cases, for an interval"""


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval over cases; NaN where nothing can be said."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.3f}" if np.isnan(self.low) else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Ranking:
    """Of one measure over cases. best, chance: the AURC of sorting by Dice, and of sorting at random.

    p: how often shuffled cases have a rank correlation as high, by a permutation test.
    """

    aurc: Estimate
    excess: Estimate
    correlation: Estimate
    best: float
    chance: float
    p: float

    @property
    def beats_chance(self) -> bool:
        """Whether shuffled cases would hardly ever be ranked as well"""
        return self.p < (1 - CONFIDENCE) / 2

    @property
    def of_the_way(self) -> float:
        """From chance (0) to the best ranking possible (1); below 0 worse than chance, NaN if all cases are alike"""
        room = self.chance - self.best
        return (self.chance - self.aurc.value) / room if room > 1e-12 else float("nan")


def rank(doubts: Sequence[float] | np.ndarray, dice: Sequence[float] | np.ndarray) -> Ranking:
    """doubts: more is worse. Raises ValueError for fewer than two cases."""
    doubts, risk = np.asarray(doubts, float), 1 - np.asarray(dice, float)
    if len(risk) < 2:
        raise ValueError(f"{len(risk)} case: a ranking needs two or more")
    random = np.random.default_rng(SEED)
    chosen = random.integers(0, len(risk), (RESAMPLES, len(risk)))
    resampled = doubts[chosen], risk[chosen]
    areas, smallest = _aurcs(*resampled), _aurcs(resampled[1], resampled[1])
    value, best = aurc(doubts, risk), aurc(risk, risk)
    correlation = float(_correlations(doubts[None], risk[None])[0])
    shuffled = _correlations(random.permuted(np.tile(doubts, (RESAMPLES, 1)), axis=1), np.tile(risk, (RESAMPLES, 1)))
    as_high = (1 + int((shuffled >= correlation - 1e-12).sum())) / (1 + RESAMPLES)
    return Ranking(
        _estimate(value, areas),
        _estimate(value - best, areas - smallest),
        _estimate(correlation, _correlations(*resampled)),
        best,
        float(risk.mean()),
        1.0 if np.isnan(correlation) else as_high,
    )


def risk_coverage(doubts: np.ndarray, risk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage 1/n, 2/n, ..., 1 and the mean risk of the surest cases up to each.

    Cases with the same doubt come in no order: each stands for their mean, which is what shuffling gives on average.
    """
    return np.arange(1, len(risk) + 1) / len(risk), _risks(doubts[None], risk[None])[0]


def aurc(doubts: np.ndarray, risk: np.ndarray) -> float:
    """Mean of the risk over all coverages"""
    return float(_aurcs(doubts[None], risk[None])[0])


def _aurcs(doubts: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Of each row of (samples n)"""
    return _risks(doubts, risk).mean(1)


def _risks(doubts: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """(samples n) -> (samples n): mean of the first, the first two, ... in the order of doubt"""
    samples, n = risk.shape
    _, group = np.unique(doubts, return_inverse=True)
    group = group.reshape(samples, n)
    groups = int(group.max()) + 1
    at = (group + groups * np.arange(samples)[:, None]).ravel()
    sums, counts = np.bincount(at, risk.ravel(), samples * groups), np.bincount(at, minlength=samples * groups)
    means = (sums / np.maximum(counts, 1)).reshape(samples, groups)
    levelled = np.take_along_axis(means, np.sort(group, 1), 1)
    return levelled.cumsum(1) / np.arange(1, n + 1)


def _correlations(doubts: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Spearman's of each row, doubt with risk, which is that of sureness with Dice; NaN where either is constant"""
    a, b = (stats.rankdata(x, axis=1) for x in (doubts, risk))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), spread, out=np.full(len(a), np.nan), where=spread > 0)


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    """With the percentile interval; resamples in which the statistic is not defined do not count"""
    there = resampled[np.isfinite(resampled)]
    if len(there) < RESAMPLES / 2 or np.ptp(there) == 0:
        return Estimate(value, float("nan"), float("nan"))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(there, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
