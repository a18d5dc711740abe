"""Folders as nnU-Net leaves them after two folds of two models: real cases, predictions made from the truth."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import nnunet_mamba

SOURCE = Path(nnunet_mamba.__file__).parent / "data" / "hippocampus" / "Task04_Hippocampus"
DATASET = "Dataset004_Hippocampus"
CASES = sorted(p.name.removesuffix(".nii.gz") for p in (SOURCE / "labelsTr").glob("*.nii.gz"))[:8]
GOOD, BAD = "nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres", "nnUNetTrainer__nnUNetPlans__3d_fullres"
NETWORK_NUMBERS = 4 * 3 + 5
LOG = """2026-01-01 10:00:00.000000: Epoch 0
2026-01-01 10:01:00.000000: predicting {0}
2026-01-01 10:01:00.500000: {0}, shape torch.Size([1, 36, 50, 35]), rank 0
2026-01-01 10:01:02.000000: predicting {1}
2026-01-01 10:01:05.000000: Validation complete
"""


@dataclass(frozen=True)
class Workspace:
    root: Path

    @property
    def results(self) -> Path:
        return self.root / "res" / DATASET

    @property
    def raw(self) -> Path:
        return self.root / "raw" / DATASET

    @property
    def truth(self) -> Path:
        return self.root / "pre" / DATASET / "gt_segmentations"


def spoiled(label: np.ndarray, shift: int, random: np.random.Generator) -> np.ndarray:
    """The truth moved by some voxels, a few of them lost"""
    moved = np.roll(label, shift, axis=1)
    return np.where(random.uniform(size=label.shape) < 0.02, 0, moved).astype(np.uint8)


def write_like(voxels: np.ndarray, reference: sitk.Image, target: Path) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(reference)
    target.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(target))


def _model(folder: Path, truth: Path, shift: int, seconds: float) -> None:
    random = np.random.default_rng(shift)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    (folder / "plans.json").write_text("{}")
    for fold, cases in enumerate((CASES[::2], CASES[1::2])):
        for case in cases:
            label = sitk.ReadImage(str(truth / f"{case}.nii.gz"))
            voxels = spoiled(sitk.GetArrayFromImage(label), shift, random)
            write_like(voxels, label, folder / f"fold_{fold}" / "validation" / f"{case}.nii.gz")
        (folder / f"fold_{fold}" / "validation" / "summary.json").write_text("{}")
        weight = torch.zeros(4, 3)
        begun = [1000.0 * i for i in range(3)]
        log = {
            "train_losses": [0.9, 0.5, 0.1], "val_losses": [1.0, 0.7, 0.6], "mean_fg_dice": [0.1, 0.4, 0.6],
            "ema_fg_dice": [0.1, 0.2, 0.3], "epoch_start_timestamps": begun,
            "epoch_end_timestamps": [b + seconds for b in begun], "peak_memory_gb": [float("nan"), 1.25, 1.5],
        }  # fmt: skip
        state = {"network_weights": {"a": weight, "the same again": weight, "b": torch.zeros(5)}, "logging": log}
        torch.save(state, folder / f"fold_{fold}" / "checkpoint_final.pth")
        (folder / f"fold_{fold}" / "training_log_2026_1_1_10_00_00.txt").write_text(LOG.format(*cases))
        (folder / f"fold_{fold}" / "debug.json").write_text('{"device": "cpu"}')


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    space = Workspace(tmp_path)
    for case in CASES:
        for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (space.raw / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / folder / f"{case}.nii.gz", space.raw / folder / f"{case}{ending}")
        space.truth.mkdir(parents=True, exist_ok=True)
        label = sitk.ReadImage(str(SOURCE / "labelsTr" / f"{case}.nii.gz"), sitk.sitkUInt8)
        sitk.WriteImage(label, str(space.truth / f"{case}.nii.gz"))
    information = {
        "channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(CASES), "file_ending": ".nii.gz",
    }  # fmt: skip
    (space.raw / "dataset.json").write_text(json.dumps(information))
    _model(space.results / GOOD, space.truth, 1, 30.0)
    _model(space.results / BAD, space.truth, 3, 60.0)
    for name, folder in (("nnUNet_raw", "raw"), ("nnUNet_preprocessed", "pre"), ("nnUNet_results", "res")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return space
