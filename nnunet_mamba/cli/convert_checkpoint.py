"""`nnunet-mamba convert-checkpoint`: a published checkpoint as an nnU-Net model folder, or as pretrained weights."""

from __future__ import annotations

import argparse
import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet_folders import ALL, ModelFolder
from nnunet_mamba.whole_files import read_object, write_json

MIRRORING = "inference_allowed_mirroring_axes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="file with published weights (read without running code in it)")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="nnU-Net model folder to write; must not exist")
    parser.add_argument("--pretrained", type=Path, metavar="FILE", help="file for nnUNetv2_train -pretrained_weights")
    parser.add_argument(
        "--plans", type=Path, required=True, metavar="JSON", help="plans of the dataset it was made for"
    )
    parser.add_argument("--dataset-json", type=Path, metavar="JSON", help="dataset.json with its labels (for -o)")
    parser.add_argument("-c", default="3d_fullres", metavar="CONFIGURATION", help="default: %(default)s")
    parser.epilog = (
        "example: nnunet-mamba convert-checkpoint segmamba.pt -o model --plans nnUNetPlans.json --dataset-json "
        "dataset.json; then nnUNetv2_predict_from_modelfolder -i IN -o OUT -m model -f all"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for files and sizes that do not fit together; then nothing is written."""
    from nnunet_mamba.datasets import check_configuration_name

    if options.o is None and options.pretrained is None:
        raise ValueError("nothing to write: give -o FOLDER, --pretrained FILE, or both")
    if options.o is not None and options.dataset_json is None:
        raise ValueError("-o needs --dataset-json: a model folder carries the labels")
    for path in (options.checkpoint, options.plans, options.dataset_json):
        if path is not None and not path.is_file():
            raise ValueError(f"{path}: no such file")
    if options.o is not None and options.o.exists():
        raise ValueError(f"-o {options.o}: exists already; give another folder or remove it")
    _check_target(options.pretrained)
    plans = _read(options.plans, "configurations", "nnU-Net plans (nnUNet_preprocessed/DATASET/nnUNetPlans.json)")
    dataset = _read(options.dataset_json, "labels", "a dataset.json of nnU-Net") if options.dataset_json else None
    check_configuration_name(options.c, options.plans)

    conversion = convert(options.checkpoint, plans, options.c, dataset)
    print(f"{options.checkpoint} holds {conversion['kind']}: {conversion['config']}")
    for key in conversion["ignored"]:
        print(f"  left out, never used by the released forward: {key}")
    print(f"  not in the checkpoint, new: {', '.join(conversion['new']) or 'nothing'}")
    print(f"  mirrored in prediction: {_mirrored(conversion['mirroring'])}")
    if options.pretrained is not None:
        _save({"network_weights": conversion["weights"]}, options.pretrained)
        print(f"written: {options.pretrained}; train with -tr {conversion['trainer']} -pretrained_weights")
    if options.o is not None and dataset is not None:
        write_model_folder(options.o, conversion, dataset, options.c)
        print(f"written: {options.o}; predict with nnUNetv2_predict_from_modelfolder -m {options.o} -f all")
    return 0


def _check_target(file: Path | None) -> None:
    if file is not None and file.is_dir():
        raise ValueError(f"--pretrained {file} is a folder; name a file in it")
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"--pretrained {file}: no such folder: {file.parent}; make it first")


def convert(checkpoint: Path, plans: dict[str, Any], configuration: str, dataset: dict | None) -> dict[str, Any]:
    """Weights under plan-sized names, and plans that name the network they belong to."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_mamba import checkpoints, released
    from nnunet_mamba.names import networks

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
    extra = {}
    if "strides" in published.config_names():  # not to be read off weights: a plan-following network
        extra = {"strides": planned.pool_op_kernel_sizes, "patch_size": list(planned.patch_size)}
    network = released.load_released(weights, **extra)
    inputs, outputs, kwargs = published.kwargs(**network.config)
    network.network.check_patch(planned.patch_size)
    if dataset is not None:
        _check_dataset(manager, dataset, inputs, outputs)

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
    twin = kwargs.get("mixer") == "none"
    return {
        "kind": network.kind,
        "config": network.config,
        "ignored": network.ignored_keys,
        "new": new,
        "weights": state,
        "mirroring": mirroring,
        "plans": plans,
        "trainer": (record.twin if twin else record).trainer,
    }


def _read(path: Path, key: str, what: str) -> dict[str, Any]:
    """Raises ValueError for what is no JSON, or JSON without the key that `what` has."""
    content = read_object(path)
    if not isinstance(content.get(key), dict):
        raise ValueError(f'{path} is not {what}: it has no "{key}"')
    return content


def _mirroring(content: Any, axes: int) -> tuple[int, ...] | None:
    """The axes that a checkpoint of nnU-Net lets prediction mirror; None where it holds none or says nothing."""
    given = content.get(MIRRORING) if isinstance(content, Mapping) else None
    if given is None:
        return None
    if not isinstance(given, (list, tuple)) or not all(isinstance(a, int) and 0 <= a < axes for a in given):
        raise ValueError(f"the checkpoint's {MIRRORING} is {given!r}; expected numbers of axes from 0 to {axes - 1}")
    return tuple(given)


def _mirrored(axes: tuple[int, ...] | None) -> str:
    return "nothing; the checkpoint names no axes" if axes is None else f"axes {', '.join(map(str, axes)) or 'none'}"


def _check_dataset(manager: Any, dataset: dict[str, Any], inputs: int, outputs: int) -> None:
    channels = len(dataset.get("channel_names") or dataset.get("modality") or ())
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    if channels != inputs:
        raise ValueError(f"the checkpoint takes {inputs} channels, dataset.json names {channels}")
    if heads != outputs:
        raise ValueError(
            f"the checkpoint has {outputs} outputs, the labels of dataset.json need {heads} (background counts, unless "
            "the labels are regions)"
        )


def write_model_folder(folder: Path, conversion: dict[str, Any], dataset: dict[str, Any], configuration: str) -> None:
    """What nnU-Net's training leaves behind, as far as prediction reads it. Complete or not there at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    written = ModelFolder(partial)
    fold = written.fold(ALL)
    fold.path.mkdir(parents=True)
    write_json(written.plans, conversion["plans"])
    write_json(written.dataset_json, dataset)
    checkpoint = {
        "network_weights": conversion["weights"],
        "trainer_name": conversion["trainer"],
        "init_args": {"configuration": configuration},
        MIRRORING: conversion["mirroring"],
    }
    _save(checkpoint, fold.final)
    partial.rename(folder)


def _save(content: dict[str, Any], path: Path) -> None:
    import torch

    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.rename(path)
