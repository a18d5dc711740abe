"""Planners put our network into nnU-Net's plan, within its budget, and share its preprocessed data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.planning.planners import nnUNetPlannerSegMamba, nnUNetPlannerSegMambaNoMamba

DATASET = "Dataset321_Planned"
SHAPES = {"isotropic": ([60, 70, 50], [1, 1, 1]), "anisotropic": ([24, 160, 160], [4, 0.5, 0.5]),
          "large": ([300, 300, 300], [1, 1, 1]), "2d": ([1, 120, 100], [999, 1, 1])}  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a raw dataset and its fingerprint; planning needs no voxels."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def make(kind: str, labels: dict[str, Any] | None = None) -> Path:
        shape, spacing = SHAPES[kind]
        raw, preprocessed = tmp_path / "nnUNet_raw" / DATASET, tmp_path / "nnUNet_preprocessed" / DATASET
        for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
            folder.mkdir(parents=True)
        tiny = sitk.GetImageFromArray(np.zeros((2, 2, 2), np.float32))
        for i in range(5):
            sitk.WriteImage(tiny, str(raw / "imagesTr" / f"case{i}_0000.nii.gz"))
            sitk.WriteImage(tiny, str(raw / "labelsTr" / f"case{i}.nii.gz"))
        information = {"channel_names": {"0": "MRI"}, "labels": labels or {"background": 0, "a": 1},
                       "numTraining": 200, "file_ending": ".nii.gz"}  # fmt: skip
        (raw / "dataset.json").write_text(json.dumps(information))
        fingerprint = {"spacings": [spacing] * 5, "shapes_after_crop": [shape] * 5,
                       "median_relative_size_after_cropping": 1.0,
                       "foreground_intensity_properties_per_channel": {}}  # fmt: skip
        (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        return preprocessed

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


def test_low_resolution_and_cascade_are_planned_and_budget_counts(dataset) -> None:
    folder = dataset("large")
    sizes = []
    for target in (8, 24):
        manager = _plan(nnUNetPlannerSegMamba, folder, gpu_memory_target_in_gb=target, plans_name=f"plans{target}")
        assert {"3d_lowres", "3d_cascade_fullres"} <= set(manager.available_configurations)
        assert manager.get_configuration("3d_lowres").data_identifier == f"plans{target}_3d_lowres"
        chosen = manager.get_configuration("3d_fullres")
        sizes.append(chosen.batch_size * np.prod(chosen.patch_size))
    assert sizes[0] < sizes[1]


def test_other_preprocessing_gets_its_own_data(dataset) -> None:
    manager = _plan(nnUNetPlannerSegMamba, dataset("isotropic"), overwrite_target_spacing=[2.0, 2.0, 2.0])
    assert manager.get_configuration("3d_fullres").data_identifier == "nnUNetSegMambaPlans_3d_fullres"


def test_scaled_count_equals_the_counted_one(dataset) -> None:
    folder = dataset("isotropic")
    manager = _plan(nnUNetPlannerSegMamba, folder)
    chosen, network = _build(manager, "3d_fullres")
    architecture = chosen.configuration["architecture"]
    network.decoder.deep_supervision = True  # as in training
    planner = nnUNetPlannerSegMamba(DATASET)
    stride = network.topology.total_stride
    for factor in (1, 2, 3):  # the first is counted, the others scaled
        patch = tuple(factor * s for s in stride)
        estimate = planner.static_estimate_VRAM_usage(
            patch, 1, 2, architecture["network_class_name"], architecture["arch_kwargs"], ("conv_op",)
        )
        assert estimate == pytest.approx(network.compute_conv_feature_map_size(patch), rel=1e-9)


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
