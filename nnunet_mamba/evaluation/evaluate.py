"""Scores of all cases of two folders, in parallel, and their summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_mamba import markdown
from nnunet_mamba.evaluation import metrics
from nnunet_mamba.evaluation.masks import files_by_case, masks_of, read_pair
from nnunet_mamba.evaluation.metrics import EmptyRule

INDEX = ["case", "mask"]
STATISTICS = ("mean", "std", "median", "cases")


@dataclass(frozen=True)
class Question:
    """What is asked of every case."""

    masks: Mapping[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    rule: EmptyRule
    ignore: int | None = None


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


def question(dataset_json: Mapping[str, Any], names: Sequence[str], rule: EmptyRule) -> Question:
    """About a dataset's labels or regions. Raises ValueError for unknown metrics."""
    metrics.find(names)
    ignore = dataset_json["labels"].get("ignore")
    return Question(masks_of(dataset_json["labels"]), tuple(names), rule, ignore)


def evaluate_case(asked: Question, item: tuple[str, tuple[Path, Path]]) -> list[dict[str, Any]]:
    """One row per mask: case, mask, and every metric."""
    case, (reference_path, prediction_path) = item
    reference, prediction = read_pair(reference_path, prediction_path)
    counted = reference.labels != asked.ignore if asked.ignore is not None else True
    rows = []
    for name, values in asked.masks.items():
        p, r = (np.isin(m.labels, values) & counted for m in (prediction, reference))
        scores = {m.name: metrics.score(m, p, r, reference.spacing, asked.rule) for m in metrics.find(asked.metrics)}
        rows.append({"case": case, "mask": name, **scores})
    return rows


def evaluate(pairs: Pairs, asked: Question, jobs: int = 1) -> pd.DataFrame:
    """Cases x masks (index) by metrics (columns), sorted; the same for any number of jobs."""
    items, one = list(pairs.pairs.items()), partial(evaluate_case, asked)
    if min(jobs, len(items)) == 1:
        rows = [one(item) for item in tqdm(items, desc="cases")]
    else:
        with ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context("spawn")) as pool:
            rows = list(tqdm(pool.map(one, items), total=len(items), desc="cases"))
    table = pd.DataFrame([row for case in rows for row in case]).set_index(INDEX)
    return table.loc[[(c, m) for c in sorted(pairs.pairs) for m in asked.masks]]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Masks by metrics: mean, standard deviation, median, and how many cases have a value."""
    groups = table.groupby(level="mask", sort=False)
    return pd.concat({s: getattr(groups, "count" if s == "cases" else s)() for s in STATISTICS}, axis=1)


def report(table: pd.DataFrame, pairs: Pairs, asked: Question) -> dict[str, Any]:
    """Everything, for a JSON file: rules, definitions, per case and summary. NaN is null."""
    found = metrics.find(asked.metrics)
    whole = summary(table)
    return {
        "definitions": {m.name: {"unit": m.unit, "definition": m.definition} for m in found},
        "empty_masks": {"both": asked.rule.both, "one_distance": asked.rule.one},
        "masks": {name: list(values) for name, values in asked.masks.items()},
        "missing_predictions": pairs.without_prediction,
        "predictions_without_reference": pairs.without_reference,
        "summary": {mask: {m.name: {s: _number(whole.loc[mask, (s, m.name)]) for s in STATISTICS}
                           for m in found} for mask in asked.masks},
        "cases": {str(case): {mask: {m.name: _number(rows.loc[(case, mask), m.name]) for m in found}
                              for mask in asked.masks} for case, rows in table.groupby(level="case")},
    }  # fmt: skip


def as_markdown(table: pd.DataFrame, asked: Question) -> str:
    """Means with standard deviations, a row per mask."""
    whole, found = summary(table), metrics.find(asked.metrics)
    head = ["mask", *(f"{m.name}{f' in {m.unit}' if m.unit else ''}" for m in found), "cases"]
    rows = []
    for mask in asked.masks:
        cells = [f"{whole.loc[mask, ('mean', m.name)]:.4g} ± {whole.loc[mask, ('std', m.name)]:.3g}" for m in found]
        counts = {int(whole.loc[mask, ("cases", m.name)]) for m in found}
        rows.append([mask, *cells, " to ".join(str(c) for c in sorted(counts))])
    return "\n".join([markdown.table(head, rows), "", *(f"{m.name}: {m.definition}" for m in found)])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """With indentation; not-a-number is an error"""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
