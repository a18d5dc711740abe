"""Every candidate's scores of the common cases, kept next to the report so that nothing is computed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_mamba.study.comparison.candidates import Candidate
from nnunet_mamba.study.evaluation.evaluate import EMPTY, INDEX, Evaluation, Pairs, Question, evaluate
from nnunet_mamba.study.evaluation.kept import key_of
from nnunet_mamba.whole_files import read_object, write_json

ALL_MASKS = "all masks"
"""Row next to the masks: the mean over them, case by case."""
SOME = "some"
"""In that row: of some masks one or both are empty."""


def scores_of(
    candidate: Candidate, references: Mapping[str, Path], cases: Sequence[str], asked: Question, kept: Path, jobs: int
) -> Evaluation:
    """Scores of all cases, those in `kept` as they are if nothing that they depend on has changed."""
    pairs = {case: (references[case], candidate.predictions[case]) for case in cases}
    keys = {case: key_of(pair, asked) for case, pair in pairs.items()}
    file = kept / f"{candidate.name}.json"
    known = _read(file, keys)
    rest = {case: pair for case, pair in pairs.items() if case not in known}
    not_scored: dict[str, str] = {}
    if rest:
        result = evaluate(Pairs(rest, [], []), asked, jobs)
        not_scored = dict(result.not_scored)
        for case, rows in result.table.groupby(level="case", sort=False):
            of_masks = rows.droplevel("case").to_dict("index")
            name = str(case)
            known[name] = {"key": keys[name], "rows": of_masks, "notes": result.notes.get(name, []),
                           "contradicting": result.contradicting.get(name, {})}  # fmt: skip
        kept.mkdir(parents=True, exist_ok=True)
        write_json(file, known, indent=None)
    rows = [{"case": c, "mask": mask, **known[c]["rows"][mask]} for c in sorted(known) for mask in asked.masks]
    table = pd.DataFrame(rows, columns=[*INDEX, *asked.metrics, EMPTY]).set_index(INDEX)
    notes, contradicting = (
        {case: of[what] for case, of in known.items() if of[what]} for what in ("notes", "contradicting")
    )
    return Evaluation(table, not_scored, notes, contradicting)


def _read(file: Path, keys: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What is still right: case -> rows of its masks, and notes"""
    try:
        return {case: kept for case, kept in read_object(file).items() if kept["key"] == keys.get(case)}
    except (ValueError, KeyError, TypeError):
        return {}  # none, or of another version: they are computed


def mean_name(masks: Sequence[str]) -> str:
    """What the mean over the masks is called: no mask has this name"""
    name = ALL_MASKS
    while name in masks:
        name = f"mean of {name}"
    return name


def with_mean(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the mean over the masks of each case below; as it is with a single mask."""
    masks = list(table.index.get_level_values("mask").unique())
    if len(masks) < 2:
        return table
    by_case = table.groupby(level="case", sort=False)
    mean: Any = by_case[[c for c in table.columns if c != EMPTY]].mean()
    mean[EMPTY] = by_case[EMPTY].agg(lambda of: SOME if (of != "").any() else "")
    mean.index = pd.MultiIndex.from_product([mean.index, [mean_name(masks)]], names=INDEX)
    return pd.concat([table, mean])
