"""Converted downloads through nnU-Net's own commands: verified, planned, trained, predicted, brought back."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.examples import make_asoca, make_brats_tree
from tests.e2e.conftest import Workspace

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerSegMamba_NoMirroring_1epoch_2its"  # prediction takes an eighth of the time


def _convert(root: Path, name: str, dataset: str) -> Workspace:
    workspace = Workspace(root, dataset)
    (root / "raw").mkdir()
    number = str(int(dataset[7:10]))
    output = workspace.run("nnunet-mamba", "convert", name, "-i", root / "download", "-o", root / "raw", "-d", number)
    assert f"next: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity" in output
    verified = workspace.run(
        "nnUNetv2_plan_and_preprocess", "-d", number, "-pl", "nnUNetPlannerSegMamba", "-c", "3d_fullres", "-np", "1",
        "-npfp", "1", "--verify_dataset_integrity",
    )  # fmt: skip
    assert "verify_dataset_integrity Done" in verified
    assert "Warning" not in verified.split("verify_dataset_integrity Done")[0]
    return workspace


def test_brats_regions(tmp_path: Path) -> None:
    make_brats_tree(tmp_path / "download", 2021)
    workspace = _convert(tmp_path, "brats", "Dataset521_BraTS2021")
    workspace.shrink("nnUNetSegMambaPlans", ("3d_fullres",))
    output = workspace.train("3d_fullres", 0, TRAINER, "-p", "nnUNetSegMambaPlans", "--npz")
    assert "Mean Validation Dice" in output
    summary = workspace.model(TRAINER, "nnUNetSegMambaPlans", "3d_fullres") / "fold_0" / "validation" / "summary.json"
    assert set(json.loads(summary.read_text(encoding="utf-8"))["mean"]) == {"(1, 2, 3)", "(1, 3)", "(3,)"}
    model = ("-d", "521", "-c", "3d_fullres", "-tr", TRAINER, "-p", "nnUNetSegMambaPlans")
    assert "gain, each case" in workspace.run("nnunet-mamba", "calibrate", *model)
    stored = summary.parents[2] / "thresholds.json"
    chosen = {
        **json.loads(stored.read_text(encoding="utf-8")),
        "thresholds": [0.3, 0.4, 0.45],
    }  # whatever two iterations led to
    stored.write_text(json.dumps(chosen))
    assert "LabelManagerThresholds_300_400_450" in workspace.run("nnunet-mamba", "calibrate", *model, "--apply")
    workspace.run(
        "nnUNetv2_predict", "-i", workspace.raw / "imagesTs", "-o", tmp_path / "out", "-f", "0", *model,
        "-device", "cpu", "-npp", "1", "-nps", "1", "--save_probabilities",
    )  # fmt: skip
    (predicted,), (npz,) = (list((tmp_path / "out").glob(f"*.{kind}")) for kind in ("nii.gz", "npz"))
    probabilities, painted = np.load(npz)["probabilities"], sitk.GetArrayFromImage(sitk.ReadImage(str(predicted)))
    expected = np.zeros(painted.shape, painted.dtype)
    order = json.loads((workspace.raw / "dataset.json").read_text(encoding="utf-8"))["regions_class_order"]
    for probability, threshold, value in zip(probabilities, chosen["thresholds"], order, strict=True):
        expected[probability > threshold] = value
    assert np.array_equal(painted, expected), "nnU-Net's own command applies the thresholds"
    back = ("--back", tmp_path / "out", "--year", "2021", "-o", tmp_path / "b")
    workspace.run("nnunet-mamba", "convert", "brats", *back)
    (brought,) = (tmp_path / "b").glob("*.nii.gz")
    assert brought.name == "BraTS2021_00101.nii.gz"
    values = set(np.unique(nibabel.load(brought).get_fdata()))
    assert values <= {0, 1, 2, 4}


def test_asoca(tmp_path: Path) -> None:
    make_asoca(tmp_path / "download", (3, 3), (1, 1), (48, 48, 24))
    workspace = _convert(tmp_path, "asoca", "Dataset510_ASOCA")
    plans = workspace.read_plans("nnUNetSegMambaPlans")
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == ["CTNormalization"]
    folds = json.loads((workspace.preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    assert folds == json.loads((workspace.raw / "splits_final.json").read_text(encoding="utf-8")), (
        "the planner took our folds"
    )


def test_sweep_on_real_data(hippocampus: Workspace, tmp_path: Path) -> None:
    grid = tmp_path / "grid.json"
    grid.write_text(json.dumps({
        "plans": "nnUNetSegMambaPlans", "configuration": "3d_fullres", "trainer": TRAINER,
        "batch_size": [2, 3], "initial_lr": [0.001],
    }))  # fmt: skip
    command = ("nnunet-mamba", "sweep", "-d", hippocampus.number, grid, "-device", "cpu", "--run")
    output = hippocampus.run(*command)
    table = [line for line in output.splitlines() if line.startswith("| ")]
    assert len(table) == 4
    assert all(0 <= float(line.split("|")[-2]) <= 1 for line in table[2:])
    assert "2 of 2 trainings finished" in hippocampus.run(*command)
    folder = (
        hippocampus.results / "nnUNetTrainerSegMamba_lr1e-3_NoMirroring_1epoch_2its__nnUNetSegMambaPlans__3d_fullres_b3"
    )
    assert (folder / "fold_0" / "checkpoint_final.pth").is_file()
