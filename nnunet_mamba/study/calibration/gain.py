"""The values (thresholds, sizes) with the best mean score, and what they gain on cases they were not chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_mamba.study.calibration.scores import DEFAULT, GRID
from nnunet_mamba.study.evaluation.intervals import CONFIDENCE, mean_interval

GROUPS = 5
"""Number of groups that the cases of a single fold are split into."""


@dataclass(frozen=True)
class Gain:
    """Mean change per case, with a bootstrap confidence interval; NaN bounds where all cases change alike."""

    mean: float
    low: float
    high: float
    cases: int

    def __str__(self) -> str:
        interval = (
            f"{CONFIDENCE:.0%} interval {self.low:+.4f} to {self.high:+.4f}" if self.varies else "the same for all"
        )
        return f"{self.mean:+.4f} ({interval}, {self.cases} cases)"

    @property
    def varies(self) -> bool:
        """Whether there is an interval"""
        return not np.isnan(self.low)

    @property
    def is_certain(self) -> bool:
        """Whether the whole interval is above zero"""
        return self.low > 0


def best_values(scores: Sequence[np.ndarray], grid: np.ndarray = GRID, default: float = DEFAULT) -> tuple[float, ...]:
    """scores: per case (values chosen, grid). Of equally good values the nearest to the default."""
    means = np.mean(np.stack(scores), axis=0)
    distance = np.abs(grid - default)
    return tuple(float(grid[np.lexsort((distance, -row.round(12)))[0]]) for row in means)


def groups_of(folds: Mapping[str, str]) -> dict[str, str]:
    """Case -> group, of which each is held out in turn: the folds, or parts of the only one."""
    if len(set(folds.values())) > 1:
        return dict(folds)
    cases = sorted(folds)
    return {case: f"part {i % min(GROUPS, len(cases))}" for i, case in enumerate(cases)}


def held_out(
    scores: Mapping[str, np.ndarray], groups: Mapping[str, str], grid: np.ndarray = GRID, default: float = DEFAULT
) -> dict[str, tuple[float, ...]]:
    """For every case the values chosen without its group. Raises ValueError for fewer than two groups."""
    if len(set(groups.values())) < 2:
        raise ValueError(f"{len(scores)} case: a gain needs cases on which nothing was chosen")
    chosen = {
        group: best_values([s for case, s in scores.items() if groups[case] != group], grid, default)
        for group in set(groups.values())
    }
    return {case: chosen[groups[case]] for case in scores}


def gain(before: Sequence[float], after: Sequence[float]) -> Gain:
    """Mean of the paired differences and its bias-corrected bootstrap interval (Efron 1987)."""
    differences = np.asarray(after) - np.asarray(before)
    return Gain(float(differences.mean()), *mean_interval(differences), len(differences))
