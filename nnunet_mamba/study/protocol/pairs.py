"""The table of a study: every network against its control, case by case, and what another seed changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_mamba import markdown
from nnunet_mamba.study.comparison.differences import permutation_p
from nnunet_mamba.study.comparison.scores import ALL_MASKS
from nnunet_mamba.study.evaluation.intervals import mean_interval

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Row:
    """model - control over `cases`: mean with its 95 % bootstrap interval; p of the permutation test, and after Holm"""

    model: str
    control: str
    cases: int
    of_model: float
    of_control: float
    mean: float
    low: float
    high: float
    p: float
    corrected: float = float("nan")


def per_case(scores: pd.DataFrame, metric: str = "Dice") -> pd.DataFrame:
    """scores.csv of `nnunet-mamba compare` -> mean over the labels: rows are cases, columns models"""
    of_labels = scores[scores["mask"] != ALL_MASKS]
    return of_labels.pivot_table(index="case", columns="model", values=metric, aggfunc="mean")


def rows(scores: pd.DataFrame, pairs: Sequence[Sequence[str]], metric: str = "Dice") -> list[Row]:
    """One for each pair (model, control) that `scores` has; Holm's correction over all that were announced.

    A pair without scores counts as one with p = 1: leaving it out must not make the others look surer.
    """
    values = per_case(scores, metric)
    found: list[Row] = []
    for model, control in pairs:
        if model not in values or control not in values:
            continue
        both = values[[model, control]].dropna()
        change = np.asarray(both[model] - both[control])
        found.append(
            Row(model, control, len(both), float(both[model].mean()), float(both[control].mean()),
                float(change.mean()), *mean_interval(change), permutation_p(change))
        )  # fmt: skip
    if not found:
        return []
    missing = [1.0] * (len(pairs) - len(found))
    corrected: Any = multipletests([*(r.p for r in found), *missing], method="holm")[1]
    return [replace(r, corrected=float(p)) for r, p in zip(found, corrected[: len(found)], strict=True)]


def spread(of_seeds: Mapping[int, pd.DataFrame], metric: str = "Dice") -> pd.DataFrame:
    """scores by seed -> a model's mean with every seed, of the models that were trained with more than one"""
    means = pd.DataFrame({seed: per_case(scores, metric).mean() for seed, scores in of_seeds.items()})
    return means.loc[means.notna().sum(axis=1) > 1]


def as_markdown(found: Sequence[Row], metric: str = "Dice") -> str:
    """A row per pair, in the order of the announcement"""
    head = (
        "network", "control", metric, f"{metric} of the control", "difference", "95 % interval", "p", "p after Holm",
        "cases",
    )  # fmt: skip
    lines = [
        (r.model, r.control, f"{r.of_model:.4f}", f"{r.of_control:.4f}", f"{r.mean:+.4f}",
         f"{r.low:+.4f} to {r.high:+.4f}", _p(r.p), _p(r.corrected), str(r.cases))
        for r in found
    ]  # fmt: skip
    return markdown.table(head, lines)


def in_words(found: Sequence[Row], announced: int) -> str:
    """What the table says, one sentence each way"""
    better = [r.model for r in found if r.corrected < SIGNIFICANT and r.mean > 0]
    worse = [r.model for r in found if r.corrected < SIGNIFICANT and r.mean < 0]
    rest = len(found) - len(better) - len(worse)
    text = (
        f"Of {len(found)} networks {_named(better)} better than the control, {_named(worse)} worse; for {rest} the "
        f"difference could not be told from chance (p after Holm below {SIGNIFICANT:g})."
    )
    lacking = announced - len(found)
    return text + (f" {lacking} of {announced} announced pairs have no scores yet." if lacking else "")


def standard_deviation(means: pd.DataFrame) -> float:
    """Of one model's mean over seeds, pooled over models"""
    variances = means.var(axis=1, ddof=1)
    return float(np.sqrt(variances.mean()))


def largest_luck(means: pd.DataFrame, confidence: float = 0.95) -> float:
    """By how much the means of two models differ through their seeds alone, in `confidence` of all trainings of two.

    Student's t with the degrees of freedom of `standard_deviation`, times sqrt(2). A case-wise p-value knows nothing of
    it: it says that another sample of cases would show the same difference between these two trainings.
    """
    freedom = int((means.notna().sum(axis=1) - 1).sum())
    return float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(2) * standard_deviation(means))


def beyond_luck(found: Sequence[Row], luck: float) -> str:
    """Which differences are larger than that, in words"""
    larger = [r.model for r in found if abs(r.mean) > luck]
    return (
        f"Through their seeds alone two models differ by up to {luck:.4f} in 95 of 100 studies; the difference from "
        f"the control is larger for {', '.join(larger) if larger else 'none'}."
    )


def _named(names: Sequence[str]) -> str:
    if not names:
        return "none is"
    return f"{len(names)} ({', '.join(names)}) {'is' if len(names) == 1 else 'are'}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
