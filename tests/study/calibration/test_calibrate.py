"""`nnunet-mamba calibrate` on a model folder as nnU-Net leaves it, and what nnU-Net then makes of its predictions."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.cli.main import main
from nnunet_mamba.names.locate import parse_thresholds, thresholds_name
from nnunet_mamba.study.calibration import label_manager
from tests.stock_plans import DATASET_JSON, stock_plans

DATASET, MODEL = "Dataset999_Test", "nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres"
ARGUMENTS = ["calibrate", "-d", DATASET, "-tr", "nnUNetTrainerSegMamba", "-p", "nnUNetPlans", "-c", "3d_fullres"]
REGIONS = {**DATASET_JSON, "labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
SINGLE = {**DATASET_JSON, "labels": {"background": 0, "lesion": 1}}
SHAPE = (12, 10, 8)


def _model(
    root: Path, dataset_json: dict[str, Any], folds: int = 2, cases: int = 4, shift: float = 0.3, noise: float = 0.1
) -> Path:
    """Probabilities that are right at a threshold of `shift`, with noise."""
    model = root / "nnUNet_results" / DATASET / MODEL
    truths = root / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    truths.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for fold in range(2):
        validation = model / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        (validation / "summary.json").write_text("{}")
        for i in range(4):
            seg = np.zeros(SHAPE, np.uint8)
            seg[2:9, 2:8, 1:7] = 1
            if "regions_class_order" in dataset_json:
                seg[4:7, 4:6, 3:5] = 2
            sitk.WriteImage(sitk.GetImageFromArray(seg), str(truths / f"case{fold}{i}.nii.gz"))
            masks = [seg > 0, seg == 2] if "regions_class_order" in dataset_json else [seg > 0]
            sure = [np.clip(shift + np.where(m, 0.15, -0.15) + rng.normal(0, noise, SHAPE), 0, 1) for m in masks]
            heads = sure if len(masks) > 1 else [1 - sure[0], sure[0]]
            np.savez_compressed(validation / f"case{fold}{i}.npz", probabilities=np.stack(heads).astype(np.float32))
    (model / "plans.json").write_text(json.dumps({**stock_plans(), "dataset_name": DATASET}))
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    return model


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def _manager(model: Path) -> LabelManager:
    """As nnU-Net's predictor gets it"""
    plans, dataset_json = (json.loads((model / f).read_text(encoding="utf-8")) for f in ("plans.json", "dataset.json"))
    return PlansManager(plans).get_label_manager(dataset_json)


@pytest.mark.parametrize("dataset_json", [REGIONS, SINGLE], ids=["regions", "single"])
def test_choose_apply_remove(folders: Path, capsys: pytest.CaptureFixture[str], dataset_json: dict[str, Any]) -> None:
    model = _model(folders, dataset_json)
    before = (model / "plans.json").read_text(encoding="utf-8")
    assert main(ARGUMENTS) == 0
    shown = capsys.readouterr().out
    assert "gain, each case with thresholds chosen without its fold: +0." in shown
    assert "no evidence" not in shown
    assert (model / "plans.json").read_text(encoding="utf-8") == before, "stored, not applied"
    report = json.loads((model / "thresholds.json").read_text(encoding="utf-8"))
    assert all(0.2 <= t < 0.5 for t in report["thresholds"])
    assert report["interval"][0] > 0
    assert report["cases"] == 8

    assert main([*ARGUMENTS, "--apply"]) == 0
    manager = _manager(model)
    assert manager.thresholds == tuple(report["thresholds"])  # type: ignore[attr-defined]
    stock = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    logits = torch.randn(manager.num_segmentation_heads, 5, 6, 7)
    changed, plain = (m.convert_logits_to_segmentation(logits) for m in (manager, stock))
    assert (changed > 0).sum() > (plain > 0).sum()

    assert main([*ARGUMENTS, "--remove"]) == 0
    assert type(_manager(model)) is LabelManager


