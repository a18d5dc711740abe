"""What is cross-validated: models, folds, and where nnU-Net and we keep what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

from nnunet_mamba import datasets
from nnunet_mamba.datasets import read_dataset_json
from nnunet_mamba.nnunet_folders import NNUNET_FOLDS, Dataset, FoldFolder, Model
from nnunet_mamba.whole_files import write_json


@dataclass(frozen=True)
class Study:
    """Models of one dataset and the folds they are compared on. Everything of ours is kept in `out`."""

    dataset: str
    models: tuple[Model, ...]
    folds: tuple[int, ...]
    out: Path
    device: str = "cuda"
    ensembling: bool = True
    processes: int = 1

    @property
    def folders(self) -> Dataset:
        """Where nnU-Net keeps what belongs to the dataset"""
        return Dataset(self.dataset)

    @property
    def number(self) -> str:
        return str(self.folders.number)

    def fold(self, model: Model, fold: int) -> FoldFolder:
        return self.folders.model(model).fold(fold)

    def plans_file(self, model: Model) -> Path:
        return self.folders.plans(model.plans)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """Raises ValueError if it is missing."""
        return read_dataset_json(self.dataset)

    @property
    def ending(self) -> str:
        return self.dataset_json["file_ending"]

    @cached_property
    def cases(self) -> list[str]:
        """Names of the training cases, sorted as nnU-Net sorts them. Raises ValueError if there are none."""
        if "dataset" in self.dataset_json:
            found = sorted(self.dataset_json["dataset"])
        elif self.folders.images.is_dir():
            found = sorted(get_identifiers_from_splitted_dataset_folder(str(self.folders.images), self.ending))
        else:
            labels = self.folders.truths.glob(f"*{self.ending}")
            found = sorted(p.name.removesuffix(self.ending) for p in labels)
        if not found:
            raise ValueError(f"{self.folders.raw}: no training cases there")
        return found

    @property
    def unseen_images(self) -> Path | None:
        """Images that no training sees, if the dataset has such"""
        folder = self.folders.unseen_images
        return folder if any(folder.glob(f"*{self.ending}")) else None

    @property
    def unseen_labels(self) -> Path | None:
        folder = self.folders.unseen_labels
        return folder if any(folder.glob(f"*{self.ending}")) else None

    def unseen_cases(self) -> list[str]:
        """Names without channel numbers"""
        images = self.unseen_images
        return [] if images is None else list(get_identifiers_from_splitted_dataset_folder(str(images), self.ending))

    def configuration(self, model: Model) -> ConfigurationManager:
        """Raises ValueError if the plans have none of this name."""
        plans = PlansManager(str(self.plans_file(model)))
        if model.configuration not in plans.available_configurations:
            names = ", ".join(plans.available_configurations)
            raise ValueError(f"-c {model.configuration}: {model.plans} has {names}")
        return plans.get_configuration(model.configuration)

    def check_folds(self) -> None:
        """Raises ValueError for folds that the dataset's split does not have."""
        datasets.check_folds(self.dataset, self.folds)

    def write_split(self) -> None:
        """What nnU-Net's first training would write: before several start at once, on other GPUs and nodes too."""
        if not self.folders.split.is_file():
            write_json(self.folders.split, generate_crossval_split(self.cases, n_splits=NNUNET_FOLDS))
