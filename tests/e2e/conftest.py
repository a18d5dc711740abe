"""Small real datasets in nnU-Net's folders, and a way to run nnU-Net's commands on them.

Networks and patches are cut down in the plans file, nothing else: conversion, preprocessing, training, prediction are
nnU-Net's own commands in processes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import nnunet_mamba

SOURCE = Path(nnunet_mamba.__file__).parent / "data" / "hippocampus" / "Task04_Hippocampus"
CASES = 6
BRIEF = "_NoMirroring_1epoch_2its"  # without mirroring prediction takes an eighth of the time
FEATURES = [4, 8, 8, 16]
# the planned patch holds a whole case: smaller ones would mean hundreds of windows per prediction
PATCH = [40, 56, 40]
COMMAND_LIMIT_S = 900  # of a whole cross-validation on a busy machine; only against waiting for ever


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders, for one dataset."""

    root: Path
    dataset: str

    @property
    def raw(self) -> Path:
        return self.root / "raw" / self.dataset

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / self.dataset

    @property
    def results(self) -> Path:
        return self.root / "results" / self.dataset

    @property
    def number(self) -> str:
        return str(int(self.dataset[7:10]))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "nnUNet_raw": str(self.root / "raw"),
            "nnUNet_preprocessed": str(self.root / "preprocessed"),
            "nnUNet_results": str(self.root / "results"),
            "nnUNet_n_proc_DA": "1",  # nnU-Net's own planner does not take 0
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
        }

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        program = Path(sys.executable).parent / str(command[0])
        return subprocess.Popen(
            [str(program), *map(str, command[1:])],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str | Path, succeeds: bool = True) -> str:
        """Run one command to its end and return what it printed."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"{command} took more than {COMMAND_LIMIT_S} s:\n{output[-3000:]}")
        if (process.returncode == 0) != succeeds:
            pytest.fail(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output[-4000:]}")
        return output

    def train(self, configuration: str, fold: int, trainer: str, *more: str | Path, succeeds: bool = True) -> str:
        return self.run(
            "nnUNetv2_train", self.number, configuration, str(fold), "-tr", trainer, "-device", "cpu", *more,
            succeeds=succeeds,
        )  # fmt: skip

    def model(self, trainer: str, plans: str, configuration: str) -> Path:
        return self.results / f"{trainer}__{plans}__{configuration}"

    def read_plans(self, name: str) -> dict[str, Any]:
        return json.loads((self.preprocessed / f"{name}.json").read_text(encoding="utf-8"))

    def write_plans(self, name: str, plans: dict[str, Any]) -> None:
        (self.preprocessed / f"{name}.json").write_text(json.dumps(plans, indent=1))

    def shrink(self, name: str, configurations: Iterable[str]) -> None:
        """Cut the network and the patch of these configurations down to what two cores train in seconds."""
        plans = self.read_plans(name)
        for configuration in configurations:
            chosen = plans["configurations"][configuration]
            dim = len(chosen["patch_size"])
            chosen["patch_size"] = PATCH[-dim:]
            chosen["batch_size"] = 2
            kwargs = chosen["architecture"]["arch_kwargs"]
            kwargs["features_per_stage"] = FEATURES[: kwargs["n_stages"]]
        self.write_plans(name, plans)

    def wait_for(self, path: Path, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + COMMAND_LIMIT_S
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
                pytest.fail(f"{path} did not appear:\n{process.communicate()[0][-3000:]}")
            time.sleep(0.05)


def check_prediction(workspace: Workspace, folder: Path, allowed: set[int]) -> None:
    images = sorted((workspace.raw / "imagesTs").glob("*.nii.gz"))
    for image in images:
        predicted = sitk.ReadImage(str(folder / image.name.replace("_0000", "")))
        original = sitk.ReadImage(str(image))
        assert predicted.GetSize() == original.GetSize()
        assert np.allclose(predicted.GetOrigin(), original.GetOrigin())
        assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= allowed


def predict(workspace: Workspace, folder: Path, *more: str | Path) -> None:
    workspace.run(
        "nnUNetv2_predict", "-d", workspace.number, "-i", workspace.raw / "imagesTs", "-o", folder, "-f", "0",
        "-device", "cpu", "-npp", "1", "-nps", "1", *more,
    )  # fmt: skip


def _two_folds(cases: list[str]) -> list[dict[str, list[str]]]:
    half = len(cases) // 2
    first, second = cases[:half], cases[half:]
    return [{"train": second, "val": first}, {"train": first, "val": second}]


def _raw_dataset(workspace: Workspace, labels: dict[str, Any], relabel, **more: Any) -> None:
    """The first cases of the bundled data as an nnU-Net raw dataset, labels passed through `relabel`."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (workspace.raw / folder).mkdir(parents=True)
    names = sorted(p.name.removesuffix(".nii.gz") for p in (SOURCE / "imagesTr").glob("*.nii.gz"))[:CASES]
    for name in names:
        shutil.copy(SOURCE / "imagesTr" / f"{name}.nii.gz", workspace.raw / "imagesTr" / f"{name}_0000.nii.gz")
        label = sitk.ReadImage(str(SOURCE / "labelsTr" / f"{name}.nii.gz"), sitk.sitkUInt8)
        sitk.WriteImage(relabel(label), str(workspace.raw / "labelsTr" / f"{name}.nii.gz"))
    unseen = sorted((SOURCE / "imagesTs").glob("*.nii.gz"))[0]
    shutil.copy(unseen, workspace.raw / "imagesTs" / unseen.name.replace(".nii.gz", "_0000.nii.gz"))
    information = {
        "channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(names), "file_ending": ".nii.gz", **more
    }  # fmt: skip
    (workspace.raw / "dataset.json").write_text(json.dumps(information))
    (workspace.raw / "splits_final.json").write_text(json.dumps(_two_folds(names)))


