"""Recipes are complete, found by name, and shrink a configuration to something the network can run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_mamba.names.architecture_entry import total_stride
from nnunet_mamba.planning.configurations import shrink_patch, shrunk_configuration
from nnunet_mamba.planning.recipes import load_recipe, recipe_folder
from tests.stock_plans import configuration


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.json")), ids=lambda p: p.stem)
def test_recipes_say_what_they_are(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe["name"] == path.stem
    assert recipe["purpose"]
    assert recipe["source"]
    assert recipe["differs"]
    assert load_recipe(path.stem) == recipe


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="hippocampus_demo"):
        load_recipe("hippocampus")


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from((1, 2, 4, 8))), min_size=2, max_size=3),
    st.integers(1, 20_000),
)
def test_shrunk_patch_fits_the_strides(axes: list[tuple[int, int]], most: int) -> None:
    patch, steps = [n * step for n, step in axes], [step for _, step in axes]
    size = shrink_patch(patch, steps, most)
    assert all(s % step == 0 and 0 < s <= p for s, p, (_, step) in zip(size, patch, axes, strict=True))
    smallest = all(s < 3 * step for s, (_, step) in zip(size, axes, strict=True))
    assert math.prod(size) <= most or smallest
    if math.prod(patch) <= most:
        assert size == patch


def test_the_longest_axis_is_shortened_and_two_steps_are_left() -> None:
    assert shrink_patch([32, 16], [4, 4], 32 * 16 - 1) == [28, 16]
    assert shrink_patch([16, 32, 16], [4, 4, 4], 16 * 28 * 16) == [16, 28, 16]
    assert shrink_patch([24, 24], [8, 8], 1) == [16, 16], "a step less would be a map of one voxel"


def test_shrunk_configuration_keeps_data_and_topology() -> None:
    parent = configuration(3)
    recipe = {"inherits_from": "3d_fullres", "batch_size": 1, "base_features": 3, "max_features": 6,
              "max_patch_voxels": 3000}  # fmt: skip
    made = shrunk_configuration(parent, recipe)
    assert made["architecture"]["arch_kwargs"]["features_per_stage"] == [3, 6, 6]
    assert made["architecture"]["arch_kwargs"]["strides"] == parent["architecture"]["arch_kwargs"]["strides"]
    assert math.prod(made["patch_size"]) <= 3000
    assert parent["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8, 8], "the parent is left alone"
    assert "data_identifier" not in made, "inherited"


def test_coarsened_configuration_has_data_of_its_own() -> None:
    parent = configuration(3)
    recipe = {"inherits_from": "3d_fullres", "batch_size": 1, "base_features": 3, "max_features": 6,
              "max_patch_voxels": 10**6, "coarsen": 2}  # fmt: skip
    made = shrunk_configuration(parent, recipe)
    assert made["spacing"] == [2 * s for s in parent["spacing"]]
    assert made["median_image_size_in_voxels"] == [s / 2 for s in parent["median_image_size_in_voxels"]]
    assert made["data_identifier"] != parent["data_identifier"]
    step = total_stride(parent["architecture"]["arch_kwargs"]["strides"])
    for small, large, divisor in zip(made["patch_size"], parent["patch_size"], step, strict=True):
        assert small % divisor == 0
        assert large / 2 <= small < large / 2 + divisor, "as much of the body as before, no more than needed"
