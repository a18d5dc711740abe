"""A published checkpoint as nnU-Net's: a model folder to predict with, or weights to start a training from."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_mamba import checkpoints, released
from nnunet_mamba.names import networks
from nnunet_mamba.nnunet_folders import ALL, ModelFolder
from nnunet_mamba.whole_files import write_json

MIRRORING = "inference_allowed_mirroring_axes"


@dataclass(frozen=True)
class Conversion:
    """Weights under plan-sized names, and plans whose `configuration` names the network that they belong to.

    kind, config: which published network it is. ignored: published parameters that are left out, since nothing uses
    them; new: parameters that the checkpoint lacks. mirroring: axes, None where the checkpoint names none.
    """

    kind: str
    config: dict[str, Any]
    ignored: list[str]
    new: list[str]
    weights: dict[str, Tensor]
    mirroring: tuple[int, ...] | None
    plans: dict[str, Any]
    configuration: str
    trainer: str

    def write_pretrained(self, file: Path) -> None:
        """For `nnUNetv2_train -pretrained_weights`. Complete or not there at all."""
        _save({"network_weights": self.weights}, file)

    def write_model_folder(self, folder: Path, dataset_json: dict[str, Any]) -> None:
        """What nnU-Net's training leaves behind, as far as prediction reads it. Complete or not there at all."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        written = ModelFolder(partial)
        fold = written.fold(ALL)
        fold.path.mkdir(parents=True)
        write_json(written.plans, self.plans)
        write_json(written.dataset_json, dataset_json)
        checkpoint = {
            "network_weights": self.weights,
            "trainer_name": self.trainer,
            "init_args": {"configuration": self.configuration},
            MIRRORING: self.mirroring,
        }
        _save(checkpoint, fold.final)
        partial.rename(folder)


def convert(
    checkpoint: Path, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any] | None
) -> Conversion:
    """Of the network that the checkpoint's keys and shapes tell.

    Raises ValueError if checkpoint, plans and dataset do not fit together.
    """
    manager = PlansManager(copy.deepcopy(plans))
    if configuration not in manager.available_configurations:
        raise ValueError(
            f"-c {configuration}: not in these plans; they have: {', '.join(manager.available_configurations)}"
        )
    planned = manager.get_configuration(configuration)
    content = checkpoints.read(checkpoint)
    weights = released.read_weights(content)
    mirroring = _mirroring(content, len(planned.patch_size))
    published = released.recognise(weights)
    # not to be read off weights: of plan-following networks
    told = {"strides": planned.pool_op_kernel_sizes, "patch_size": list(planned.patch_size)}
    extra = {name: value for name, value in told.items() if name in published.config_names()}
    network = released.load_released(weights, **extra)
    inputs, outputs, kwargs = published.plan_keywords(**network.config)
    network.network.check_patch(planned.patch_size)
    if dataset_json is not None:
        _check_dataset(manager, dataset_json, inputs, outputs)

    record = networks.network(published.network)
    kwargs = {k: v for k, v in kwargs.items() if k != "deep_supervision"}
    full = get_network_from_plans(
        record.architecture, kwargs, ["conv_op"], inputs, outputs, allow_init=True, deep_supervision=True
    )
    state, loaded = full.state_dict(), network.network.state_dict()
    new = [key for key in state if key not in loaded]
    state.update(loaded)
    plans = copy.deepcopy(plans)
    plans["configurations"][configuration]["architecture"] = {
        "network_class_name": record.architecture,
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op"],
    }
    trained_by = record.twin if kwargs.get("mixer") == record.twin.mixer else record
    return Conversion(
        network.kind, network.config, network.ignored_keys, new, state, mirroring, plans, configuration,
        trained_by.trainer,
    )  # fmt: skip


def _mirroring(content: Any, axes: int) -> tuple[int, ...] | None:
    """The axes that a checkpoint of nnU-Net lets prediction mirror; None where it holds none or says nothing."""
    given = content.get(MIRRORING) if isinstance(content, Mapping) else None
    if given is None:
        return None
    if not isinstance(given, (list, tuple)) or not all(isinstance(a, int) and 0 <= a < axes for a in given):
        raise ValueError(f"the checkpoint's {MIRRORING} is {given!r}; expected numbers of axes from 0 to {axes - 1}")
    return tuple(given)


def _check_dataset(manager: PlansManager, dataset_json: dict[str, Any], inputs: int, outputs: int) -> None:
    channels = len(dataset_json.get("channel_names") or dataset_json.get("modality") or ())
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    if channels != inputs:
        raise ValueError(f"the checkpoint takes {inputs} channels, dataset.json names {channels}")
    if heads != outputs:
        raise ValueError(
            f"the checkpoint has {outputs} outputs, the labels of dataset.json need {heads} (background counts, unless "
            "the labels are regions)"
        )


def _save(content: dict[str, Any], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.rename(path)