@pytest.fixture(scope="session")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Planned for SegMamba by our planner and for nnU-Net's own network by nnU-Net's, preprocessed once."""
    workspace = Workspace(tmp_path_factory.mktemp("hippocampus"), "Dataset004_Hippocampus")
    _raw_dataset(workspace, {"background": 0, "anterior": 1, "posterior": 2}, lambda label: label)
    output = workspace.run(
        "nnUNetv2_plan_and_preprocess", "-d", "4", "-pl", "nnUNetPlannerSegMamba", "-c", "2d", "3d_fullres", "-np", "1",
        "-npfp", "1", "--verify_dataset_integrity",
    )  # fmt: skip
    assert "nnUNetSegMambaPlans" in output
    workspace.run("nnUNetv2_plan_experiment", "-d", "4")
    for plans in ("nnUNetSegMambaPlans", "nnUNetPlans"):
        workspace.shrink(plans, ("2d", "3d_fullres"))
    return workspace


@pytest.fixture(scope="session")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Nested regions and an ignore label: one slab of every label map is not annotated."""

    def leave_out_a_slab(label: sitk.Image) -> sitk.Image:
        voxels = sitk.GetArrayFromImage(label)
        voxels[: voxels.shape[0] // 4] = 3
        changed = sitk.GetImageFromArray(voxels)
        changed.CopyInformation(label)
        return changed

    workspace = Workspace(tmp_path_factory.mktemp("regions"), "Dataset005_Regions")
    _raw_dataset(
        workspace,
        {"background": 0, "whole": [1, 2], "posterior": [2], "ignore": 3},
        leave_out_a_slab,
        regions_class_order=[1, 2],
    )
    workspace.run(
        "nnUNetv2_plan_and_preprocess", "-d", "5", "-pl", "nnUNetPlannerSegMamba", "-c", "3d_fullres", "-np", "1",
        "-npfp", "1",
    )  # fmt: skip
    workspace.shrink("nnUNetSegMambaPlans", ("3d_fullres",))
    return workspace
