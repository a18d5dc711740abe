"""A recipe of a paper or report as a configuration of a dataset's plans, checked against that dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_mamba.names import networks
from nnunet_mamba.names.architecture_entry import architecture_for, total_stride
from nnunet_mamba.planning.configurations import (
    MOST_FEATURES,
    DatasetPlans,
    gigabytes,
    isotropic_topology,
    nnunet_topology,
)
from nnunet_mamba.planning.estimate import budget_bytes
from nnunet_mamba.planning.recipe_format import check_recipe

CONV = {2: "torch.nn.modules.conv.Conv2d", 3: "torch.nn.modules.conv.Conv3d"}
SMALL = 0.5
"""Images smaller than this share of the patch along an axis are mostly padding."""


@dataclass(frozen=True)
class Merged:
    """A recipe in a dataset's plans: the configuration's name and content, its estimated bytes, what to look at."""

    name: str
    network: networks.Network
    configuration: dict[str, Any]
    memory: int
    remarks: tuple[str, ...]


def merge(recipe: Mapping[str, Any], plans: DatasetPlans, budget_gb: float | None = None) -> Merged:
    """Raises ValueError for a recipe that is incomplete, does not divide, or does not fit into `budget_gb`."""
    network = check_recipe(recipe)
    parent = plans.configuration(recipe["inherits_from"])
    dim = len(parent["patch_size"])
    patch = plans.in_plan_order(recipe["patch_size"], dim)
    architecture = architecture_for(
        network, {"network_class_name": "", "arch_kwargs": _topology(recipe, network, patch, parent)}, patch
    )
    step = total_stride(architecture["arch_kwargs"]["strides"])
    if any(p % s for p, s in zip(patch, step, strict=True)):
        fitting = [max(s, round(p / s) * s) for p, s in zip(patch, step, strict=True)]
        names = " ".join(plans.axis_names(dim))
        raise ValueError(
            f"recipe {recipe['name']}: patch {patch} (axes {names}) is not divisible by the network's strides {step}; "
            f"nearest: {fitting}"
        )
    made = {
        "inherits_from": recipe["inherits_from"],
        "patch_size": patch,
        "batch_size": recipe["batch_size"],
        "architecture": architecture,
    }
    memory = plans.memory(made)
    if budget_gb is not None and memory > budget_bytes(budget_gb):
        raise ValueError(
            f"recipe {recipe['name']}: a training step takes about {gigabytes(memory)}, more than -gpu_memory_target "
            f"{budget_gb:g}. A smaller patch for this budget: nnUNetv2_plan_experiment -d {plans.dataset} -pl "
            f"{network.planner} -gpu_memory_target {budget_gb:g}"
        )
    return Merged(recipe["configuration"], network, made, memory, tuple(_remarks(parent, patch, plans)))


def preview(merged: Merged, recipe: Mapping[str, Any], plans: DatasetPlans) -> str:
    """What the configuration will be, for a person to read before it is trained."""
    parent = plans.configuration(recipe["inherits_from"])
    made, dim = merged.configuration, len(merged.configuration["patch_size"])
    kwargs, spacing = made["architecture"]["arch_kwargs"], parent["spacing"]
    axes = zip(plans.axis_names(dim), made["patch_size"], spacing, parent["median_image_size_in_voxels"], strict=True)
    lines = [
        f"{recipe['name']} -> configuration {merged.name} of {plans.name}, {plans.dataset}",
        f"  source     {recipe['source']}",
        *(f"  differs    {text}" for text in recipe["differs"]),
        f"  network    {merged.network.name}, widths {' '.join(map(str, kwargs['features_per_stage']))}",
        f"  strides    {' '.join('x'.join(map(str, s)) for s in kwargs['strides'])}",
        "  axis       patch   spacing       extent   median image",
        *(f"  {axis:<6} {p:8d}   {s:5.3g} mm {p * s:9.1f} mm {m:11.0f}" for axis, p, s, m in axes),
        f"  batch      {made['batch_size']}; the plan had patch {[int(p) for p in parent['patch_size']]}, batch "
        f"{parent['batch_size']}",
        f"  memory     about {gigabytes(merged.memory)} of a card for training",
        *(f"  mind       {text}" for text in merged.remarks),
    ]
    return "\n".join(lines)


def _topology(
    recipe: Mapping[str, Any], network: networks.Network, patch: list[int], parent: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe's own stages, or nnU-Net's for this patch at the recipe's widths"""
    dim = len(patch)
    if "topology" in recipe:
        made = isotropic_topology(recipe["topology"], dim)
    else:
        base = recipe.get("base_features", network.base_features)
        most = recipe.get("max_features", network.max_features or MOST_FEATURES[dim])
        made = nnunet_topology(patch, parent["spacing"], base, most)
    return {**made, "conv_op": CONV[dim]}


def _remarks(parent: Mapping[str, Any], patch: list[int], plans: DatasetPlans) -> list[str]:
    remarks = []
    names, medians = plans.axis_names(len(patch)), parent["median_image_size_in_voxels"]
    padded = [a for a, p, m in zip(names, patch, medians, strict=True) if m < SMALL * p]
    if padded:
        remarks.append(f"the median image is less than half as long as the patch along {' '.join(padded)}: padding")
    if parent.get("previous_stage"):
        remarks.append(f"second stage of a cascade: train {parent['previous_stage']} first")
    return remarks
