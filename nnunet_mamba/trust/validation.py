"""The members of every validation case, measured, and its Dice: each case by networks that were not trained on it.

Of one model that is the network of the case's own fold, so members are its mirrored passes; of several models (other
trainers, other seeds) they are the networks of that fold. Finished cases are kept in a file each.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import pickle
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from tqdm import tqdm

from nnunet_mamba import checkpoints
from nnunet_mamba.nnunet_folders import FINAL, ModelFolder
from nnunet_mamba.study.calibration.scores import overlap
from nnunet_mamba.study.calibration.validated_model import ValidatedModel, ValidationCase
from nnunet_mamba.study.evaluation.description import masks_of
from nnunet_mamba.trust.maps import write_map
from nnunet_mamba.trust.measures import Masks, Measures, around, entropy_map, measure
from nnunet_mamba.trust.members import MemberPredictor, NetworkPrediction, label_map, mean_prediction
from nnunet_mamba.trust.temperature import MOST_VOXELS, Voxels
from nnunet_mamba.version import __version__

CASES = "cases"
"""Folder of the files of finished cases"""


@dataclass(frozen=True)
class MeasuredCase:
    """A validation case. dice: mean over labels or regions, at the resolution of the image. members: how many."""

    name: str
    fold: str
    dice: float
    measures: Measures
    members: int
    voxels: Voxels

    def save(self, path: Path, key: str) -> None:
        """The file whole, or none. Raises ValueError if it cannot be written."""
        said = json.dumps({"key": key, "fold": self.fold, "dice": self.dice, "members": self.members,
                           "measures": asdict(self.measures)})  # fmt: skip
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez_compressed(file, said=said, logits=self.voxels.logits, truth=self.voxels.truth)
            partial.replace(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, key: str) -> MeasuredCase | None:
        """None where there is no such file, it is damaged, or was made of something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                said = json.loads(str(file["said"]))
                if said["key"] != key:
                    return None
                voxels = Voxels(file["logits"], file["truth"])
            return cls(
                path.name.removesuffix(".npz"), said["fold"], float(said["dice"]), Measures(**said["measures"]),
                said["members"], voxels,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None


@dataclass
class Validation:
    """model: whose validation cases these are. folders: of the models whose members are compared, its own first."""

    model: ValidatedModel
    folders: Sequence[ModelFolder]
    device: torch.device
    maps: Path | None = None
    """Folder for a map of the uncertainty of each case"""

    def cases(self, folds: Sequence[str], kept: Path) -> list[MeasuredCase]:
        """Of these folds, in order of their names; kept: the folder of what is done, which is not done again.

        Raises ValueError naming what is missing or damaged.
        """
        if self._configuration.get("previous_stage") is not None:
            raise ValueError(f"{self.model.model.configuration} is the second stage of a cascade, which is not judged")
        todo: dict[str, list[tuple[ValidationCase, str]]] = {}
        found: dict[str, MeasuredCase] = {}
        for case in self.model.predictions(folds):
            key = self._key(case)
            before = MeasuredCase.load(kept / CASES / f"{case.name}.npz", key)
            if before is None or (self.maps is not None and not self._map_of(case.name, self.maps).is_file()):
                todo.setdefault(case.fold, []).append((case, key))
            else:
                found[case.name] = before
        if found:
            print(f"{len(found)} cases: done before")
        with tqdm(total=sum(map(len, todo.values())), desc="cases", disable=not todo) as progress:
            for fold, cases in todo.items():
                predictors = [load_predictor(folder, fold, self.device) for folder in self.folders]
                for case, key in cases:
                    measured = self._measured(case, predictors)
                    measured.save(kept / CASES / f"{case.name}.npz", key)
                    found[case.name] = measured
                    progress.update()
        return [found[name] for name in sorted(found)]

    def _map_of(self, name: str, folder: Path) -> Path:
        return folder / f"{name}{self.model.dataset_json['file_ending']}"

    @cached_property
    def masks(self) -> Masks:
        """As dataset.json names them"""
        return masks_of(self.model.dataset_json["labels"])

    @cached_property
    def _configuration(self) -> dict[str, Any]:
        name = self.model.model.configuration
        there = self.model.plans.get("configurations")
        if not isinstance(there, dict) or not isinstance(there.get(name), dict):
            raise ValueError(f"{self.model.folder.plans}: has no configuration {name}")
        return there[name]

    def _measured(self, case: ValidationCase, predictors: Sequence[MemberPredictor]) -> MeasuredCase:
        data, truth, properties = self._preprocessed(case.name)
        image = torch.from_numpy(data)
        logits = [p.predict_logits_from_preprocessed_data(image) for p in predictors]
        manager: Any = predictors[0].label_manager
        networks = [p.networks[0] for p in predictors]
        members, labels, probabilities = together(networks, manager)
        if self.maps is not None:
            doubts = entropy_map(probabilities, manager.has_regions)
            write_map(doubts, properties, predictors[0], self._map_of(case.name, self.maps))
        return MeasuredCase(
            case.name, case.fold, self._dice(case, logits, properties, predictors[0]),
            measure(members, labels, probabilities, self.masks, manager.has_regions), len(members),
            self._voxels(case.name, logits, labels, truth),
        )  # fmt: skip

    def _preprocessed(self, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Image (c *space), labels (*space) and properties, as training sees them"""
        folder = self._data
        try:
            dataset: Any = infer_dataset_class(str(folder))(str(folder), [name])
            data, seg, _, properties = dataset.load_case(name)
            return np.array(data[:]), np.array(seg[:])[0], properties
        except (OSError, AssertionError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{folder}: case {name} cannot be read ({str(error).strip().splitlines()[0]}); preprocess again: "
                f"nnUNetv2_preprocess -d {self.model.dataset.number} -plans_name {self.model.model.plans} "
                f"-c {self.model.model.configuration}"
            ) from None

    @cached_property
    def _data(self) -> Path:
        configuration, seen = self._configuration, set()
        while "data_identifier" not in configuration:
            parent = configuration.get("inherits_from")
            if parent not in self.model.plans["configurations"] or parent in seen:
                raise ValueError(f'{self.model.folder.plans}: "data_identifier" is missing')
            seen.add(parent)
            configuration = self.model.plans["configurations"][parent]
        return self.model.dataset.preprocessed / configuration["data_identifier"]

    def _dice(
        self, case: ValidationCase, logits: Sequence[torch.Tensor], properties: dict[str, Any], first: MemberPredictor
    ) -> float:
        """Of the label map that nnU-Net makes of these models; empty truth and empty prediction count as 1"""
        managers: tuple[Any, Any, Any] = first.plans_manager, first.configuration_manager, first.label_manager
        made: list[Any] = [
            convert_predicted_logits_to_segmentation_with_correct_shape(
                of_model, *managers, properties, return_probabilities=len(logits) > 1,
                num_threads_torch=torch.get_num_threads(),
            )
            for of_model in logits
        ]  # fmt: skip
        if len(made) == 1:
            predicted = made[0]
        else:
            mean = np.mean([p for _, p in made], 0)
            predicted = label_map(managers[2].convert_probabilities_to_segmentation(mean), managers[2])
        truth, _ = self.model.read_labels(case.truth)
        if truth.shape != predicted.shape:
            raise ValueError(f"{case.truth}: {truth.shape}, but its preprocessed image has {predicted.shape} voxels")
        counted = truth != (self.model.labels.ignore_label if self.model.labels.has_ignore_label else -1)
        found = []
        for values in self.masks.values():
            p, t = np.isin(predicted, values) & counted, np.isin(truth, values) & counted
            found.append(float(overlap("Dice", np.asarray((p & t).sum()), np.asarray(p.sum()), int(t.sum()))))
        return fmean(found)

    def _voxels(self, name: str, logits: Sequence[torch.Tensor], labels: np.ndarray, truth: np.ndarray) -> Voxels:
        manager = self.model.labels
        counted = truth != (manager.ignore_label if manager.has_ignore_label else -2)
        places = np.flatnonzero(around((labels > 0) | (truth > 0) & counted) & counted)
        if len(places) > MOST_VOXELS:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
            places = np.sort(np.random.default_rng(seed).choice(places, MOST_VOXELS, replace=False))
        chosen = np.stack([of.reshape(len(of), -1).numpy()[:, places].T for of in logits])
        known = truth.ravel()[places]
        if manager.has_regions:
            return Voxels(chosen, np.stack([np.isin(known, v) for v in self.masks.values()], 1))
        return Voxels(chosen, np.maximum(known, 0).astype(np.int16))  # -1: nnU-Net's "outside", which is background

    def _key(self, case: ValidationCase) -> str:
        """Changes with the weights, the preprocessed case, its truth, and the version of this package"""
        files = [folder.fold(case.fold).path / FINAL for folder in self.folders]
        files += [
            *sorted(self._data.glob(f"{case.name}.*")),
            *sorted(self._data.glob(f"{case.name}_seg.*")),
            case.truth,
        ]
        states = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.is_file()]
        how = [__version__, [f.name for f in self.folders], list(self.masks.items()), states]
        return hashlib.sha256(json.dumps(how).encode()).hexdigest()


def together(
    networks: Sequence[NetworkPrediction], manager: Any
) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]:
    """Members, and the label map and probabilities of their mean: passes of one network, or several networks"""
    if len(networks) == 1:
        return networks[0].passes, networks[0].labels, networks[0].probabilities
    return [n.labels for n in networks], *mean_prediction(networks, manager)


def load_predictor(folder: ModelFolder, fold: str, device: torch.device) -> MemberPredictor:
    """With the weights of one fold. Raises ValueError for a checkpoint that is missing, damaged or does not fit."""
    path = folder.fold(fold).path / FINAL
    checkpoints.read(path, mmap=True)  # nnU-Net runs what is in a file; and says less about a damaged one
    with redirect_stdout(io.StringIO()):  # a warning that a CPU is no GPU
        predictor = MemberPredictor(device=device, perform_everything_on_device=device.type == "cuda", allow_tqdm=False)
        try:
            predictor.initialize_from_trained_model_folder(str(folder.path), (fold,), FINAL)  # type: ignore[arg-type]
        except (RuntimeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return predictor


def same_validation(model: ValidatedModel, folders: Sequence[ModelFolder], folds: Sequence[str]) -> None:
    """Raises ValueError for a model that lacks a fold, saw a validation case of another, or is a copy of another."""
    if not folds:
        there = "; ".join(f"{f.path}: {' '.join(f.finished_folds()) or 'none'}" for f in folders)
        raise ValueError(f"no fold has finished its validation{' in all models' if len(folders) > 1 else ''}. {there}")
    model.predictions(folds)  # refuses a fold `all` and folds without validation
    ending = model.dataset_json["file_ending"]

    def names(folder: ModelFolder, fold: str) -> list[str]:
        return sorted(p.name for p in folder.fold(fold).validation.glob(f"*{ending}"))

    for folder, fold in _product(folders, folds):
        if not folder.fold(fold).final.is_file():
            raise ValueError(f"{folder.fold(fold).final}: no such file; train fold {fold} to its end")
        if names(folder, fold) != names(folders[0], fold):
            raise ValueError(
                f"{folder.path}: fold {fold} has other validation cases than in {folders[0].path}: it saw some of them "
                "in training. Train all on one split"
            )
    for first, second in itertools.combinations(folders, 2):
        for fold in folds:
            if _same_weights(first.fold(fold).final, second.fold(fold).final):
                raise ValueError(
                    f"{second.path}: fold {fold} has the weights of {first.path}: a copy, or trained with its seed. "
                    "Members that are alike cannot disagree; train with another nnUNet_mamba_seed"
                )


def _same_weights(first: Path, second: Path) -> bool:
    a, b = (checkpoints.read(path, mmap=True).get("network_weights", {}) for path in (first, second))
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def _product(folders: Sequence[ModelFolder], folds: Sequence[str]) -> Iterator[tuple[ModelFolder, str]]:
    return ((folder, fold) for folder in folders for fold in folds)
