"""Whatever the dataset looks like: every plan loads, builds, trains, and fits its budget by the estimate."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba import planning
from nnunet_mamba.names import networks
from nnunet_mamba.names.architecture_entry import follow_widths, total_stride
from nnunet_mamba.planning.base import nnUNetPlannerMamba
from nnunet_mamba.planning.estimate import architecture_memory, budget_bytes, nnunet_loss
from tests.planning.fingerprints import DATASET, write_dataset

STAGE_WIDTHS = [4, 8, 8, 8, 8, 8, 8, 8, 8]
SMALLEST_BUDGET = 24.0  # GB with which the widest network plans any of these datasets


@st.composite
def fingerprints(draw: st.DrawFn) -> dict[str, Any]:
    axes = [draw(st.integers(16, 1024)) for _ in range(3)]
    spacing = [draw(st.floats(0.25, 2.0)) for _ in range(3)]  # 1:8 at most
    if draw(st.sampled_from([False, False, True])):
        axes[0], spacing[0] = 1, 999.0
    return {"shape": axes, "spacing": spacing, "channels": draw(st.integers(1, 6)), "cases": draw(st.integers(5, 999))}


@pytest.mark.slow
@given(name=st.sampled_from(networks.planners()), fingerprint=fingerprints())
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_plan_trains_within_the_budget(name: str, fingerprint: dict[str, Any]) -> None:
    planner: type[nnUNetPlannerMamba] = getattr(planning, name)
    with tempfile.TemporaryDirectory() as root, mock.patch.dict(os.environ):
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = str(Path(root) / variable)
        folder = write_dataset(Path(root), **fingerprint)
        made = planner(DATASET, gpu_memory_target_in_gb=SMALLEST_BUDGET)
        made.plan_experiment()
        path = folder / f"{made.plans_identifier}.json"
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(
            json.dumps(json.loads(path.read_text(encoding="utf-8")))
        )
        manager = PlansManager(str(path))
    assert ("3d_fullres" in manager.available_configurations) == (fingerprint["shape"][0] != 1)
    for configuration in manager.available_configurations:
        _check(manager, configuration, fingerprint["channels"])


def _check(manager: PlansManager, name: str, channels: int) -> None:
    chosen = manager.get_configuration(name)
    architecture = chosen.configuration["architecture"]
    stride = total_stride(architecture["arch_kwargs"]["strides"])
    assert chosen.batch_size >= 2
    assert min(chosen.patch_size) >= 4, "nnU-Net's Gaussian blur fails on less"
    assert all(p % s == 0 for p, s in zip(chosen.patch_size, stride, strict=True))
    estimate = architecture_memory(architecture, channels, 2, chosen.patch_size)
    assert estimate.peak(chosen.batch_size, chosen.patch_size) <= budget_bytes(SMALLEST_BUDGET)

    small = copy.deepcopy(architecture["arch_kwargs"])
    small["features_per_stage"] = STAGE_WIDTHS[: small["n_stages"]]
    follow_widths({**architecture, "arch_kwargs": small})
    # two voxels along one axis of the bottleneck: instance norm refuses a single value
    patch = [2 * s if axis == len(stride) - 1 else s for axis, s in enumerate(stride)]
    if small.get("patch_size") is not None:
        small["patch_size"] = patch
    network = get_network_from_plans(
        architecture["network_class_name"], small, architecture["_kw_requires_import"], channels, 2,
        deep_supervision=True,
    )  # fmt: skip
    outputs = network(torch.randn(2, channels, *patch))
    assert [o.shape[1] for o in outputs] == [2] * (small["n_stages"] - 1)
    if len(outputs) > 1:  # nnU-Net's loss has no weights for a single output
        targets = [torch.zeros(o.shape[0], 1, *o.shape[2:]) for o in outputs]
        loss = nnunet_loss(len(outputs))(outputs, targets)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_stock_commands_find_every_planner() -> None:
    for name in networks.planners():
        found = recursive_find_python_class("unused", name, "nnunetv2.experiment_planning")
        assert found is getattr(planning, name)
