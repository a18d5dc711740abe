"""Small JSON recipes (`plans/`) and how one becomes a configuration of a dataset's plans."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nnunet_mamba
from nnunet_mamba.whole_files import read_object


def recipe_folder() -> Path:
    """Where the recipes are: in an installed package, or beside it in a source tree."""
    package = Path(nnunet_mamba.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "plans"


def recipe_names() -> list[str]:
    """Recipes that come with the package"""
    return sorted(p.stem for p in recipe_folder().glob("*.json"))


def load_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """A recipe by path or by the name of one that comes with the package. Raises ValueError naming those."""
    path = Path(name_or_path)
    if str(name_or_path) in recipe_names():
        path = recipe_folder() / f"{name_or_path}.json"
    try:
        there = path.is_file()
    except OSError:  # too long to be a file's name
        there = False
    if not there:
        near = difflib.get_close_matches(str(name_or_path), recipe_names(), n=1)
        meant = f". Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"no recipe {str(name_or_path)!r}: neither a file nor one of: {', '.join(recipe_names())}{meant}"
        )
    return read_object(path)


def shrunk_configuration(parent: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """A configuration that inherits from `parent`: narrower, smaller batch and patch, same topology.

    With `coarsen` its voxels are so many times larger along every axis, and it has preprocessed data of its own.
    """
    architecture = copy.deepcopy(parent["architecture"])
    kwargs = architecture["arch_kwargs"]
    kwargs["features_per_stage"] = [
        min(recipe["base_features"] * 2**stage, recipe["max_features"]) for stage in range(kwargs["n_stages"])
    ]
    coarsen = recipe.get("coarsen", 1)
    step = total_stride(kwargs["strides"])
    patch = [math.ceil(p / coarsen / s) * s for p, s in zip(parent["patch_size"], step, strict=True)]
    made = {
        "inherits_from": recipe["inherits_from"],
        "batch_size": recipe["batch_size"],
        "patch_size": shrink_patch(patch, step, recipe["max_patch_voxels"]),
        "architecture": architecture,
    }
    if coarsen != 1:
        made["data_identifier"] = f"{parent['data_identifier']}_coarsened_{coarsen:g}"
        made["spacing"] = [coarsen * s for s in parent["spacing"]]
        made["median_image_size_in_voxels"] = [s / coarsen for s in parent["median_image_size_in_voxels"]]
    return made


def total_stride(strides: Sequence[Sequence[int]]) -> list[int]:
    """What every axis of a patch must be divisible by."""
    return [math.prod(stage[axis] for stage in strides) for axis in range(len(strides[0]))]


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
