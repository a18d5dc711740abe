"""A trained model's cross-validation: its probabilities, and the truth next to them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.datasets import dataset_name, find_model
from nnunet_mamba.nnunet_folders import ALL, Dataset, Model, ModelFolder
from nnunet_mamba.study.calibration.label_manager import foreground, with_thresholds
from nnunet_mamba.study.calibration.scores import over_thresholds, overlap
from nnunet_mamba.study.evaluation.description import describe, ending_of
from nnunet_mamba.study.evaluation.intact import check_intact
from nnunet_mamba.study.evaluation.masks import counts_of, files_by_case, shown, whole_numbers
from nnunet_mamba.whole_files import read_object, write_json

ROUNDING = 1e-3
"""By which a probability may be off, as float16 rounds"""
STOCK_MANAGER = "LabelManager"


@dataclass(frozen=True)
class ValidationCase:
    """A validation case; `predicted`: its probabilities or its label map."""

    name: str
    fold: str
    predicted: Path
    truth: Path


class ModelFiles(Protocol):
    """A model by its folder, in which thresholds and sizes are kept, and its labels."""

    @property
    def folder(self) -> ModelFolder: ...

    @property
    def dataset_json(self) -> dict[str, Any]: ...


@dataclass
class ValidatedModel:
    """A model of nnU-Net's, with the content of the files next to it."""

    dataset: Dataset
    model: Model
    plans: dict[str, Any]
    dataset_json: dict[str, Any]

    @classmethod
    def find(cls, dataset: str, trainer: str, plans: str, configuration: str) -> ValidatedModel:
        """Raises ValueError naming what is missing."""
        name, model = dataset_name(dataset), Model(trainer, plans, configuration)
        folder = find_model(name, model.name)
        found = cls(Dataset(name), model, read_object(folder.plans), read_object(folder.dataset_json))
        if "image_reader_writer" not in found.plans:
            raise ValueError(f'{folder.plans}: these are not plans of nnU-Net: "image_reader_writer" is missing')
        describe(found.dataset_json, folder.dataset_json)
        ending_of(found.dataset_json, folder.dataset_json)
        return found

    @property
    def folder(self) -> ModelFolder:
        return self.dataset.model(self.model)

    @cached_property
    def labels(self) -> LabelManager:
        """nnU-Net's own, whatever thresholds are set. Raises ValueError for labels that it refuses."""
        try:
            return PlansManager({**self.plans, "label_manager": STOCK_MANAGER}).get_label_manager(self.dataset_json)
        except AssertionError as error:
            raise ValueError(f"{self.folder.dataset_json}: {error}") from None

    def cases(self, folds: Sequence[str]) -> list[ValidationCase]:
        """Validation cases of these folds. Raises ValueError for a fold without probabilities."""
        return self._cases(folds, ".npz", "probabilities")

    def predictions(self, folds: Sequence[str]) -> list[ValidationCase]:
        """The same with label maps. Raises ValueError for a fold without validation."""
        return self._cases(folds, self.dataset_json["file_ending"], "predictions")

    def _cases(self, folds: Sequence[str], ending: str, what: str) -> list[ValidationCase]:
        truths, of_files = self.dataset.truths, self.dataset_json["file_ending"]
        if ALL in folds:
            raise ValueError("-f all: it is validated on the cases it was trained on, which tell nothing about others")
        found: list[ValidationCase] = []
        for fold in folds:
            validation = self.folder.fold(fold).validation
            names = files_by_case(validation, ending)
            if not names:
                m = self.model
                raise ValueError(
                    f"{validation}: no {what}. Write them: nnUNetv2_train {self.dataset.name} {m.configuration} {fold} "
                    f"-tr {m.trainer} -p {m.plans} --val --npz"
                )
            found += [ValidationCase(name, fold, file, truths / f"{name}{of_files}") for name, file in names.items()]
        first: dict[str, str] = {}
        for case in found:
            if case.name in first:
                raise ValueError(
                    f"{self.model.name}: case {case.name} is validated in folds {first[case.name]} and {case.fold}"
                )
            first[case.name] = case.fold
        missing = [str(c.truth) for c in found if not c.truth.is_file()]
        if missing:
            raise ValueError(
                f"{missing[0]}: no such file, the truth of a validation case; preprocess the dataset again"
            )
        return found

    def scores(self, case: ValidationCase, metric: str) -> np.ndarray:
        """(thresholds, grid) of one case"""
        probabilities, masks, counted = self._load(case)
        compared = foreground(self.labels, probabilities)
        return np.stack([over_thresholds(metric, p[counted], m[counted]) for p, m in zip(compared, masks, strict=True)])

    def compare(self, case: ValidationCase, metric: str, *choices: Sequence[float]) -> list[float]:
        """For each choice of thresholds: mean over the regions of the label map that they give"""
        probabilities, masks, counted = self._load(case)
        means = []
        for thresholds in choices:
            made = with_thresholds(self.labels, probabilities, thresholds)
            values = []
            for predicted, true in zip(_masks(self.labels, made), masks, strict=True):
                p, t = predicted[counted], true[counted]
                values.append(float(overlap(metric, np.asarray((p & t).sum()), np.asarray(p.sum()), int(t.sum()))))
            means.append(float(np.mean(values)))
        return means

    def _load(self, case: ValidationCase) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Probabilities (c *space), the true masks of the thresholds, and the voxels that are not ignored"""
        probabilities = self._probabilities(case.predicted)
        truth = self._read(case.truth)[0]
        if truth.shape != probabilities.shape[1:]:
            raise ValueError(f"{case.predicted}: {probabilities.shape[1:]}, but {case.truth} is {truth.shape}")
        return probabilities, list(_masks(self.labels, truth)), self._counted(truth)

    def _probabilities(self, path: Path) -> np.ndarray:
        """(c *space), from 0 to 1. Raises ValueError naming the file"""
        try:
            if not path.is_file():
                raise OSError("no regular file")
            with zipfile.ZipFile(path):  # np.load takes other files too
                probabilities = np.load(path)["probabilities"]
        except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: no probabilities as nnU-Net writes them: {error}") from None
        channels = self.labels.num_segmentation_heads
        if probabilities.ndim < 3 or probabilities.shape[0] != channels:
            raise ValueError(f"{path}: shape {probabilities.shape}; expected {channels} channels")
        if probabilities.dtype.kind != "f":
            raise ValueError(f"{path}: values of type {probabilities.dtype}; expected probabilities")
        if not np.isfinite(probabilities).all():
            raise ValueError(f"{path}: {int((~np.isfinite(probabilities)).sum())} probabilities are NaN or infinite")
        least, most = float(probabilities.min(initial=0)), float(probabilities.max(initial=0))
        if least < -ROUNDING or most > 1 + ROUNDING:
            raise ValueError(f"{path}: values from {least:g} to {most:g}; expected probabilities, from 0 to 1")
        return probabilities

    def label_maps(self, case: ValidationCase) -> tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[float]]:
        """Predicted and true labels, the voxels that are not ignored, and the size of a voxel in mm"""
        (predicted, spacing), (truth, of_truth) = self._read(case.predicted), self._read(case.truth)
        if truth.shape != predicted.shape:
            raise ValueError(f"{case.predicted}: {predicted.shape}, but {case.truth} is {truth.shape}")
        if not np.allclose(spacing, of_truth, rtol=1e-3):
            sizes = [" x ".join(f"{s:g}" for s in of) for of in (spacing, of_truth)]
            raise ValueError(f"{case.predicted}: voxels of {sizes[0]} mm, but {case.truth} has {sizes[1]}")
        return predicted, truth, self._counted(truth), spacing

    def _read(self, path: Path) -> tuple[np.ndarray, Sequence[float]]:
        labels, properties = self.read_labels(path)
        return labels, properties["spacing"]

    def read_labels(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """A label map and its properties, by nnU-Net's reader.

        Raises ValueError for a file that cannot be read, is damaged, or holds what dataset.json does not have.
        """
        check_intact(path)
        try:
            labels, properties = PlansManager(self.plans).image_reader_writer_class().read_seg(str(path))
        except (RuntimeError, OSError, ImageFileError) as error:
            raise ValueError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}") from None
        counts = counts_of(whole_numbers(labels[0], path))
        known = describe(self.dataset_json, self.folder.dataset_json).values or ()
        unknown = {v: n for v, n in counts.items() if v not in known}
        if unknown:
            raise ValueError(f"{path} holds {shown(unknown)}; dataset.json has {', '.join(map(str, sorted(known)))}")
        return whole_numbers(labels[0], path), properties

    def _counted(self, truth: np.ndarray) -> np.ndarray:
        return truth != (self.labels.ignore_label if self.labels.has_ignore_label else -1)

    def set_label_manager(self, name: str) -> None:
        """From now on predictions of this model use it. The plans in nnUNet_preprocessed stay as they are."""
        self.plans["label_manager"] = name
        write_json(self.folder.plans, self.plans)


def _masks(manager: LabelManager, labels: np.ndarray) -> Iterator[np.ndarray]:
    wanted = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    for region in wanted:
        yield np.isin(labels, region)
