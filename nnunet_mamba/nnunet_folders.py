"""Where nnU-Net keeps things: the only place that knows how its folders and files are called.

Names and paths only, nothing is read or written. What a user names is looked up, with advice, by `datasets`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VARIABLES = {
    "nnUNet_raw": "datasets",
    "nnUNet_preprocessed": "its plans and preprocessed data",
    "nnUNet_results": "trained models",
}
"""Environment variable -> what nnU-Net keeps in the folder it names."""

DATASET_NAME = re.compile(r"Dataset\d{3}_.+")
IMAGES, LABELS, UNSEEN_IMAGES, UNSEEN_LABELS = "imagesTr", "labelsTr", "imagesTs", "labelsTs"
DATASET_JSON, PLANS_JSON, SPLIT = "dataset.json", "plans.json", "splits_final.json"
FINGERPRINT, DEBUG, SUMMARY, VALIDATION = "dataset_fingerprint.json", "debug.json", "summary.json", "validation"
FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"
SEPARATOR, FOLD = "__", "fold_"
NNUNET_FOLDS = 5
"""Into which nnU-Net splits a dataset that comes without a split."""
ALL = "all"
"""The fold that is trained on every case."""
FIRST_CHANNEL = "_0000"
"""Between the name of a case and the ending of its first image."""


def root(variable: str) -> Path:
    """The folder an environment variable of nnU-Net names. Raises ValueError if it is not set, or names a file."""
    return roots(variable)[0]


def roots(*variables: str) -> list[Path]:
    """The same for several. Raises ValueError with one line to type for all that are not set."""
    unset = [v for v in variables if not os.environ.get(v)]
    if unset:
        first, *others = unset
        nor = f", nor is {' or '.join(others)}" if others else ""
        raise ValueError(
            f"the environment variable {first} is not set{nor}; nnU-Net keeps {VARIABLES[first]} there. Type, "
            f"with your own folders: {export_line(*unset)}"
        )
    folders = [Path(os.environ[v]) for v in variables]
    for variable, folder in zip(variables, folders, strict=True):
        if folder.is_file():
            raise ValueError(f"{variable}={folder} is a file, not a folder: {export_line(variable)}")
    return folders


def roots_that_are_set(variables: Iterable[str] = VARIABLES) -> list[Path]:
    """Without those whose variable is not set."""
    return [Path(os.environ[v]) for v in variables if os.environ.get(v)]


def export_line(*variables: str) -> str:
    """What to type where variables of nnU-Net are missing"""
    return "export " + " ".join(f"{v}=$HOME/nnunet/{v.removeprefix('nnUNet_')}" for v in variables)


def dataset_names() -> list[str]:
    """Every dataset in the folders that are set, sorted."""
    there = (p for folder in roots_that_are_set() for p in folder.glob("Dataset*") if p.is_dir())
    return sorted({p.name for p in there if DATASET_NAME.fullmatch(p.name)})


def models_in(results: Path) -> list[str]:
    """Names of the trained models in a dataset's folder of results, sorted."""
    return sorted(p.parent.name for p in results.glob(f"*__*__*/{PLANS_JSON}"))


