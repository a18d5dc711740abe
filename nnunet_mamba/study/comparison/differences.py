"""Paired differences between candidates: intervals, p-values, corrected for their number.

Cases of one patient are averaged first: patients are independent of each other, cases need not be.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_mamba.study.comparison import TESTS
from nnunet_mamba.study.comparison.cases import Groups
from nnunet_mamba.study.evaluation.intervals import SEED, mean_interval

PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Difference:
    """second - first of one metric and mask. p: of both tests; corrected: the chosen test's, after Holm."""

    metric: str
    mask: str
    first: str
    second: str
    units: int
    mean: float
    low: float
    high: float
    permutation: float
    wilcoxon: float
    corrected: float = float("nan")
    primary: bool = False


def paired(first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Differences second - first, one per patient, of cases where both have a value"""
    change = pd.Series(np.asarray(second, float) - np.asarray(first, float), index=list(groups)).dropna()
    means: Any = change.groupby(level=0, sort=True).mean()
    return means.to_numpy()


def permutation_p(differences: np.ndarray) -> float:
    """Two-sided p of the mean under random signs, exact where there are few; 1 if nothing differs, NaN for nobody."""
    if len(differences) < 2 or not np.any(differences):
        return float("nan") if len(differences) == 0 else 1.0
    zeros = np.zeros_like(differences)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(a - b, axis=axis)

    found = stats.permutation_test(
        (differences, zeros), statistic, permutation_type="samples", vectorized=True, n_resamples=PERMUTATIONS,
        alternative="two-sided", rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(found.pvalue)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p of the signed ranks, ties with zero shared (Pratt 1959); 1 if nothing differs."""
    if len(differences) == 0 or not np.any(differences):
        return float("nan") if len(differences) == 0 else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small samples, which the number of units shows
        found: Any = stats.wilcoxon(differences, zero_method="pratt")
        return float(found.pvalue)


def differences(
    tables: Mapping[str, pd.DataFrame], metrics: Sequence[str], masks: Sequence[str], groups: Groups, test: str
) -> list[Difference]:
    """All pairs of candidates, metrics and masks.

    masks: the first is that of the primary question, asked of the first metric. Holm's correction is made twice: over
    the pairs of the primary question, and over everything else.
    """
    if test not in TESTS:
        raise ValueError(f"-test {test}; expected one of {', '.join(TESTS)}")
    found = []
    for metric, mask, (first, second) in itertools.product(metrics, masks, itertools.combinations(tables, 2)):
        a, b = (tables[name][metric].xs(mask, level="mask") for name in (first, second))
        change = paired(a.to_numpy(), b.loc[a.index].to_numpy(), groups.patients(list(a.index)))
        mean = float(change.mean()) if len(change) else float("nan")
        found.append(Difference(metric, mask, first, second, len(change), mean, *mean_interval(change),
                                permutation_p(change), wilcoxon_p(change),
                                primary=(metric, mask) == (metrics[0], masks[0])))  # fmt: skip
    return [*_corrected([d for d in found if d.primary], test), *_corrected([d for d in found if not d.primary], test)]


def _corrected(family: list[Difference], test: str) -> list[Difference]:
    """Holm (1979); what could not be tested is not counted"""
    values = np.array([getattr(d, test) for d in family], float)
    known = np.flatnonzero(np.isfinite(values))
    corrected = np.full(len(family), np.nan)
    if len(known):
        corrected[known] = multipletests(values[known], method="holm")[1]
    return [replace(d, corrected=float(p)) for d, p in zip(family, corrected, strict=True)]
