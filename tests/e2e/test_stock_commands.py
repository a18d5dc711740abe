"""nnU-Net's own commands with our names, on the CPU, on real data."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.e2e.conftest import BRIEF, CASES, Workspace, check_prediction, predict

pytestmark = pytest.mark.slow

SHORT = "_2epochs_2its"
SEGMAMBA, TWIN = "nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaNoMamba"
OURS, STOCK = "nnUNetSegMambaPlans", "nnUNetPlans"


def test_cross_validation_prediction_and_best_configuration(hippocampus: Workspace, tmp_path: Path) -> None:
    """SegMamba and its twin on our plans: train both folds, find the best or the ensemble, predict three ways."""
    for trainer in (SEGMAMBA + SHORT, TWIN + SHORT):
        for fold in (0, 1):
            output = hippocampus.train("3d_fullres", fold, trainer, "-p", OURS, "--npz")
            assert "Mean Validation Dice" in output
    model = hippocampus.model(SEGMAMBA + SHORT, OURS, "3d_fullres")
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == SEGMAMBA + SHORT
    weights = checkpoint["network_weights"]
    assert any(key.endswith("A_s_log") for key in weights)
    assert all(torch.isfinite(value).all() for value in weights.values())
    twin = torch.load(
        hippocampus.model(TWIN + SHORT, OURS, "3d_fullres") / "fold_0" / "checkpoint_final.pth", weights_only=False
    )
    assert not any("A_log" in key for key in twin["network_weights"])

    hippocampus.run(
        "nnUNetv2_find_best_configuration", "4", "-c", "3d_fullres", "-tr", SEGMAMBA + SHORT, TWIN + SHORT, "-p", OURS,
        "-f", "0", "1", "-np", "1",
    )  # fmt: skip
    information = json.loads((hippocampus.results / "inference_information.json").read_text(encoding="utf-8"))
    assert len(information["all_results"]) == 3  # two models and their ensemble

    predict(hippocampus, tmp_path / "a", "-c", "3d_fullres", "-tr", SEGMAMBA + SHORT, "-p", OURS)
    check_prediction(hippocampus, tmp_path / "a", {0, 1, 2})
    hippocampus.run(
        "nnUNetv2_predict_from_modelfolder", "-m", model, "-i", hippocampus.raw / "imagesTs", "-o", tmp_path / "b",
        "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1",
    )  # fmt: skip
    check_prediction(hippocampus, tmp_path / "b", {0, 1, 2})
    name = next((tmp_path / "a").glob("*.nii.gz")).name
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / folder / name))) for folder in "ab")
    assert np.array_equal(a, b)


def test_our_trainer_follows_stock_plans_and_the_stock_trainer_ours(hippocampus: Workspace) -> None:
    hippocampus.train("3d_fullres", 0, SEGMAMBA + BRIEF, "-p", STOCK)
    hippocampus.train("3d_fullres", 0, "nnUNetTrainer" + BRIEF, "-p", OURS)
    stock = torch.load(
        hippocampus.model("nnUNetTrainer" + BRIEF, OURS, "3d_fullres") / "fold_0" / "checkpoint_final.pth",
        weights_only=False,
    )
    assert any(key.endswith("A_s_log") for key in stock["network_weights"]), "the plan names SegMamba"


def test_two_dimensions(hippocampus: Workspace, tmp_path: Path) -> None:
    hippocampus.train("2d", 0, SEGMAMBA + BRIEF, "-p", OURS)
    predict(hippocampus, tmp_path / "out", "-c", "2d", "-tr", SEGMAMBA + BRIEF, "-p", OURS)
    check_prediction(hippocampus, tmp_path / "out", {0, 1, 2})


def test_a_killed_training_continues(hippocampus: Workspace) -> None:
    trainer = SEGMAMBA + "_4epochs_3its"
    folder = hippocampus.model(trainer, OURS, "3d_fullres") / "fold_0"
    command = ("nnUNetv2_train", "4", "3d_fullres", "0", "-tr", trainer, "-p", OURS, "-device", "cpu")
    process = hippocampus.start(*command)
    hippocampus.wait_for(folder / "checkpoint_latest.pth", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "checkpoint_final.pth").exists()

    output = hippocampus.run(*command, "--c")
    continued = [int(number) for number in re.findall(r"Epoch (\d+)", output)]
    assert 0 < continued[0] <= 3
    assert continued[-1] == 3
    history = torch.load(folder / "checkpoint_final.pth", weights_only=False)["logging"]
    assert len(history["train_losses"]) == 4
    assert np.isfinite(history["train_losses"]).all()


def test_pretrained_weights_fit_another_label_set(hippocampus: Workspace, regions: Workspace) -> None:
    """All weights but the heads are taken over: nnU-Net's loader asserts equal shapes for everything else."""
    source = hippocampus.model(SEGMAMBA + SHORT, OURS, "3d_fullres") / "fold_0" / "checkpoint_final.pth"
    if not source.exists():
        hippocampus.train("3d_fullres", 0, SEGMAMBA + SHORT, "-p", OURS)
    output = regions.train("3d_fullres", 1, SEGMAMBA + BRIEF, "-p", OURS, "-pretrained_weights", source)
    assert "Loading pretrained weights" in output