@pytest.mark.parametrize("dataset_json", [REGIONS, SINGLE], ids=["regions", "single"])
@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray])
def test_one_half_is_nnunets_own(dataset_json: dict[str, Any], kind: type) -> None:
    stock = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    made = getattr(label_manager, thresholds_name((0.5,) * label_manager.count_thresholds(stock)))
    ours = made(dataset_json["labels"], dataset_json.get("regions_class_order"))
    logits = torch.randn(2, 9, 8, 7)
    given = logits.numpy() if kind is np.ndarray else logits
    expected, result = (m.convert_logits_to_segmentation(given) for m in (stock, ours))
    assert isinstance(result, kind)
    assert np.array_equal(np.asarray(expected), np.asarray(result))
    probabilities = ours.apply_inference_nonlin(logits)
    assert np.array_equal(np.asarray(stock.convert_probabilities_to_segmentation(probabilities)),
                          np.asarray(ours.convert_probabilities_to_segmentation(probabilities)))  # fmt: skip


def test_ignored_voxels_have_no_say(folders: Path) -> None:
    model = _model(folders, SINGLE)
    assert main(ARGUMENTS) == 0
    plain = json.loads((model / "thresholds.json").read_text(encoding="utf-8"))
    dataset_json = {**SINGLE, "labels": {**SINGLE["labels"], "ignore": 2}}
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    for path in (folders / "nnUNet_preprocessed" / DATASET / "gt_segmentations").iterdir():
        seg = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        seg[:, :, 7] = 2
        sitk.WriteImage(sitk.GetImageFromArray(seg), str(path))
    for path in model.glob("fold_*/validation/*.npz"):
        with np.load(path) as file:
            probabilities = file["probabilities"]
        probabilities[1, :, :, 7] = 1.0  # all false alarms, where nobody counts
        np.savez_compressed(path, probabilities=probabilities)
    assert main(ARGUMENTS) == 0
    ignoring = json.loads((model / "thresholds.json").read_text(encoding="utf-8"))
    assert ignoring["mean_before"] == pytest.approx(plain["mean_before"], abs=0.01)
    assert ignoring["thresholds"] == pytest.approx(plain["thresholds"], abs=0.1)


