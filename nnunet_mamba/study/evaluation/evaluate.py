"""Scores of all cases of two folders, in parallel, and their summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset_conversion.nifti import contradictions
from nnunet_mamba import markdown
from nnunet_mamba.study.evaluation import metrics
from nnunet_mamba.study.evaluation.description import Description
from nnunet_mamba.study.evaluation.each_case import of_each_case
from nnunet_mamba.study.evaluation.empty_masks import BOTH, PREDICTION, REFERENCE, EmptyRule, which_is_empty
from nnunet_mamba.study.evaluation.masks import files_by_case, read_pair, shown

INDEX = ["case", "mask"]
EMPTY = "empty"
"""Column next to the metrics: which mask of the pair is empty."""
STATISTICS = ("mean", "std", "median", "cases")
MARK = "†"
"""Beside a mean in which some values are set by the rule for empty masks."""


@dataclass(frozen=True)
class Question:
    """What is asked of every case. known: values that label maps may hold, None for any."""

    masks: Mapping[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    rule: EmptyRule
    ignore: int | None = None
    known: frozenset[int] | None = None
    unknown_is_background: bool = False


@dataclass(frozen=True)
class Pairs:
    """Case name -> (reference, prediction); and the names of which one is missing."""

    pairs: dict[str, tuple[Path, Path]]
    without_prediction: list[str]
    without_reference: list[str]

    @classmethod
    def find(cls, reference: Path, prediction: Path, ending: str) -> Pairs:
        """Raises ValueError for a folder without such files."""
        both = []
        for folder in (reference, prediction):
            files = files_by_case(folder, ending)
            if not files:
                raise ValueError(f"{folder}: no *{ending} files there")
            both.append(files)
        a, b = both
        common = {name: (a[name], b[name]) for name in a if name in b}
        if not common:
            raise ValueError(f"{reference} and {prediction} have no file names in common; {next(iter(a))} for instance")
        return cls(common, [n for n in a if n not in b], [n for n in b if n not in a])


@dataclass(frozen=True)
class Evaluation:
    """table: cases x masks by metrics and `EMPTY`, sorted. not_scored: case -> why; notes: case -> unknown values;
    contradicting: case -> files whose NIfTI header readers take for different things, and why."""

    table: pd.DataFrame
    not_scored: Mapping[str, str]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    contradicting: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseScores:
    """rows: one per mask, with case, mask, every metric, and which mask is empty; the rest as in `Evaluation`"""

    rows: list[dict[str, Any]]
    notes: list[str]
    contradicting: dict[str, list[str]]


def question(
    description: Description, names: Sequence[str], rule: EmptyRule, unknown_is_background: bool = False
) -> Question:
    """About a dataset's labels or regions. Raises ValueError for unknown metrics."""
    names = tuple(dict.fromkeys(names))
    metrics.find(names)
    return Question(
        description.masks, names, rule, description.ignore, description.values, unknown_is_background
    )  # fmt: skip


def evaluate_case(asked: Question, item: tuple[str, tuple[Path, Path]]) -> CaseScores:
    """Raises ValueError for a pair that cannot be scored"""
    case, paths = item
    reference, prediction = read_pair(*paths, asked.known, asked.unknown_is_background)
    counted = reference.labels != asked.ignore if asked.ignore is not None else True
    rows = []
    for name, values in asked.masks.items():
        p, r = (np.isin(m.labels, values) & counted for m in (prediction, reference))
        scores = {m.name: metrics.score(m, p, r, reference.spacing, asked.rule) for m in metrics.find(asked.metrics)}
        rows.append({"case": case, "mask": name, **scores, EMPTY: which_is_empty(bool(p.any()), bool(r.any()))})
    both = zip(paths, (reference, prediction), strict=True)
    notes = [f"{path}: {shown(m.unknown)} counted as background" for path, m in both if m.unknown]
    return CaseScores(rows, notes, {str(path): found for path in paths if (found := contradictions(path))})