def test_regions_and_ignore_label(regions: Workspace, tmp_path: Path) -> None:
    regions.train("3d_fullres", 0, SEGMAMBA + BRIEF, "-p", OURS)
    predict(regions, tmp_path / "out", "-c", "3d_fullres", "-tr", SEGMAMBA + BRIEF, "-p", OURS)
    check_prediction(regions, tmp_path / "out", {0, 1, 2})


def test_cascade(hippocampus: Workspace, tmp_path: Path) -> None:
    """A 3d_lowres at 2 mm and a cascade on top of it: lowres predictions become an input of the second network."""
    name, trainer = OURS, SEGMAMBA + BRIEF
    plans = hippocampus.read_plans(name)
    configurations = plans["configurations"]
    configurations["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetSegMambaPlans_3d_lowres",
        "spacing": [2.0, 2.0, 2.0],
        "next_stage": "3d_cascade_fullres",
    }
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    hippocampus.write_plans(name, plans)
    hippocampus.run("nnUNetv2_preprocess", "-d", "4", "-plans_name", name, "-c", "3d_lowres", "-np", "1")
    for fold in (0, 1):
        hippocampus.train("3d_lowres", fold, trainer, "-p", name)
    previous = hippocampus.model(trainer, name, "3d_lowres") / "predicted_next_stage" / "3d_cascade_fullres"
    assert len(list(previous.glob("*"))) == CASES
    hippocampus.train("3d_cascade_fullres", 0, trainer, "-p", name)
    predict(hippocampus, tmp_path / "low", "-c", "3d_lowres", "-tr", trainer, "-p", name)
    predict(
        hippocampus, tmp_path / "full", "-c", "3d_cascade_fullres", "-tr", trainer, "-p", name,
        "-prev_stage_predictions", tmp_path / "low",
    )  # fmt: skip
    check_prediction(hippocampus, tmp_path / "full", {0, 1, 2})


def test_what_cannot_work_fails_before_anything_is_written(hippocampus: Workspace) -> None:
    plans = hippocampus.read_plans(OURS)
    broken = json.loads(json.dumps(plans))
    broken["configurations"]["3d_fullres"]["patch_size"] = [20, 56, 40]
    broken["plans_name"] = "brokenPlans"
    hippocampus.write_plans("brokenPlans", broken)
    before = sorted(hippocampus.results.rglob("*")) if hippocampus.results.exists() else []
    output = hippocampus.train("3d_fullres", 0, SEGMAMBA, "-p", "brokenPlans", succeeds=False)
    assert "patch (20, 56, 40) does not fit" in output
    assert "(16, 56, 40) or (24, 56, 40)" in output
    output = hippocampus.train("3d_full", 0, SEGMAMBA, "-p", OURS, succeeds=False)
    assert "configuration '3d_full' is not in plans" in output
    after = sorted(hippocampus.results.rglob("*")) if hippocampus.results.exists() else []
    assert after == before