@dataclass(frozen=True)
class Dataset:
    """One dataset, by its name. Its paths raise ValueError where the variable of their folder is not set."""

    name: str

    @classmethod
    def of(cls, number: int, title: str) -> Dataset:
        """4, "Hippocampus" -> Dataset004_Hippocampus"""
        return cls(f"Dataset{number:03d}_{title}")

    @property
    def number(self) -> int:
        return int(self.name[7:10])

    @property
    def title(self) -> str:
        """What follows the number"""
        return self.name[11:]

    @property
    def raw(self) -> Path:
        return root("nnUNet_raw") / self.name

    @property
    def preprocessed(self) -> Path:
        return root("nnUNet_preprocessed") / self.name

    @property
    def results(self) -> Path:
        return root("nnUNet_results") / self.name

    @property
    def images(self) -> Path:
        return self.raw / IMAGES

    @property
    def labels(self) -> Path:
        return self.raw / LABELS

    @property
    def unseen_images(self) -> Path:
        """Images that no training sees"""
        return self.raw / UNSEEN_IMAGES

    @property
    def unseen_labels(self) -> Path:
        return self.raw / UNSEEN_LABELS

    @property
    def dataset_json(self) -> Path:
        return self.raw / DATASET_JSON

    @property
    def preprocessed_dataset_json(self) -> Path:
        """The copy that planning makes"""
        return self.preprocessed / DATASET_JSON

    @property
    def truths(self) -> Path:
        """Label maps of the training cases, copied by preprocessing"""
        return self.preprocessed / "gt_segmentations"

    @property
    def fingerprint(self) -> Path:
        return self.preprocessed / FINGERPRINT

    @property
    def split(self) -> Path:
        """The one that trainings use"""
        return self.preprocessed / SPLIT

    def splits(self) -> list[Path]:
        """Where a split may be: the one that trainings use, then the one that comes with the dataset"""
        return [folder / self.name / SPLIT for folder in roots_that_are_set(("nnUNet_preprocessed", "nnUNet_raw"))]

    def plans(self, name: str) -> Path:
        return self.preprocessed / f"{name}.json"

    def plans_names(self) -> list[str]:
        """Of the plans that are there, sorted"""
        return sorted(p.stem for p in self.preprocessed.glob("*lans*.json"))

    @property
    def choice(self) -> Path:
        """What nnU-Net writes when it has chosen the best model or ensemble"""
        return self.results / "inference_information.json"

    def model(self, model: Model) -> ModelFolder:
        """Where the results of a model are"""
        return ModelFolder(self.results / model.name)


@dataclass(frozen=True)
class Model:
    """What nnU-Net calls a model: a trainer, plans and one of their configurations."""

    trainer: str
    plans: str
    configuration: str

    @classmethod
    def parse(cls, name: str) -> Model | None:
        """`TRAINER__PLANS__CONFIGURATION` taken apart; None for other names."""
        parts = name.split(SEPARATOR)
        return cls(*parts) if len(parts) == 3 else None

    @property
    def name(self) -> str:
        """As nnU-Net names its folder"""
        return SEPARATOR.join((self.trainer, self.plans, self.configuration))

    @property
    def options(self) -> tuple[str, ...]:
        """For nnU-Net's commands"""
        return "-tr", self.trainer, "-p", self.plans, "-c", self.configuration


@dataclass(frozen=True)
class ModelFolder:
    """Results of a model, or a folder that prediction takes for one."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def plans(self) -> Path:
        return self.path / PLANS_JSON

    @property
    def dataset_json(self) -> Path:
        return self.path / DATASET_JSON

    @property
    def fingerprint(self) -> Path:
        """A copy that may be there: nnU-Net's training makes one"""
        return self.path / FINGERPRINT

    def validated(self) -> list[Path]:
        """Files of all folds' validations, sorted"""
        return sorted(self.path.glob(f"{FOLD}*/{VALIDATION}/*"))

    def fold(self, number: int | str) -> FoldFolder:
        """A number, or `ALL`"""
        return FoldFolder(self.path / f"{FOLD}{number}")

    def finished_folds(self) -> list[str]:
        """Numbers of the folds with a summary of their validation, in order. Not `ALL`, which saw these cases."""
        folds = (FoldFolder(path) for path in self.path.glob(f"{FOLD}*"))
        return sorted((fold.number for fold in folds if fold.number.isdecimal() and fold.summary.is_file()), key=int)


@dataclass(frozen=True)
class FoldFolder:
    """What a training of one fold leaves."""

    path: Path

    @property
    def number(self) -> str:
        return self.path.name.removeprefix(FOLD)

    @property
    def final(self) -> Path:
        """The checkpoint of a training that has ended"""
        return self.path / FINAL

    @property
    def latest(self) -> Path:
        """The checkpoint of one that has not"""
        return self.path / LATEST

    @property
    def validation(self) -> Path:
        """Predictions of the cases that the fold was not trained on"""
        return self.path / VALIDATION

    @property
    def summary(self) -> Path:
        """Their scores, written last"""
        return self.validation / SUMMARY

    @property
    def debug(self) -> Path:
        """The trainer's settings and its device"""
        return self.path / DEBUG

    def logs(self) -> list[Path]:
        """One per process, in the order of time"""
        return sorted(self.path.glob("training_log_*.txt"))
