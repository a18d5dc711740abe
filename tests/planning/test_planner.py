"""Planners put our network into nnU-Net's plan, within its budget, and share its preprocessed data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import nnUNetPlanner_torchres
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba import planning
from nnunet_mamba.benchmarks import memory as benchmark
from nnunet_mamba.planning import nnUNetPlannerSegMamba, nnUNetPlannerSegMambaNoMamba, nnUNetPlannerUMambaBot
from nnunet_mamba.planning.base import nnUNetPlannerMamba
from nnunet_mamba.planning.estimate import architecture_memory, budget_bytes, card_gigabytes
from nnunet_mamba.planning.memory.training_step import Moment, StepMemory
from tests.planning.fingerprints import DATASET, SHAPES, write_dataset


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a raw dataset and its fingerprint; planning needs no voxels."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def make(kind: str, labels: dict[str, Any] | None = None) -> Path:
        shape, spacing = SHAPES[kind]
        return write_dataset(tmp_path, shape, spacing, labels=labels)

    return make


def _plan(planner: type[nnUNetPlannerSegMamba], folder: Path, **options: Any) -> PlansManager:
    made = planner(DATASET, **options)
    made.plan_experiment()
    return PlansManager(str(folder / f"{made.plans_identifier}.json"))


def _build(manager: PlansManager, name: str):
    chosen = manager.get_configuration(name)
    network = get_network_from_plans(
        chosen.network_arch_class_name,
        chosen.network_arch_init_kwargs,
        chosen.network_arch_init_kwargs_req_import,
        1,
        2,
    )
    return chosen, network


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "2d"])
def test_plans_load_and_build(kind: str, dataset) -> None:
    manager = _plan(nnUNetPlannerSegMamba, dataset(kind))
    assert manager.plans_name == "nnUNetSegMambaPlans"
    assert ("3d_fullres" in manager.available_configurations) == (kind != "2d")
    for name in manager.available_configurations:
        chosen, network = _build(manager, name)
        assert chosen.network_arch_class_name == "nnunet_mamba.architectures.segmamba.SegMamba"
        assert chosen.data_identifier == f"nnUNetPlans_{name}", "shares nnU-Net's preprocessed data"
        assert network.topology.features[:2] == (48, 96)
        assert max(network.topology.features) <= 768
        network.topology.check_patch(chosen.patch_size)


def test_twin_has_its_own_plans(dataset) -> None:
    manager = _plan(nnUNetPlannerSegMambaNoMamba, dataset("isotropic"))
    assert manager.plans_name == "nnUNetSegMambaNoMambaPlans"
    _, network = _build(manager, "3d_fullres")
    assert not any("A_log" in key for key in network.state_dict())


@pytest.mark.parametrize(("size", "gigabytes"), [("", 8), ("L", 24), ("XL", 40)])
def test_u_mamba2_is_planned_as_nnunets_presets(size: str, gigabytes: int, dataset) -> None:
    """Stages, blocks and widths of nnU-Net's residual encoder presets, in the budgets that they are for"""
    folder = dataset("isotropic")
    made = getattr(planning, f"nnUNetPlannerUMamba2{size}")(DATASET)
    assert made.UNet_vram_target_GB == gigabytes
    assert made.plans_identifier == f"nnUNetUMamba2{size}Plans"
    stock = getattr(residual_encoder_unet_planners, f"nnUNetPlannerResEnc{size or 'M'}")(DATASET)
    made.plan_experiment()
    stock.plan_experiment()
    ours, theirs = (PlansManager(str(folder / f"{p.plans_identifier}.json")) for p in (made, stock))
    for name in ("2d", "3d_fullres"):
        own, their = ours.get_configuration(name), theirs.get_configuration(name)
        assert own.data_identifier == their.data_identifier
        kwargs = dict(own.network_arch_init_kwargs)
        headdim = kwargs.pop("headdim")
        assert 2 * kwargs["features_per_stage"][-1] % headdim == 0
        assert set(kwargs) == set(their.network_arch_init_kwargs)
        n = min(kwargs["n_stages"], their.network_arch_init_kwargs["n_stages"])
        for key in ("n_blocks_per_stage", "features_per_stage"):
            assert kwargs[key][:n] == their.network_arch_init_kwargs[key][:n]
        _build(ours, name)


def test_torchres_resamples_as_nnunets(dataset) -> None:
    folder = dataset("isotropic")
    manager = _plan(planning.nnUNetPlannerUMambaBot_torchres, folder)
    stock = nnUNetPlanner_torchres(DATASET)
    stock.plan_experiment()
    theirs = PlansManager(str(folder / f"{stock.plans_identifier}.json"))
    assert manager.plans_name == "nnUNetUMambaBotPlans_torchres"
    for name in ("2d", "3d_fullres"):
        own, their = manager.get_configuration(name).configuration, theirs.get_configuration(name).configuration
        keys = [key for key in their if key.startswith("resampling_fn")]
        assert len(keys) == 6
        assert {key: own[key] for key in keys} == {key: their[key] for key in keys}
        assert own["data_identifier"] == their["data_identifier"] == f"nnUNetPlans_torchres_{name}"
        assert own["spacing"] == their["spacing"]


