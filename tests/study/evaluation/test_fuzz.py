"""Damaged predictions, hostile dataset.json, odd names: refused in words, or scored as another library reads them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.study.evaluation.fuzzing import (
    LABELS,
    Outcome,
    damaged_body,
    damaged_prediction,
    dataset_json,
    dice,
    judge,
    label_map,
    masks_by_hand,
    write,
)

SEED = int(os.environ.get("NNUNET_MAMBA_FUZZ_SEED", "0"))
"""Other cases than those that are always run."""
FEW, MANY = 40, int(os.environ.get("NNUNET_MAMBA_FUZZ_CASES", "400"))
NAMES = [
    "NA", "null", "None", "nan", "=1+1", "+x", "-1", "@SUM(A1)", "a,b", 'a"b', "a b", "<img src=x>", "$\\frac$", "ä€🩻",
    "x" * 200, "\ttab", "a\nb", "all masks", "empty", "mean", "..x", "0", "1e5", "True", "|", "%s", "{}", "~",
]  # fmt: skip


def _no_failure(outcomes: list[Outcome]) -> None:
    wrong = [f"{o.kind}: {o.detail}" for o in outcomes if o.kind]
    print(dict(Counter(o.kind or "well" for o in outcomes)))
    assert not wrong, "\n".join(wrong[:20])


def _predictions(count: int, folder: Path, capsys: Any, damaged: Any = damaged_prediction) -> None:
    outcomes: list[Outcome] = []
    kinds: Counter[str] = Counter()
    for number in range(SEED * 10**6, SEED * 10**6 + count):
        expected, about = damaged(number, folder)
        kinds[type(expected).__name__] += 1
        outcomes.append(judge(folder, expected, about, capsys))
    print(dict(kinds))
    assert min(kinds["NoneType"], kinds["dict"] + kinds["Maybe"]) > count // 20, "both outcomes are expected"
    _no_failure(outcomes)


def _bodies(count: int, folder: Path, capsys: Any) -> None:
    _predictions(count, folder, capsys, damaged_body)


def _descriptions(count: int, folder: Path, capsys: Any) -> None:
    random = np.random.default_rng(SEED)
    reference, prediction = label_map(random), label_map(random)
    for part, array in (("ref", reference), ("pred", prediction)):
        write(folder / part / "c.nii.gz", array)
    present = set(np.unique(reference)) | set(np.unique(prediction))
    outcomes = []
    for number in range(SEED * 10**6, SEED * 10**6 + count):
        content = dataset_json(number)
        (folder / "pred" / "dataset.json").write_bytes(content)
        masks = masks_by_hand(content)
        expected: Any = None
        if masks is not None and b'"ignore"' not in content:
            known = set().union(*masks.values(), {0})
            wanted = {n: v for n, v in masks.items() if v != {0}}
            ending = json.loads(content.decode("utf-8-sig")).get("file_ending", ".nii.gz")
            if wanted and present <= known and ending == ".nii.gz":
                expected = {
                    n: dice(np.isin(prediction, list(v)), np.isin(reference, list(v))) for n, v in wanted.items()
                }
        elif masks is not None:
            expected = "either"
        outcomes.append(judge(folder, expected, f"{number}: {content[:300]!r}", capsys))
    _no_failure(outcomes)


def _names(count: int, folder: Path, capsys: Any) -> None:
    outcomes = []
    for number in range(SEED * 10**6, SEED * 10**6 + count):
        random = np.random.default_rng(number)
        case, first, second = (NAMES[int(i)] for i in random.permutation(len(NAMES))[:3])
        labels = {"background": 0, first: 1, second: 2}
        arrays = label_map(random), label_map(random)
        where = folder / str(number)
        for part, array in zip(("ref", "pred"), arrays, strict=True):
            write(where / part / f"{case}.nii.gz", array)
        (where / "pred" / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
        expected = {n: dice(arrays[1] == v, arrays[0] == v) for n, v in labels.items() if v}
        hidden = case.startswith(".")
        about = f"{number}: case {case!r}, labels {first!r} {second!r}"
        outcomes.append(judge(where, None if hidden else expected, about, capsys, case))
    _no_failure(outcomes)


@pytest.mark.parametrize("kind", [_predictions, _bodies, _descriptions, _names], ids=lambda k: k.__name__[1:])
def test_a_few(kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(LABELS.values()) == {0, 1, 2}
    kind(FEW, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [_predictions, _bodies, _descriptions, _names], ids=lambda k: k.__name__[1:])
def test_many(kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind(MANY, tmp_path, capsys)
