"""What shows that a step is done: files that are there and not older than what they were made from.

Nothing is remembered elsewhere, so trainings done by hand count, and what was deleted is done again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.nnunet_folders import FoldFolder, Model
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.whole_files import read_object


def is_fresh(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> bool:
    """Whether all outputs are there, none older than the newest input"""
    outputs = list(outputs)
    if not outputs or not all(p.is_file() for p in outputs):
        return False
    newest = max((p.stat().st_mtime for p in inputs if p.is_file()), default=0.0)
    return min(p.stat().st_mtime for p in outputs) >= newest


@dataclass(frozen=True)
class Fresh:
    """All outputs are there and none is older than an input."""

    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()

    def __call__(self) -> bool:
        return is_fresh(self.outputs, self.inputs)


@dataclass(frozen=True)
class Preprocessed:
    """Every training case in the folder of the configuration's data."""

    study: Study
    model: Model

    def __call__(self) -> bool:
        if not self.study.plans_file(self.model).is_file():
            return False
        folder = self.study.folders.preprocessed / self.study.configuration(self.model).data_identifier
        return all((folder / f"{case}.pkl").is_file() for case in self.study.cases)


@dataclass(frozen=True)
class Trained:
    """The last checkpoint and the summary of its validation."""

    fold: FoldFolder

    def __call__(self) -> bool:
        return is_fresh((self.fold.final, self.fold.summary))


@dataclass(frozen=True)
class Probabilities:
    """Beside every prediction of a validation, without which nnU-Net cannot make ensembles."""

    fold: FoldFolder
    ending: str

    def __call__(self) -> bool:
        predictions = list(self.fold.validation.glob(f"*{self.ending}"))
        made = [p.with_name(p.name.removesuffix(self.ending) + ".npz") for p in predictions]
        return bool(made) and all(p.is_file() for p in made)


@dataclass(frozen=True)
class BestFound:
    """nnU-Net's choice among exactly these models and folds, from their present validations."""

    study: Study

    def __call__(self) -> bool:
        study = self.study
        inputs = [study.fold(m, f).summary for m in study.models for f in study.folds]
        found = study.folders.choice
        if not is_fresh([found], inputs):
            return False
        content = read_object(found)
        considered = {Model(m["trainer"], m["plans"], m["configuration"]) for m in content["considered_models"]}
        asked = considered == set(study.models) and tuple(content["folds"]) == study.folds
        return asked and content["ensembling_allowed"] == (study.ensembling and len(study.models) > 1)
