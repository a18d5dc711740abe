"""What is found, as tables of text: for the page and for Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunet_mamba.study.comparison.candidates import Candidate
from nnunet_mamba.study.comparison.cases import Groups
from nnunet_mamba.study.comparison.differences import Difference
from nnunet_mamba.study.comparison.scores import mean_name
from nnunet_mamba.study.comparison.training import FoldRecord
from nnunet_mamba.study.evaluation.empty_masks import EmptyRule
from nnunet_mamba.study.evaluation.evaluate import MARK, empty_in_words, set_by_rule
from nnunet_mamba.study.evaluation.intervals import CONFIDENCE, mean_interval
from nnunet_mamba.study.evaluation.metrics import find

WORST = 5
UNKNOWN = "-"
Tables = Mapping[str, pd.DataFrame]
"""Candidate -> cases x masks by metrics"""


@dataclass(frozen=True)
class Table:
    """Text, ready to be shown."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary(tables: Tables, metrics: Sequence[str], masks: Sequence[str], rule: EmptyRule) -> Table:
    """Mean ± standard deviation over cases, and the mean's interval; marked where values are set for empty masks."""
    rows, marked = [], []
    for mask in masks:
        for name, table in tables.items():
            values = table.xs(mask, level="mask")
            cells = (_mean_with_interval(table, mask, m) for m in metrics)
            rows.append((mask, name, *cells, _counts(values[list(metrics)])))
            if any(_mark(table, mask, m) for m in metrics):
                marked.append(f"{mask}, {name}: {empty_in_words(values)}")
    note = f"Mean ± standard deviation over cases, and the {CONFIDENCE:.0%} bootstrap interval of the mean."
    if marked:
        note += f" {MARK} holds values set by rule ({rule}). {'; '.join(marked)}."
    return Table("Scores", note, ("mask", "model", *metrics, "cases"), tuple(rows))


def differences(found: Sequence[Difference], test: str, unit: str, tables: Tables) -> Table:
    """The primary question first."""

    def mark(d: Difference) -> str:
        """Whether either of the two models' means holds values set by rule"""
        marks = (_mark(tables[name], d.mask, d.metric) for name in (d.first, d.second))
        return max(marks)

    rows = [
        (d.mask, d.metric, f"{d.second} - {d.first}", f"{signed(d.mean)}{mark(d)}", interval(d.low, d.high),
         p_value(d.permutation), p_value(d.wilcoxon), p_value(d.corrected), str(d.units))
        for d in sorted(found, key=lambda d: not d.primary)
    ]  # fmt: skip
    primary = next(d for d in found if d.primary)
    note = (
        f"Mean paired difference, its {CONFIDENCE:.0%} bootstrap interval (BCa), and two-sided p-values. Corrected: "
        f"Holm, on the {test} test, over the pairs of the primary question ({primary.metric}, {primary.mask}) and, "
        f"apart from these, over all other rows. Unit: {unit}. An interval with zero in it is not evidence of a "
        "difference, and none of its absence."
    )
    head = (
        "mask",
        "metric",
        "difference",
        "mean",
        "interval",
        "p, permutation",
        "p, Wilcoxon",
        "p, corrected",
        f"{unit}s",
    )
    return Table("Paired differences", note, head, tuple(rows))


def cohorts(tables: Tables, cohorts_of: Mapping[str, Sequence[str]], metrics: Sequence[str], mask: str) -> Table:
    """Scores of each cohort. cohorts_of: cohort -> its cases"""
    rows = [
        (
            cohort,
            name,
            *(_mean_with_interval(_of_cases(t, cases), mask, m) for m in metrics),
            str(len(cases)),
        )
        for cohort, cases in cohorts_of.items()
        for name, t in tables.items()
    ]
    note = f"Of {mask}; as above, within each cohort."
    return Table("Cohorts", note, ("cohort", "model", *metrics, "cases"), tuple(rows))


def folds(tables: Tables, candidates: Sequence[Candidate], metric: str, mask: str) -> Table:
    """Fold means, and their mean and standard deviation."""
    numbers = sorted({f for c in candidates for f in c.folds.values()})
    rows = []
    for candidate in candidates:
        rows_of_mask = tables[candidate.name].xs(mask, level="mask")
        by_fold = rows_of_mask.groupby([candidate.folds[str(case)] for case in rows_of_mask.index])
        of_fold = by_fold[metric].mean()
        marks = {fold: _mark(_of_cases(tables[candidate.name], rows.index), mask, metric) for fold, rows in by_fold}
        means = [float(of_fold.get(n, math.nan)) for n in numbers]
        deviation = float(np.nanstd(means, ddof=1)) if len(means) > 1 else math.nan
        rows.append(
            (
                candidate.name,
                *(f"{number(m)}{marks.get(n, '')}" for n, m in zip(numbers, means, strict=True)),
                f"{number(float(np.nanmean(means)))} ± {number(deviation)}{max(marks.values(), default='')}",
            )
        )
    note = f"{metric} of {mask}: mean of each fold's validation cases; last, mean ± standard deviation of the folds."
    return Table("Folds", note, ("model", *(f"fold {n}" for n in numbers), "folds"), tuple(rows))


