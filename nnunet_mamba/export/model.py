"""A trained model as its files tell it: plans, labels, members, and the network with a member's weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_mamba import checkpoints
from nnunet_mamba.nnunet_folders import ALL, FINAL, FOLD, ModelFolder
from nnunet_mamba.whole_files import read_object, short

MIRRORING = "inference_allowed_mirroring_axes"


@dataclass
class TrainedModel:
    """A model of nnU-Net's, its folds (members) and the name of their checkpoints.

    trainer, configuration: names. mirroring: axes of the patch that prediction mirrors.
    """

    folder: ModelFolder
    folds: tuple[str, ...]
    checkpoint: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    trainer: str
    configuration: str
    mirroring: tuple[int, ...]

    @classmethod
    def read(cls, folder: ModelFolder, folds: Sequence[str] | None = None, checkpoint: str = FINAL) -> TrainedModel:
        """folds: None for all that have the checkpoint. Raises ValueError naming the file and what is wrong with it."""
        plans, dataset_json = read_object(folder.plans), read_object(folder.dataset_json)
        for path, content, keys in (
            (folder.plans, plans, ("configurations", "plans_name", "dataset_name", "transpose_forward")),
            (folder.dataset_json, dataset_json, ("labels", "file_ending")),
        ):
            missing = [key for key in keys if key not in content]
            if missing:
                raise ValueError(f'{path}: not as nnU-Net writes it: "{missing[0]}" is missing')
        chosen = _folds(folder, folds, checkpoint)
        first = read_checkpoint(folder.fold(chosen[0]).path / checkpoint)
        found = cls(
            folder, chosen, checkpoint, plans, dataset_json, first["trainer_name"],
            first["init_args"]["configuration"], _mirroring(first, folder.fold(chosen[0]).path / checkpoint),
        )  # fmt: skip
        found.check()
        return found

    def check(self) -> None:
        """Raises ValueError for plans without the configuration, and for labels that nnU-Net refuses."""
        if self.configuration not in self.manager.available_configurations:
            there = ", ".join(self.manager.available_configurations)
            raise ValueError(
                f"{self.folder.plans}: has {there}, but the checkpoints were trained on {self.configuration}"
            )
        try:
            _ = self.labels
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"{self.folder.dataset_json}: {error}") from None

    @cached_property
    def manager(self) -> PlansManager:
        return PlansManager(self.plans)

    @cached_property
    def planned(self) -> ConfigurationManager:
        return self.manager.get_configuration(self.configuration)

    @cached_property
    def labels(self) -> LabelManager:
        """With the thresholds that the plans name"""
        return self.manager.get_label_manager(self.dataset_json)

    @property
    def patch(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.planned.patch_size)

    @property
    def inputs(self) -> int:
        """Channels of the network: the image's, and in a cascade one per label of the stage before"""
        return int(determine_num_input_channels(self.manager, self.planned, self.dataset_json))

    @property
    def outputs(self) -> int:
        return int(self.labels.num_segmentation_heads)

    def network(self, fold: str) -> nn.Module:
        """With the weights of a fold, on the CPU, in float32, without deep supervision, ready to predict.

        Raises ValueError for a trainer that is not known here, and for weights that do not fit the plans.
        """
        path = self.folder.fold(fold).path / self.checkpoint
        network = self._build()
        try:
            network.load_state_dict(self.weights(fold))
        except RuntimeError as error:
            line = str(error).strip().splitlines()[1:2] or [str(error)]
            raise ValueError(f"{path}: does not fit the network of {self.folder.plans}: {line[0].strip()}") from None
        return network.float().eval()

    def weights(self, fold: str) -> dict[str, Tensor]:
        """Of a fold, as they are stored. Raises ValueError for a file that is no checkpoint."""
        return _weights(read_checkpoint(self.folder.fold(fold).path / self.checkpoint))

    def _build(self) -> nn.Module:
        try:
            trainer = recursive_find_trainer_class_by_name(self.trainer)
        except RuntimeError:
            raise ValueError(
                f"trainer {self.trainer}: neither nnU-Net nor nnunet-mamba has it; install what it came from, or name "
                "its folder in nnUNet_extTrainer"
            ) from None
        if "plans_manager" not in inspect.signature(trainer.build_network_architecture).parameters:
            raise ValueError(
                f"trainer {self.trainer}: its build_network_architecture has the parameters of an nnU-Net before 2.8; "
                "bring it up to date"
            )
        return trainer.build_network_architecture(
            self.manager, self.planned, self.inputs, self.outputs, enable_deep_supervision=False
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a training; no code in it is run. Raises ValueError for other files."""
    content = checkpoints.read(path, mmap=True)
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("network_weights"), Mapping)
        or not isinstance(content.get("trainer_name"), str)
        or not isinstance(content.get("init_args"), Mapping)
        or not isinstance(content["init_args"].get("configuration"), str)
    ):
        raise ValueError(f"{path}: no checkpoint of a training with nnU-Net, which names its trainer and configuration")
    return content


def _weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in checkpoint["network_weights"].items()}


def _mirroring(checkpoint: dict[str, Any], path: Path) -> tuple[int, ...]:
    given = checkpoint.get(MIRRORING)
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)) or not all(type(axis) is int and 0 <= axis < 3 for axis in given):
        raise ValueError(f"{path}: {MIRRORING} is {short(given)}; expected numbers of axes from 0 to 2")
    return tuple(given)


def _folds(folder: ModelFolder, wanted: Sequence[str] | None, checkpoint: str) -> tuple[str, ...]:
    there = sorted((p.parent.name.removeprefix(FOLD) for p in folder.path.glob(f"{FOLD}*/{checkpoint}")), key=_order)
    if not there:
        others = sorted({p.name for p in folder.path.glob(f"{FOLD}*/*.pth")})
        has = f"its folds have {', '.join(others)}; choose one with -c" if others else "none of its folds has any"
        raise ValueError(f"{folder.path.name}: no fold has {checkpoint}; {has}")
    if wanted is None:
        numbered = tuple(fold for fold in there if fold != ALL)
        return numbered or tuple(there)  # as nnU-Net: `all` only where there is nothing else
    missing = [fold for fold in wanted if fold not in there]
    if missing:
        raise ValueError(f"-f {' '.join(wanted)}: no {checkpoint} in fold {missing[0]}; there is -f {' '.join(there)}")
    twice = next((fold for fold in wanted if list(wanted).count(fold) > 1), None)
    if twice is not None:
        raise ValueError(f"-f {' '.join(wanted)}: fold {twice} is given twice")
    return tuple(wanted)


def _order(fold: str) -> tuple[bool, int, str]:
    return not fold.isdecimal(), int(fold) if fold.isdecimal() else 0, fold
