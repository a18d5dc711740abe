"""Which cases to look at: a limit for a measure, and what it catches among cases that it was not chosen on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from nnunet_mamba.study.calibration.gain import groups_of
from nnunet_mamba.study.evaluation.intervals import CONFIDENCE
from nnunet_mamba.trust.ranking import aurc

WORST_SHARE = 0.2
"""Without a wish, a failure is a case among this share of the lowest Dice."""
ENOUGH = 10
"""With fewer failures, a catch rate says little."""


@dataclass(frozen=True)
class Catch:
    """What looking at the doubted cases finds, each judged by a limit chosen without its group."""

    failures: int
    caught: int
    looked: int
    cases: int

    @property
    def rate(self) -> float:
        """Share of the failures that are caught; NaN without failures"""
        return self.caught / self.failures if self.failures else float("nan")

    @property
    def in_vain(self) -> int:
        """Cases looked at that are no failures"""
        return self.looked - self.caught

    def __str__(self) -> str:
        if not self.failures:
            return f"no failure among {self.cases} cases"
        low, high = proportion_confint(self.caught, self.failures, 1 - CONFIDENCE, method="beta")
        return (
            f"{self.caught} of {self.failures} failures ({self.rate:.0%}, {CONFIDENCE:.0%} interval {low:.0%} to "
            f"{high:.0%}) by looking at {self.looked} of {self.cases} cases, {self.in_vain} of them in vain"
        )


def failing_below(dice: Sequence[float] | np.ndarray) -> float:
    """The Dice below which a case is one of the worst `WORST_SHARE`"""
    return float(np.quantile(np.asarray(dice, float), WORST_SHARE))


def limit_that_catches(doubts: np.ndarray, failed: np.ndarray, share: float) -> float | None:
    """The highest doubt from which on at least this share of the failures lie; None where there is no failure."""
    of_failures = np.sort(doubts[failed])[::-1]
    if len(of_failures) == 0:
        return None
    return float(of_failures[math.ceil(share * len(of_failures) - 1e-9) - 1])


def best_measure(doubts: Mapping[str, np.ndarray], risk: np.ndarray) -> str:
    """The one with the smallest AURC, of equals the first"""
    return min(doubts, key=lambda name: aurc(doubts[name], risk))


@dataclass(frozen=True)
class HeldOut:
    """Which cases would have been looked at, had each been a new one. catch: what that finds."""

    looked: np.ndarray
    catch: Catch


def held_out(
    doubts: Mapping[str, np.ndarray], dice: np.ndarray, groups: Sequence[str], below: float, share: float
) -> HeldOut:
    """Measure (of those given) and limit are chosen for each group on the others.

    A group whose others have no failure has no limit, and none of its cases is looked at.
    """
    of_group, failed, looked = np.asarray(groups), dice < below, np.zeros(len(dice), bool)
    for group in sorted(set(groups)):
        others = of_group != group
        name = best_measure({n: d[others] for n, d in doubts.items()}, 1 - dice[others])
        limit = limit_that_catches(doubts[name][others], failed[others], share)
        if limit is not None:
            looked |= ~others & (doubts[name] >= limit)
    catch = Catch(int(failed.sum()), int((failed & looked).sum()), int(looked.sum()), len(dice))
    return HeldOut(looked, catch)


def groups(cases: Sequence[str], folds: Sequence[str]) -> list[str]:
    """Each case's fold, or part of the only one; one of a kind where there are two or more cases."""
    found = groups_of(dict(zip(cases, folds, strict=True)))
    return [found[case] for case in cases]
