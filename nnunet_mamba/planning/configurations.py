"""Configurations derived from one of a dataset's own: another patch, batch or network, everything else inherited."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.datasets import dataset_name, plans_file
from nnunet_mamba.names.architecture_entry import follow_widths, total_stride
from nnunet_mamba.nnunet_folders import Dataset, roots
from nnunet_mamba.planning.estimate import architecture_memory, card_gigabytes
from nnunet_mamba.whole_files import read_object, write_json

AXES = "zyx"
"""Order of the axes in nnU-Net's arrays before its transposition; recipes and grids count x y z, as images do."""
MIN_EDGE, NO_LIMIT = 4, 999999  # nnU-Net's: smallest axis at the bottleneck; number of poolings
MOST_FEATURES = {2: 512, 3: 320}  # nnU-Net's widths


@dataclass(frozen=True)
class DatasetPlans:
    """A dataset's plans file and what goes with it."""

    dataset: str
    path: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]

    @classmethod
    def load(cls, dataset_id: str | int, *names: str) -> DatasetPlans:
        """The first of these plans that is there. Raises ValueError naming what is and the command that makes them."""
        roots("nnUNet_preprocessed")
        dataset = dataset_name(dataset_id)
        path = plans_file(dataset, *names)
        plans, information = read_object(path), read_object(Dataset(dataset).preprocessed_dataset_json)
        return cls(dataset, path, plans, information)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def channels(self) -> int:
        return len(self.dataset_json["channel_names" if "channel_names" in self.dataset_json else "modality"])

    def configuration(self, name: str) -> dict[str, Any]:
        """With everything it inherits. Raises ValueError naming the known ones."""
        manager = PlansManager(copy.deepcopy(self.plans))
        if name not in manager.available_configurations:
            raise ValueError(
                f"configuration {name!r} is not in {self.name} of {self.dataset}; it has: "
                f"{', '.join(manager.available_configurations)}"
            )
        return manager.get_configuration(name).configuration

    def in_plan_order(self, patch_xyz: Sequence[int], dim: int) -> list[int]:
        """Voxels along x y z (2d: along the two axes of a slice) in the order of this plan's axes."""
        if len(patch_xyz) != dim or any(int(p) != p or p < 1 for p in patch_xyz):
            raise ValueError(f"patch {list(patch_xyz)}: expected {dim} whole numbers, voxels along x y z")
        if dim == 2:
            return [int(p) for p in reversed(patch_xyz)]
        array = [int(patch_xyz["xyz".index(axis)]) for axis in AXES]
        return [array[axis] for axis in self.plans["transpose_forward"]]

    def axis_names(self, dim: int) -> list[str]:
        """What the plan's axes are in the image."""
        names = [AXES[axis] for axis in self.plans["transpose_forward"]]
        return names if dim == 3 else names[1:]

    def memory(self, configuration: Mapping[str, Any]) -> int:
        """Bytes of a training step of this configuration, by the planners' estimate."""
        patch, batch = configuration["patch_size"], configuration["batch_size"]
        classes = len(self.dataset_json["labels"])
        return architecture_memory(configuration["architecture"], self.channels, classes, patch).peak(batch, patch)

    def add(self, configurations: Mapping[str, Mapping[str, Any]], overwrite: bool = False) -> list[str]:
        """Write configurations into the plans file, at once or not at all; returns the names of those that are new.

        Raises ValueError for a name that is taken by another configuration, unless `overwrite`.
        """
        present = self.plans["configurations"]
        plain = json.loads(json.dumps(configurations))
        taken = [name for name, new in plain.items() if name in present and present[name] != new]
        if taken and not overwrite:
            raise ValueError(
                f"{', '.join(taken)}: in {self.name} already, and different; give --overwrite to replace, and mind "
                "that finished trainings keep the name"
            )
        new = [name for name in plain if present.get(name) != plain[name]]
        present.update(plain)
        write_json(self.path, self.plans)
        return new


def nnunet_topology(patch: Sequence[int], spacing: Sequence[float], base: int, most: int) -> dict[str, Any]:
    """Stages, widths, kernels and strides by nnU-Net's own rules for a patch in the plan's order of axes.

    Raises ValueError with the patch that would work if the strides do not divide this one.
    """
    _, strides, kernels, fitting, divisors = get_pool_and_conv_props(list(spacing), list(patch), MIN_EDGE, NO_LIMIT)
    if [int(f) for f in fitting] != list(patch):
        raise ValueError(
            f"patch {list(patch)} (order of the plan's axes): nnU-Net's strides for it need multiples of "
            f"{[int(d) for d in divisors]}; use {[int(f) for f in fitting]}"
        )
    n = len(strides)
    if n < 2:
        raise ValueError(
            f"patch {list(patch)} (order of the plan's axes): too small, nnU-Net's rules give it a single stage; use "
            f"at least {2 * MIN_EDGE} voxels along an axis"
        )
    return {
        "n_stages": n,
        "features_per_stage": [min(most, base * 2**i) for i in range(n)],
        "kernel_sizes": [list(map(int, k)) for k in kernels],
        "strides": [list(map(int, s)) for s in strides],
    }