def evaluate(
    pairs: Pairs,
    asked: Question,
    jobs: int = 1,
    known: Mapping[str, CaseScores] | None = None,
    keep: Callable[[str, CaseScores], object] = lambda case, scores: None,
) -> Evaluation:
    """The same for any number of jobs. A pair that cannot be scored has its reason, and the others their scores.

    known: cases that need not be scored again; keep: called with every other one's scores as soon as they are there.
    """
    known = known or {}
    items = {case: (case, pairs.pairs[case]) for case in sorted(pairs.pairs) if case not in known}
    scored, not_scored = of_each_case(partial(evaluate_case, asked), items, jobs, keep=keep)
    done = dict(sorted({**known, **scored}.items()))
    rows = [row for scores in done.values() for row in scores.rows]
    table = pd.DataFrame(rows, columns=[*INDEX, *asked.metrics, EMPTY]).set_index(INDEX)
    return Evaluation(
        table,
        not_scored,
        {case: scores.notes for case, scores in done.items() if scores.notes},
        {case: scores.contradicting for case, scores in done.items() if scores.contradicting},
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Masks by metrics: mean, standard deviation, median, and how many cases have a value."""
    groups = table.drop(columns=EMPTY).groupby(level="mask", sort=False)
    return pd.concat({s: getattr(groups, "count" if s == "cases" else s)() for s in STATISTICS}, axis=1)


def set_by_rule(values: pd.DataFrame, metric: str) -> int:
    """In how many of these rows the metric is not measured but set by the rule for empty masks"""
    (found,) = metrics.find([metric])
    return int(((values[EMPTY] != "") & values[metric].notna()).sum()) if found.has_rule else 0


def report(result: Evaluation, pairs: Pairs, asked: Question) -> dict[str, Any]:
    """Everything, for a JSON file: rules, definitions, per case and summary. NaN is null."""
    found, table = metrics.find(asked.metrics), result.table
    whole = summary(table)
    of_mask = {mask: table.xs(mask, level="mask") for mask in asked.masks}
    return {
        "definitions": {m.name: {"unit": m.unit, "definition": m.definition} for m in found},
        "empty_masks": {"both": asked.rule.both, "one_distance": asked.rule.one},
        "masks": {name: list(values) for name, values in asked.masks.items()},
        "missing_predictions": pairs.without_prediction,
        "predictions_without_reference": pairs.without_reference,
        "not_scored": dict(result.not_scored),
        "unknown_values": dict(result.notes),
        "contradicting_headers": dict(result.contradicting),
        "summary": {mask: {m.name: {**{s: _number(whole.loc[mask, (s, m.name)]) for s in STATISTICS},
                                    "cases_set_by_rule": set_by_rule(of_mask[mask], m.name)}
                           for m in found} for mask in asked.masks},
        "cases_with_empty_masks": {mask: {which: [str(c) for c in rows.index[rows[EMPTY] == which]]
                                          for which in (PREDICTION, REFERENCE, BOTH)}
                                   for mask, rows in of_mask.items()},
        "cases": {str(case): {mask: {m.name: _number(rows.loc[(case, mask), m.name]) for m in found}
                              for mask in asked.masks} for case, rows in table.groupby(level="case")},
    }  # fmt: skip


def as_markdown(table: pd.DataFrame, asked: Question) -> str:
    """Means with standard deviations, a row per mask; marked where values are set by the rule for empty masks."""
    whole, found = summary(table), metrics.find(asked.metrics)
    head = ["mask", *(f"{m.name}{f' in {m.unit}' if m.unit else ''}" for m in found), "cases"]
    rows, marked = [], []
    for mask in asked.masks:
        values = table.xs(mask, level="mask")
        ruled = {m.name: set_by_rule(values, m.name) for m in found}
        cells = [
            f"{whole.loc[mask, ('mean', m.name)]:.4g} ± {whole.loc[mask, ('std', m.name)]:.3g}"
            f"{f' {MARK}' if ruled[m.name] else ''}"
            for m in found
        ]
        counts = {int(whole.loc[mask, ("cases", m.name)]) for m in found}
        rows.append([mask, *cells, " to ".join(str(c) for c in sorted(counts))])
        if any(ruled.values()):
            marked.append(f"{mask}: {empty_in_words(values)}")
    notes = [f"{MARK} holds values set by rule ({asked.rule}). {'; '.join(marked)}.", ""] if marked else []
    return "\n".join([markdown.table(head, rows), "", *notes, *(f"{m.name}: {m.definition}" for m in found)])


def empty_in_words(values: pd.DataFrame) -> str:
    """`3 of 8 cases, 2 with an empty prediction, 1 with both empty`"""
    words = {PREDICTION: "with an empty prediction", REFERENCE: "with an empty reference", BOTH: "with both empty"}
    counts = {which: int((values[EMPTY] == which).sum()) for which in words}
    total = int((values[EMPTY] != "").sum())
    details = [f"{count} {words[which]}" for which, count in counts.items() if count]
    return ", ".join([f"{total} of {len(values)} cases", *details])


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