def test_no_gain_is_said(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _model(folders, SINGLE, shift=0.5, noise=0.01)
    assert main([*ARGUMENTS, "-f", "0"]) == 0
    shown = capsys.readouterr().out
    assert "no evidence that these thresholds are better" in shown
    assert "without its part" in shown


def _lose_probabilities(model: Path) -> None:
    for path in model.glob("fold_0/validation/*.npz"):
        path.unlink()


def _many_labels(model: Path) -> None:
    (model / "dataset.json").write_text(json.dumps(DATASET_JSON))


def _other_grid(model: Path) -> None:
    path = next(model.glob("fold_1/validation/*.npz"))
    np.savez_compressed(path, probabilities=np.zeros((2, 3, 3, 3), np.float32))


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (_lose_probabilities, [], r"no probabilities. Write them: nnUNetv2_train Dataset999_Test 3d_fullres 0 -tr nn"),
        (_many_labels, [], "2 labels that exclude each other: the largest probability wins"),
        (_other_grid, [], r"\(3, 3, 3\), but .* is \(12, 10, 8\)"),
        (lambda model: None, ["-metric", "HD95"], "-metric HD95; expected one of Dice, IoU, F2, F0.5"),
        (lambda model: None, ["--apply"], r"thresholds.json: no such file; choose thresholds first"),
        (lambda model: None, ["--apply", "--remove"], "exclude each other"),
        (lambda model: None, ["-p", "nnUNetOther"], "no trained model there. In Dataset999_Test: nnUNetTrainer"),
        (lambda model: [p.unlink() for p in model.glob("fold_*/validation/summary.json")], [], "no fold has finished"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated(
    folders: Path, capsys: pytest.CaptureFixture[str], spoil: Any, arguments: list[str], message: str
) -> None:
    spoil(_model(folders, SINGLE))
    assert main([*ARGUMENTS, *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_names_hold_thresholds() -> None:
    assert parse_thresholds(thresholds_name((0.42, 0.5))) == (0.42, 0.5)
    for name in ("LabelManager", "LabelManagerThresholds", "LabelManagerThresholds_1000", "LabelManagerThresholds_x"):
        assert parse_thresholds(name) is None
    with pytest.raises(ValueError, match="expected numbers between 0 and 1"):
        thresholds_name((0.0,))


def test_thresholds_of_another_dataset_are_refused(folders: Path) -> None:
    model = _model(folders, SINGLE)
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    (model / "plans.json").write_text(json.dumps({**plans, "label_manager": "LabelManagerThresholds_300_400"}))
    with pytest.raises(ValueError, match="has 2 thresholds, this dataset needs 1"):
        _manager(model)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dataset_json", [REGIONS, SINGLE], ids=["regions", "single"])
def test_a_probability_equal_to_its_threshold_is_background(dataset_json: dict[str, Any], kind: str) -> None:
    """As `over_thresholds` counts it when thresholds are chosen, and nnU-Net at one half"""
    manager = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    below, equal, above = np.nextafter(np.float32(0.25), [np.float32(0), np.float32(0.25), np.float32(1)])
    values = np.array([below, equal, above], np.float32).reshape(1, 1, 1, 3)
    probabilities: Any = np.concatenate([values, values])
    if kind == "torch":
        probabilities = torch.from_numpy(probabilities)
    made = label_manager.with_thresholds(manager, probabilities, (0.25, 0.25)[: 1 + manager.has_regions])
    assert [bool(v) for v in np.asarray(made).ravel()] == [False, False, True]


def _nan(model: Path) -> None:
    path = next(model.glob("fold_1/validation/*.npz"))
    with np.load(path) as file:
        probabilities = file["probabilities"]
    probabilities[1, 2, 3, 4] = np.nan
    np.savez_compressed(path, probabilities=probabilities)


def _no_archive(model: Path) -> None:
    next(model.glob("fold_1/validation/*.npz")).write_bytes(b"PK nothing")


def _cut(model: Path) -> None:
    path = next(model.glob("fold_1/validation/*.npz"))
    path.write_bytes(path.read_bytes()[:-400])


def _other_array(model: Path) -> None:
    np.savez(next(model.glob("fold_1/validation/*.npz")), other=np.zeros(3))


def _other_channels(model: Path) -> None:
    np.savez(next(model.glob("fold_1/validation/*.npz")), probabilities=np.zeros((5, *SHAPE), np.float32))


def _changed(change: Any) -> Any:
    def spoil(model: Path) -> None:
        path = next(model.glob("fold_1/validation/*.npz"))
        with np.load(path) as file:
            probabilities = file["probabilities"]
        np.savez_compressed(path, probabilities=change(probabilities))

    return spoil


def _array_alone(model: Path) -> None:
    with next(model.glob("fold_1/validation/*.npz")).open("wb") as file:
        np.save(file, np.zeros((2, *SHAPE), np.float32))


def _pipe(model: Path) -> None:
    path = next(model.glob("fold_1/validation/*.npz"))
    path.unlink()
    os.mkfifo(path)


def _twice(model: Path) -> None:
    shutil.copy(model / "fold_0" / "validation" / "case00.npz", model / "fold_1" / "validation")


def _regions_without_order(model: Path) -> None:
    (model / "dataset.json").write_text(json.dumps({**REGIONS, "regions_class_order": None}))


def _unknown_truth(model: Path) -> None:
    truths = model.parents[2] / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    sitk.WriteImage(sitk.GetImageFromArray(np.full(SHAPE, 4, np.uint8)), str(next(truths.glob("*"))))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, "1 probabilities are NaN or infinite"),
        (_no_archive, "no probabilities as nnU-Net writes them"),
        (_cut, "no probabilities as nnU-Net writes them"),
        (_other_array, "no probabilities as nnU-Net writes them"),
        (_other_channels, r"shape \(5, 12, 10, 8\); expected 2 channels"),
        (_array_alone, "no probabilities as nnU-Net writes them"),
        (_changed(lambda p: p.astype(str)), "values of type <U32; expected probabilities"),
        (_changed(lambda p: p.astype(complex)), "values of type complex128; expected probabilities"),
        (_changed(lambda p: (p * 255).astype(np.uint8)), "values of type uint8; expected probabilities"),
        (_changed(lambda p: p * 100), "values from 0 to .*; expected probabilities, from 0 to 1"),
        (_changed(lambda p: (p - 0.5) * 9), "values from -.*; expected probabilities, from 0 to 1"),
        (_twice, "case case00 is validated in folds 0 and 1"),
        (_regions_without_order, "dataset.json: if region-based training is requested"),
        (lambda m: (m / "plans.json").write_text("{}"), 'not plans of nnU-Net: "image_reader_writer" is missing'),
        (_unknown_truth, r"holds 4 \(960 voxels\); dataset.json has 0, 1"),
        (lambda m: (m / "dataset.json").write_text("[]"), r"dataset.json: holds \[\]; expected an object"),
        (lambda m: (m / "dataset.json").write_text("{}"), "dataset.json: labels are null; expected"),
        (lambda m: (m / "plans.json").write_text("{"), "plans.json: not JSON"),
    ],
)  # fmt: skip
def test_damaged_model_folders(folders: Path, capsys: pytest.CaptureFixture[str], spoil: Any, message: str) -> None:
    spoil(_model(folders, SINGLE))
    assert main(ARGUMENTS) == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown), shown


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes with names")
def test_probabilities_that_are_no_file(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe would be waited for."""
    _pipe(_model(folders, SINGLE))
    assert main(ARGUMENTS) == 2
    assert "no regular file" in capsys.readouterr().err


def test_fold_all_has_no_say(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is validated on the cases it was trained on."""
    model = _model(folders, SINGLE)
    (model / "fold_1").rename(model / "fold_all")
    assert main(ARGUMENTS) == 0
    assert "4 cases" in capsys.readouterr().out
    assert main([*ARGUMENTS, "-f", "all"]) == 2
    assert "-f all: it is validated on the cases it was trained on" in capsys.readouterr().err


def test_a_fold_counts_once(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _model(folders, SINGLE)
    assert main([*ARGUMENTS, "-f", "0", "0"]) == 2
    assert "case case00 is validated in folds 0 and 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stored", ['{"thresholds": [0.3, 0.4], "regions": ["core", "whole"]}',
               '{"thresholds": [0.3], "regions": ["whole"]}',
               '{"thresholds": [0.3, 1e-4], "regions": ["whole", "core"]}'],
)  # fmt: skip
def test_thresholds_of_other_regions_are_not_applied(
    folders: Path, stored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model(folders, REGIONS)
    (model / "thresholds.json").write_text(stored)
    assert main([*ARGUMENTS, "--apply"]) == 2
    assert "choose them again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stored", ["{}", "[]", '{"thresholds": [2.0], "regions": ["a"]}', '{"thresholds": ["x"], "regions": ["a"]}',
               '{"thresholds": [0.5], "regions": []}', '{"thresholds": [true], "regions": ["a"]}'],
)  # fmt: skip
def test_damaged_thresholds_are_not_applied(folders: Path, capsys: pytest.CaptureFixture[str], stored: str) -> None:
    model = _model(folders, SINGLE)
    (model / "thresholds.json").write_text(stored)
    before = (model / "plans.json").read_text(encoding="utf-8")
    assert main([*ARGUMENTS, "--apply"]) == 2
    assert "thresholds.json: " in capsys.readouterr().err
    assert (model / "plans.json").read_text(encoding="utf-8") == before