def for_patch(parent: Mapping[str, Any], patch: Sequence[int], batch: int) -> dict[str, Any]:
    """The parent's network on another patch and batch, with nnU-Net's topology for them; the rest is inherited."""
    kwargs = parent["architecture"]["arch_kwargs"]
    topology = {}
    if list(patch) != list(parent["patch_size"]):
        widths = kwargs["features_per_stage"]
        most = max(max(widths), MOST_FEATURES[len(patch)])
        topology = nnunet_topology(patch, parent["spacing"], widths[0], most)
    return with_topology(parent, topology, patch, batch)


def isotropic_topology(given: Mapping[str, Sequence[int]], dim: int) -> dict[str, Any]:
    """A recipe's stages, whose kernels and strides are the same along every axis, as a network's keywords"""
    return {
        "n_stages": len(given["features_per_stage"]),
        "features_per_stage": list(given["features_per_stage"]),
        "kernel_sizes": [[k] * dim for k in given["kernel_sizes"]],
        "strides": [[s] * dim for s in given["strides"]],
    }


def with_topology(
    parent: Mapping[str, Any], topology: Mapping[str, Any], patch: Sequence[int], batch: int
) -> dict[str, Any]:
    """The parent's network with these stages, none for its own, on another patch and batch; the rest is inherited."""
    architecture = copy.deepcopy(parent["architecture"])
    kwargs, made = architecture["arch_kwargs"], dict(topology)
    if made:
        stages = kwargs["n_stages"]
        for key, value in kwargs.items():
            if key not in made and isinstance(value, list) and len(value) in (stages, stages - 1):
                # one number per stage, as for nnU-Net's convolutions: the last one also for further stages
                count = made["n_stages"] - (stages - len(value))
                made[key] = (value + [value[-1]] * count)[:count]
        kwargs.update(made)
        follow_widths(architecture)
        if kwargs.get("patch_size") is not None:
            kwargs["patch_size"] = list(patch)
    return {"patch_size": list(patch), "batch_size": int(batch), "architecture": architecture}


def shrunk_configuration(parent: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """A configuration that inherits from `parent`: narrower, smaller batch and patch, same topology.

    With `coarsen` its voxels are larger by this factor along every axis, and it has preprocessed data of its own.
    """
    architecture = copy.deepcopy(parent["architecture"])
    kwargs = architecture["arch_kwargs"]
    kwargs["features_per_stage"] = [
        min(recipe["base_features"] * 2**stage, recipe["max_features"]) for stage in range(kwargs["n_stages"])
    ]
    follow_widths(architecture)
    coarsen = recipe.get("coarsen", 1)
    step = total_stride(kwargs["strides"])
    patch = [math.ceil(p / coarsen / s) * s for p, s in zip(parent["patch_size"], step, strict=True)]
    made = {
        "inherits_from": recipe["inherits_from"],
        "batch_size": recipe["batch_size"],
        "patch_size": shrink_patch(patch, step, recipe["max_patch_voxels"]),
        "architecture": architecture,
    }
    return made | coarsened(parent, coarsen)


def coarsened(parent: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """What a configuration says whose voxels are larger by `factor` along every axis than those of `parent`"""
    if factor == 1:
        return {}
    return {
        "data_identifier": f"{parent['data_identifier']}_coarsened_{factor:g}",
        "spacing": [factor * s for s in parent["spacing"]],
        "median_image_size_in_voxels": [s / factor for s in parent["median_image_size_in_voxels"]],
    }


def shrink_patch(patch: Sequence[int], step: Sequence[int], max_voxels: int) -> list[int]:
    """The patch made smaller along its longest axis, in steps the strides allow, until it has `max_voxels` at most."""
    size = [int(p) for p in patch]
    while math.prod(size) > max_voxels:
        shrinkable = [axis for axis in range(len(size)) if size[axis] >= 3 * step[axis]]
        if not shrinkable:
            break
        axis = max(shrinkable, key=lambda a: size[a])
        size[axis] -= step[axis]
    return size


def gigabytes(tensors: float) -> str:
    """What these bytes of tensors need of a card"""
    return f"{card_gigabytes(tensors):.2f} GB"