def test_planners_write_what_is_not_as_published(dataset) -> None:
    folder = dataset("2d")
    manager = _plan(planning.nnUNetPlannerUMambaBot_Mamba2_Conv3d, folder)
    assert manager.plans_name == "nnUNetUMambaBotPlans_Mamba2_Conv3d"
    chosen, network = _build(manager, "2d")
    assert chosen.network_arch_init_kwargs["mixer"] == "mamba2"
    assert chosen.network_arch_init_kwargs["conv3d"] is True
    assert "mamba_layer.mamba.conv3d.weight" in network.state_dict()


def test_other_preprocessing_gets_its_own_data(dataset) -> None:
    manager = _plan(nnUNetPlannerSegMamba, dataset("isotropic"), overwrite_target_spacing=[2.0, 2.0, 2.0])
    assert manager.get_configuration("3d_fullres").data_identifier == "nnUNetSegMambaPlans_3d_fullres"


def test_low_resolution_and_cascade_are_planned_and_plans_fill_the_budget(
    dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, sizes = dataset("large"), []
    for target in (6, 12):
        manager = _plan(nnUNetPlannerUMambaBot, folder, gpu_memory_target_in_gb=target, plans_name=f"plans{target}")
        assert set(manager.available_configurations) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
        assert manager.get_configuration("3d_lowres").data_identifier == f"plans{target}_3d_lowres"
        assert manager.get_configuration("3d_cascade_fullres").previous_stage_name == "3d_lowres"
        assert f"of {target} GB" in capsys.readouterr().out
        for name in ("2d", "3d_fullres", "3d_lowres"):
            chosen = manager.get_configuration(name)
            memory = architecture_memory(chosen.configuration["architecture"], 1, 2, chosen.patch_size)
            assert 0.6 < memory.peak(chosen.batch_size, chosen.patch_size) / budget_bytes(target) <= 1, name
            sizes.append(chosen.batch_size * np.prod(chosen.patch_size))
    assert all(small < large for small, large in zip(sizes[:3], sizes[3:], strict=True))


def test_no_axis_of_a_patch_becomes_too_short_for_the_augmentation(dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's Gaussian blur fails on patches of three slices: "Padding size should be less than ..." """
    folder = dataset("thin")
    monkeypatch.setattr(nnUNetPlannerUMambaBot, "_trace", _kilobytes_a_voxel)
    with pytest.raises(ValueError, match="The smallest that works is") as caught:
        _plan(nnUNetPlannerUMambaBot, folder, gpu_memory_target_in_gb=0.15)
    smallest = float(str(caught.value).split()[-1])
    manager = _plan(nnUNetPlannerUMambaBot, folder, gpu_memory_target_in_gb=smallest)
    assert min(manager.get_configuration("3d_fullres").patch_size) == 4


def _kilobytes_a_voxel(
    planner: nnUNetPlannerMamba, architecture: dict[str, Any], patch_size: Sequence[int]
) -> StepMemory:
    return StepMemory((Moment(1e8, 3000),), int(np.prod(patch_size)), len(patch_size))


@pytest.mark.parametrize("kind", ["isotropic", pytest.param("large", marks=pytest.mark.slow), "2d"])
def test_budget_too_small_for_any_plan(kind: str, dataset) -> None:
    folder = dataset(kind)
    with pytest.raises(ValueError, match=r"-gpu_memory_target 0.01: too small .* The smallest that works is") as caught:
        _plan(nnUNetPlannerUMambaBot, folder, gpu_memory_target_in_gb=0.01)
    assert not list(folder.glob("*Plans.json")), "nothing is left behind"
    smallest = float(str(caught.value).split()[-1])
    manager = _plan(nnUNetPlannerUMambaBot, folder, gpu_memory_target_in_gb=smallest)
    assert manager.available_configurations
    with pytest.raises(ValueError, match="too small"):
        _plan(nnUNetPlannerUMambaBot, folder, gpu_memory_target_in_gb=smallest - 0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_target_in_gb": 0}, "-gpu_memory_target 0; expected gigabytes > 0"),
        ({"overwrite_target_spacing": [1.0, -1.0, 1.0]}, "-overwrite_target_spacing .* millimetre values > 0"),
        ({"overwrite_target_spacing": [1.0]}, "expected three millimetre values"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str, dataset) -> None:
    dataset("isotropic")
    with pytest.raises(ValueError, match=message):
        nnUNetPlannerSegMamba(DATASET, **options)


def test_unusable_labels_fail_before_planning(dataset) -> None:
    folder = dataset("isotropic", {"background": 0, "a": 1, "b": 4})
    with pytest.raises(ValueError, match=r"not consecutive: \[2, 3\] missing"):
        nnUNetPlannerSegMamba(DATASET)
    assert not list(folder.glob("*Plans.json"))


def test_a_gigabyte_is_nnunets() -> None:
    """Tensors of the plan that nnU-Net's planner counts as 8 GB: 560 million elements, near its 128^3 with batch 2."""
    architecture = benchmark.architectures((128, 128, 128), 4, 4)["PlainConvUNet"]
    network = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], 4, 4,
        allow_init=False,
    )  # fmt: skip
    share = network.compute_conv_feature_map_size((128, 128, 128)) / 560_000_000
    tensors = architecture_memory(architecture, 4, 4, (128, 128, 128)).peak(2, (128, 128, 128))
    assert card_gigabytes(tensors / share) == pytest.approx(8, rel=0.01)
