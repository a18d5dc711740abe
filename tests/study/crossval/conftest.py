"""A study whose files are only names: what is planned and what counts as done depends on nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.models import Model, pair_models

DATASET = "Dataset007_Toy"
CASES = [f"toy_{i:03d}" for i in range(10)]
TRAINERS = ["nnUNetTrainerSegMamba", "nnUNetTrainer"]
CONFIGURATIONS = {
    "3d_lowres": {"data_identifier": "nnUNetPlans_3d_lowres", "architecture": {}},
    "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres", "architecture": {}},
    "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two models, two folds; nothing planned yet, two unseen cases with labels."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name / DATASET).mkdir(parents=True)
    raw = tmp_path / "nnUNet_raw" / DATASET
    names = [(f, c) for f, cases in (("Tr", CASES), ("Ts", ["new_1", "new_2"])) for c in cases]
    for folder, case in names:
        for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
            path = raw / f"{kind}{folder}" / f"{case}{ending}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    information = {"labels": {"background": 0, "toy": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**information, "numTraining": len(CASES)}))
    models = pair_models(TRAINERS, ["nnUNetPlans"], ["3d_fullres"])
    return Study(DATASET, models, (0, 1), tmp_path / "out", "cpu")


def write_plans(study: Study, name: str = "nnUNetPlans") -> None:
    study.folders.preprocessed.mkdir(exist_ok=True)
    plans = {"dataset_name": DATASET, "plans_name": name, "configurations": CONFIGURATIONS}
    (study.folders.preprocessed / f"{name}.json").write_text(json.dumps(plans))


def finish_fold(study: Study, model: Model, fold: int, npz: bool = True) -> None:
    """What a finished training leaves"""
    folder = study.fold(model, fold).validation
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "checkpoint_final.pth").touch()
    for case in CASES[fold::2]:
        (folder / f"{case}.nii.gz").touch()
        if npz:
            (folder / f"{case}.npz").touch()
    (folder / "summary.json").write_text("{}")


def choose(study: Study, *models: Model) -> None:
    """What nnU-Net's choice leaves"""
    information = {
        "considered_models": [{"trainer": m.trainer, "plans": m.plans, "configuration": m.configuration}
                              for m in study.models],
        "folds": study.folds, "ensembling_allowed": study.ensembling and len(study.models) > 1,
        "best_model_or_ensemble": {
            "selected_model_or_models": [{"trainer": m.trainer, "plans_identifier": m.plans,
                                          "configuration": m.configuration} for m in models],
            "postprocessing_file": "pp.pkl", "some_plans_file": "plans.json",
        },
    }  # fmt: skip
    study.folders.results.mkdir(parents=True, exist_ok=True)
    study.folders.choice.write_text(json.dumps(information))
