"""nnU-Net's own commands on the device, on the real cases of the package."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Workspace, _raw_dataset
from tests.gpu.conftest import DRY

TRAINER = "nnUNetTrainerSegMamba_2epochs_2its" if DRY else "nnUNetTrainerSegMamba_2epochs_25its"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("gpu"), "Dataset004_Hippocampus")
    _raw_dataset(workspace, {"background": 0, "anterior": 1, "posterior": 2}, lambda label: label)
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    if DRY:
        workspace.shrink("nnUNetPlans", ("3d_fullres",))
    return workspace


def _losses(log: str) -> list[float]:
    return [float(value) for value in re.findall(r"train_loss (\S+)", log)]


@pytest.mark.parametrize("compiled", ["f", "t"] if not DRY else ["f"])
def test_two_epochs_and_a_prediction(
    planned: Workspace, compiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "environment", Workspace.environment.fget(planned) | {"nnUNet_compile": compiled})
    device = "cpu" if DRY else "cuda"
    output = planned.run("nnUNetv2_train", "4", "3d_fullres", "0", "-tr", TRAINER, "-device", device)
    losses = _losses(output)
    assert len(losses) == 2
    assert all(map(math.isfinite, losses)), losses
    assert DRY or losses[1] < losses[0]
    assert "Mean Validation Dice" in output
    planned.run(
        "nnUNetv2_predict", "-d", "4", "-i", planned.raw / "imagesTs", "-o", tmp_path, "-f", "0", "-c", "3d_fullres",
        "-tr", TRAINER, "-device", device, "-npp", "1", "-nps", "1",
    )  # fmt: skip
    assert list(tmp_path.glob("*.nii.gz"))


@pytest.mark.card
def test_two_gpus_train_one_model(planned: Workspace) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second CUDA device")
    output = planned.run("nnUNetv2_train", "4", "3d_fullres", "1", "-tr", TRAINER, "-num_gpus", "2")
    assert "Mean Validation Dice" in output
