"""What is compared: models that were cross-validated, or folders of predictions of the same cases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_mamba.nnunet_folders import SEPARATOR, Model, ModelFolder, models_in
from nnunet_mamba.study.evaluation.description import ending_of
from nnunet_mamba.study.evaluation.masks import files_by_case
from nnunet_mamba.whole_files import read_object


@dataclass(frozen=True)
class Candidate:
    """Case -> predicted file; for cross-validated models also case -> fold, and the model's folder.

    source: where it comes from, in words, whatever its name is shortened to.
    """

    name: str
    predictions: Mapping[str, Path]
    folds: Mapping[str, int]
    model: ModelFolder | None = None
    source: str = ""


def from_model(folder: ModelFolder, folds: Sequence[int] | None) -> Candidate:
    """Predictions of every case by the fold that was not trained on it.

    folds: None for all that have finished. Raises ValueError for unfinished folds and for a case in two of them.
    """
    folder = ModelFolder(_with_its_name(folder.path))
    if not folder.dataset_json.is_file():
        others = ", ".join(models_in(folder.path.parent))
        raise ValueError(f"{folder.path}: no trained model there. Beside it: {others or 'none'}")
    ending = ending_of(read_object(folder.dataset_json), folder.dataset_json)
    finished = list(map(int, folder.finished_folds()))
    numbers = finished if folds is None else list(folds)
    if not numbers:
        raise ValueError(f"{folder.path}: no fold has finished its validation")
    predictions: dict[str, Path] = {}
    origin: dict[str, int] = {}
    for number in numbers:
        fold = folder.fold(number)
        if not fold.summary.is_file():
            raise ValueError(
                f"{folder.name}: fold {number} has not finished its validation; finished: "
                f"{' '.join(map(str, finished)) or 'none'}"
            )
        for case, path in files_by_case(fold.validation, ending).items():
            if case in origin:
                raise ValueError(f"{folder.name}: case {case} is validated in folds {origin[case]} and {number}")
            predictions[case], origin[case] = path, number
    return Candidate(folder.name, predictions, origin, folder, folder.name)


def from_folder(folder: Path, ending: str) -> Candidate:
    """A folder of label maps. Raises ValueError if there are none."""
    folder = _with_its_name(folder)
    files = files_by_case(folder, ending)
    if not files:
        raise ValueError(f"{folder}: no *{ending} files there")
    return Candidate(folder.name, files, {}, source=str(folder))


def _with_its_name(folder: Path) -> Path:
    """Also where it was given as `.` or `..`; a link keeps its own name"""
    return Path(os.path.normpath(folder.absolute()))


def with_short_names(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without what is the same in all of nnU-Net's names: plans, configuration, suffixes of the trainer.

    Raises ValueError if two have the same name.
    """
    if len({c.name for c in candidates}) < len(candidates):
        raise ValueError(f"{', '.join(c.name for c in candidates)}: every candidate needs a name of its own")
    models = {c.name: model for c in candidates if (model := Model.parse(c.name)) is not None}
    suffix = _common_suffix([model.trainer for model in models.values()])
    differing = [f for f in ("plans", "configuration") if len({getattr(m, f) for m in models.values()}) > 1]
    short = {
        name: SEPARATOR.join([m.trainer.removesuffix(suffix), *(getattr(m, f) for f in differing)])
        for name, m in models.items()
    }
    names = [short.get(c.name, c.name) for c in candidates]
    if len(set(names)) < len(names):
        return list(candidates)
    return [replace(c, name=name) for c, name in zip(candidates, names, strict=True)]


def _common_suffix(trainers: Sequence[str]) -> str:
    """Of the parts between underscores, never the first; "" for a single trainer"""
    if len(set(trainers)) < 2:
        return ""
    tokens = [t.split("_")[1:] for t in trainers]
    count = 0
    while all(len(t) > count for t in tokens) and len({t[-1 - count] for t in tokens}) == 1:
        count += 1
    return "".join(f"_{token}" for token in tokens[0][len(tokens[0]) - count :])


def common_cases(candidates: Sequence[Candidate], references: Mapping[str, Path], allow_missing: bool) -> list[str]:
    """Cases that all candidates predict and that have a reference.

    Raises ValueError if a candidate lacks some of them, unless that is allowed, and if none is left.
    """
    everything = set().union(*(c.predictions for c in candidates))
    without = sorted(everything - set(references))
    lacking = {c.name: sorted((everything & set(references)) - set(c.predictions)) for c in candidates}
    wrong = [f"{name} lacks {len(cases)} cases, {cases[0]} for instance" for name, cases in lacking.items() if cases]
    if without:
        wrong.append(f"{len(without)} predicted cases have no reference, {without[0]} for instance")
    if wrong and not allow_missing:
        raise ValueError(f"{'; '.join(wrong)}. A comparison is of the same cases; to leave others out: --allow_missing")
    common = sorted(everything.intersection(references, *(c.predictions for c in candidates)))
    if not common:
        raise ValueError(f"{', '.join(c.name for c in candidates)} have no case in common")
    return common
