"""Every candidate's scores of the common cases, kept beside the report so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_mamba.comparison.candidates import Candidate
from nnunet_mamba.evaluation.evaluate import INDEX, Pairs, Question, evaluate

ALL_MASKS = "all masks"
"""Row beside the masks: the mean over them, case by case."""


def scores_of(
    candidate: Candidate, references: Mapping[str, Path], cases: Sequence[str], asked: Question, kept: Path, jobs: int
) -> pd.DataFrame:
    """Cases x masks (index) by metrics. Scores in `kept` are used if nothing that they depend on has changed."""
    pairs = {case: (references[case], candidate.predictions[case]) for case in cases}
    key = _key(pairs, asked)
    table_file, key_file = kept / f"{candidate.name}.csv", kept / f"{candidate.name}.key"
    if table_file.is_file() and key_file.is_file() and key_file.read_text(encoding="utf-8") == key:
        return pd.read_csv(table_file, dtype={"case": str, "mask": str}).set_index(INDEX)
    table = evaluate(Pairs(pairs, [], []), asked, jobs)
    kept.mkdir(parents=True, exist_ok=True)
    key_file.unlink(missing_ok=True)
    table.to_csv(table_file)
    key_file.write_text(key, encoding="utf-8")
    return table


def _key(pairs: Mapping[str, tuple[Path, Path]], asked: Question) -> str:
    """Changes with the question and with any file"""
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for pair in pairs.values() for p in pair]
    how = [sorted(asked.masks.items()), asked.metrics, asked.rule.both, asked.rule.one, asked.ignore]
    return hashlib.sha256(json.dumps([files, how]).encode()).hexdigest()


def with_mean(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the mean over the masks of each case below; as it is with a single mask."""
    masks = table.index.get_level_values("mask").unique()
    if len(masks) < 2:
        return table
    mean: Any = table.groupby(level="case", sort=False).mean()
    mean.index = pd.MultiIndex.from_product([mean.index, [ALL_MASKS]], names=INDEX)
    return pd.concat([table, mean])
