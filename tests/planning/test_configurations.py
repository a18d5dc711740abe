"""Configurations derived from a dataset's own: axes, topology, what is inherited, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.planning.configurations import DatasetPlans, for_patch, gigabytes, nnunet_topology
from nnunet_mamba.planning.merge_recipe import merge, preview
from nnunet_mamba.planning.recipes import load_recipe, recipe_folder
from tests.stock_plans import DATASET_JSON, stock_plans

DATASET = "Dataset999_Test"
RECIPES = sorted(p.stem for p in recipe_folder().glob("*.json") if "network" in load_recipe(p))


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetPlans:
    folder = tmp_path / DATASET
    folder.mkdir()
    made = stock_plans()
    made["configurations"]["3d_fullres"].update(spacing=[3.0, 1.0, 1.0], median_image_size_in_voxels=[30, 200, 180])
    made["transpose_forward"], made["transpose_backward"] = [1, 0, 2], [1, 0, 2]  # y first
    (folder / "nnUNetPlans.json").write_text(json.dumps(made))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return DatasetPlans.load(999, "nnUNetPlans")


def test_axes_follow_the_transposition(plans: DatasetPlans) -> None:
    # arrays are z y x; the plan puts y first
    assert plans.in_plan_order([10, 20, 30], 3) == [20, 30, 10]
    assert plans.axis_names(3) == ["y", "z", "x"]
    assert plans.in_plan_order([10, 30], 2) == [30, 10]
    assert plans.axis_names(2) == ["z", "x"]
    for wrong in ([10, 20], [10, 20, 0], [10, 20, 0.5]):
        with pytest.raises(ValueError, match="expected 3 whole numbers, voxels along x y z"):
            plans.in_plan_order(wrong, 3)  # type: ignore[arg-type]


def test_topology_is_nnunets_and_refuses_what_it_would_pad() -> None:
    made = nnunet_topology([32, 64, 64], [3.0, 1.0, 1.0], 32, 100)
    assert made["strides"][:2] == [[1, 1, 1], [1, 2, 2]], "the coarse axis is pooled later"
    assert made["kernel_sizes"][0] == [1, 3, 3]
    assert max(made["features_per_stage"]) == 100
    with pytest.raises(ValueError, match=r"need multiples of \[.*\]; use \[32, 64, 64\]"):
        nnunet_topology([30, 60, 63], [3.0, 1.0, 1.0], 32, 100)


@pytest.mark.parametrize("recipe_name", RECIPES)
def test_recipes_become_configurations(recipe_name: str, plans: DatasetPlans) -> None:
    recipe = load_recipe(recipe_name)
    merged = merge(recipe, plans)
    assert merged.configuration["patch_size"] == plans.in_plan_order(recipe["patch_size"], 3)
    text = preview(merged, recipe, plans)
    assert recipe["source"] in text
    assert f"about {gigabytes(merged.memory)}" in text
    said = "the median image is less than half as long as the patch along y: padding"
    assert said in text, "30 slices; 200 and 180 voxels are enough"
    assert plans.add({merged.name: merged.configuration}) == [merged.name]
    assert plans.add({merged.name: merged.configuration}) == [], "again: nothing to do"

    manager = PlansManager(str(plans.path))
    chosen = manager.get_configuration(merged.name)
    assert chosen.batch_size == recipe["batch_size"]
    assert chosen.spacing == [3.0, 1.0, 1.0], "inherited"
    network = get_network_from_plans(
        chosen.network_arch_class_name, chosen.network_arch_init_kwargs, chosen.network_arch_init_kwargs_req_import,
        1, 3,
    )  # fmt: skip
    network.check_patch(chosen.patch_size)
    with pytest.raises(ValueError, match=r"more than -gpu_memory_target 0\.5"):
        merge(recipe, plans, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [100, 128, 128]}, r"\[128, 128, 100\] \(axes y z x\) is not divisible .*: \[128, 128, 96\]"),
        ({"patch_size": [128, 128]}, "expected 3 whole numbers"),
        ({"network": "UNet"}, "unknown network 'UNet'; known: SegMamba"),
        ({"inherits_from": "3d_lowres"}, "'3d_lowres' is not in nnUNetPlans of Dataset999_Test; it has: 2d"),
        ({"topology": {"features_per_stage": [4, 8], "kernel_sizes": [3], "strides": [1, 2]}}, "as many kernel_sizes"),
    ],
)  # fmt: skip
def test_recipes_that_do_not_fit(change: dict[str, Any], message: str, plans: DatasetPlans) -> None:
    before = plans.path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        merge({**load_recipe("segmamba_brats"), **change}, plans)
    assert plans.path.read_text(encoding="utf-8") == before


def test_a_recipe_without_its_keys_is_named() -> None:
    with pytest.raises(ValueError, match=r"recipe hippocampus_demo: network, .* missing; not a recipe for plans"):
        merge(load_recipe("hippocampus_demo"), None)  # type: ignore[arg-type]


def test_names_that_are_taken(plans: DatasetPlans) -> None:
    assert plans.add({"a": {"inherits_from": "2d", "batch_size": 3}}) == ["a"]
    with pytest.raises(ValueError, match="a: in nnUNetPlans already, and different; give --overwrite"):
        plans.add({"a": {"inherits_from": "2d", "batch_size": 4}})
    assert plans.add({"a": {"inherits_from": "2d", "batch_size": 4}}, overwrite=True) == ["a"]
    assert json.loads(plans.path.read_text(encoding="utf-8"))["configurations"]["a"]["batch_size"] == 4


def test_missing_plans_name_those_that_are_there(plans: DatasetPlans) -> None:
    with pytest.raises(ValueError, match=r"has no A or B; it has nnUNetPlans\. Make them with nnUNetv2_plan"):
        DatasetPlans.load(999, "A", "B")


@pytest.mark.parametrize("batch", [1, 5])
def test_a_stock_network_on_another_patch(plans: DatasetPlans, batch: int) -> None:
    parent = plans.configuration("3d_fullres")
    made = for_patch(parent, [16, 64, 64], batch)
    kwargs = made["architecture"]["arch_kwargs"]
    n = kwargs["n_stages"]
    assert n > parent["architecture"]["arch_kwargs"]["n_stages"]
    assert len(kwargs["n_conv_per_stage"]) == n
    assert len(kwargs["n_conv_per_stage_decoder"]) == n - 1
    assert made["batch_size"] == batch
    same = for_patch(parent, parent["patch_size"], batch)
    assert same["architecture"] == parent["architecture"]