def cost(records: Mapping[str, Sequence[FoldRecord]], energy_kwh: Mapping[str, float]) -> Table:
    """What training and prediction take."""
    rows = []
    for name, of_folds in records.items():
        times = [s for r in of_folds for s in r.prediction_seconds]
        epochs = {r.epochs for r in of_folds if r.epochs}
        peaks = [r.peak_gb for r in of_folds if not math.isnan(r.peak_gb)]
        seconds = [r.seconds for r in of_folds if not math.isnan(r.seconds)]
        rows.append((
            name,
            _joined(sorted({f"{r.parameters / 1e6:.2f} M" for r in of_folds if r.parameters})),
            _joined(sorted(map(str, epochs))),
            duration(sum(seconds) / len(seconds)) if seconds else UNKNOWN,
            f"{max(peaks):.2f} GB" if peaks else UNKNOWN,
            f"{np.median(times):.2f} s" if times else UNKNOWN,
            f"{energy_kwh[name]:.3f} kWh" if not math.isnan(energy_kwh.get(name, math.nan)) else UNKNOWN,
            _joined(sorted({r.device for r in of_folds if r.device})),
        ))  # fmt: skip
    note = (
        "Parameters: numbers in the last checkpoint, each once. Training: mean of the folds, epochs only. Memory: "
        "highest of a fold, recorded by our trainers (on a CPU that of the process). Prediction: median per validation "
        "case between nnU-Net's log lines, sliding window with the trainer's mirroring. Energy: all folds, where "
        "codecarbon was installed. Times of different machines cannot be compared."
    )
    head = (
        "model",
        "parameters",
        "epochs",
        "training per fold",
        "peak memory",
        "prediction per case",
        "energy",
        "device",
    )
    return Table("Cost", note, head, tuple(rows))


def worst_cases(tables: Tables, candidates: Sequence[Candidate], groups: Groups, metric: str, mask: str) -> Table:
    """The worst mean over the candidates first."""
    scores = per_case(tables, metric, mask)
    chosen = from_best_to_worst(tables, metric, mask)[::-1][:WORST]
    rows = []
    for case in map(str, chosen):
        fold = next((str(c.folds[case]) for c in candidates if case in c.folds), UNKNOWN)
        values = (number(float(scores.loc[case, name])) for name in tables)
        rows.append((case, groups.cohort.get(case, UNKNOWN), fold, *values))
    (found,) = find([metric])
    worst = "the volumes farthest from the true ones" if found.unit == "ml" else (
        "the highest means" if found.best == 0.0 else "the lowest means")  # fmt: skip
    note = f"{metric} of {mask}; {worst}{'' if found.unit == 'ml' else ' over the models'}."
    return Table("Worst cases", note, ("case", "cohort", "fold", *tables), tuple(rows))


def from_best_to_worst(tables: Tables, metric: str, mask: str) -> list[str]:
    """Cases by their mean over the candidates. Of volumes the one nearest to the truth is best. None without a value"""
    (found,) = find([metric])
    if found.unit == "ml":
        badness = per_case(tables, "VolumeDifference", mask).abs()
    else:
        badness = per_case(tables, metric, mask) * (1 if found.best == 0.0 else -1)
    return [str(case) for case in badness.mean(axis=1).dropna().sort_values(kind="stable").index]


def per_case(tables: Tables, metric: str, mask: str) -> pd.DataFrame:
    """Cases by candidates"""
    return pd.DataFrame({name: t[metric].xs(mask, level="mask") for name, t in tables.items()})


def number(value: float) -> str:
    """Four digits; a dash for not-a-number"""
    return UNKNOWN if math.isnan(value) else f"{value:.4g}"


def signed(value: float) -> str:
    """Four digits with their sign; a dash for not-a-number"""
    return UNKNOWN if math.isnan(value) else f"{value:+.4g}"


def interval(low: float, high: float) -> str:
    """Both ends; a dash where there is none"""
    return UNKNOWN if math.isnan(low) else f"{low:+.3g} to {high:+.3g}"


def p_value(value: float) -> str:
    """Three places, or that it is below them"""
    if math.isnan(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours"""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _of_cases(table: pd.DataFrame, cases: Iterable[str]) -> pd.DataFrame:
    return table.loc[table.index.get_level_values("case").isin(list(cases))]


def _mark(table: pd.DataFrame, mask: str, metric: str) -> str:
    """Whether a mean holds values set by rule; that over the masks, whether a value of any mask is"""
    others = [m for m in table.index.unique("mask") if m != mask]
    masks = others if others and mask == mean_name(others) else [mask]
    return f" {MARK}" if any(set_by_rule(table.xs(m, level="mask"), metric) for m in masks) else ""


def _mean_with_interval(table: pd.DataFrame, mask: str, metric: str) -> str:
    known = table.xs(mask, level="mask")[metric].dropna()
    if known.empty:
        return UNKNOWN
    low, high = mean_interval(known.to_numpy())
    spread = "" if math.isnan(low) else f" ({low:.4g} to {high:.4g})"
    return f"{known.mean():.4g} ± {known.std():.3g}{spread}{_mark(table, mask, metric)}"


def _counts(values: pd.DataFrame) -> str:
    return " to ".join(str(n) for n in sorted({int(n) for n in values.count()}))


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words) or UNKNOWN
