"""`nnunet-mamba postprocess`: sizes chosen on a cross-validation, applied by us and by nnU-Net's own command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_mamba.cli.main import main
from nnunet_mamba.study.calibration.components import SIZES, fills, outermost_last, over_sizes, remove_small_components
from nnunet_mamba.study.calibration.scores import overlap
from tests.stock_plans import DATASET_JSON, stock_plans

DATASET, MODEL = "Dataset999_Test", "nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres"
ARGUMENTS = ["postprocess", "-d", DATASET, "-tr", "nnUNetTrainerSegMamba", "-p", "nnUNetPlans", "-c", "3d_fullres"]
SPACING = (0.5, 1.0, 2.0)  # x y z; a voxel has 1 mm3
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3]}


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (5, 6, 7), elements=st.booleans()), arrays(bool, (5, 6, 7)), st.sampled_from([0.3, 1.0, 4.0]))
def test_scores_at_all_sizes_are_those_of_the_removed_maps(
    prediction: np.ndarray, truth: np.ndarray, voxel: float
) -> None:
    found = over_sizes("Dice", prediction, truth, voxel)
    for size, score in zip(SIZES, found, strict=True):
        kept = remove_small_components(prediction.astype(np.uint8), [(1,)], [size], [0], voxel) > 0
        expected = overlap("Dice", np.asarray((kept & truth).sum()), np.asarray(kept.sum()), int(truth.sum()))
        assert score == pytest.approx(float(expected), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (6, 7, 8), elements=st.integers(0, 3)), st.lists(st.integers(0, 60), min_size=3, max_size=3))
def test_nothing_small_is_left_and_nothing_else_is_touched(labels: np.ndarray, sizes: list[int]) -> None:
    values, before = [(3,), (2,), (1,)], labels.copy()
    result = remove_small_components(labels, values, sizes, [0, 0, 0])
    assert (labels == before).all()
    for of_mask, size in zip(values, sizes, strict=True):
        numbered = sitk.ConnectedComponent(sitk.GetImageFromArray(np.isin(result, of_mask).astype(np.uint8)), True)
        counts = np.bincount(sitk.GetArrayFromImage(numbered).ravel())[1:]
        assert (counts >= size).all()
    changed = result != labels
    assert (result[changed] == 0).all()
    for of_mask, size in zip(values, sizes, strict=True):
        numbered = sitk.ConnectedComponent(sitk.GetImageFromArray(np.isin(labels, of_mask).astype(np.uint8)), True)
        array = sitk.GetArrayFromImage(numbered)
        large = np.flatnonzero(np.bincount(array.ravel()) >= size)
        assert not changed[np.isin(array, large[large > 0])].any()


def test_what_a_region_loses_goes_to_the_one_around_it() -> None:
    masks = {"whole": (1, 2, 3), "core": (2, 3), "rim": (3,)}
    assert outermost_last(masks) == ["rim", "core", "whole"]
    assert fills(masks, [1, 2, 3]) == [0, 1, 2]
    assert fills({"a": (1,), "b": (2,)}, None) == [0, 0]
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 1:8, 1:8] = 1
    labels[0, 2:5, 2:5] = 2
    labels[0, 3, 3] = 3
    result = remove_small_components(labels, [(3,), (2, 3), (1, 2, 3)], [2, 5, 10], [2, 1, 0])
    assert result[0, 3, 3] == 2
    assert (result == 2).sum() == 9
    assert (remove_small_components(labels, [(3,), (2, 3), (1, 2, 3)], [2, 10, 10], [2, 1, 0]) == 2).sum() == 0


def _write(voxels: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every prediction has a false blob of 27 voxels, every truth is one component of 125 or more."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "nnUNet_results" / DATASET / MODEL
    truths = tmp_path / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    for fold in range(2):
        for i in range(3):
            labels = np.zeros((20, 20, 20), np.uint8)
            labels[2 : 7 + i, 2:7, 2:7] = 1
            _write(labels, truths / f"c{fold}{i}.nii.gz")
            labels[14:17, 14:17, 14:17] = 1
            _write(labels, folder / f"fold_{fold}" / "validation" / f"c{fold}{i}.nii.gz")
        (folder / f"fold_{fold}" / "validation" / "summary.json").write_text("{}")
    (folder / "plans.json").write_text(json.dumps({**stock_plans(), "dataset_name": DATASET}))
    (folder / "dataset.json").write_text(json.dumps({**DATASET_JSON, "labels": {"background": 0, "lesion": 1}}))
    return folder


def _main(*more: Any) -> int:
    return main([*ARGUMENTS, *map(str, more)])


def test_choose_and_apply(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main() == 0
    shown = capsys.readouterr().out
    assert "minimum sizes: lesion 50 mm3" in shown
    assert "gain, each case with sizes chosen without its fold: +0." in shown
    assert "no evidence" not in shown
    stored = json.loads((model / "minimum_size.json").read_text(encoding="utf-8"))
    dice = [2 * n / (2 * n + 27) for n in (125, 150, 175)]
    assert stored["mean_before"] == pytest.approx(np.mean(dice))
    assert stored["gain"] == pytest.approx(1 - np.mean(dice))
    predictions = model / "fold_0" / "validation"
    assert _main("-i", predictions, "-o", tmp_path / "out") == 0
    assert "3 label maps without components below lesion 50 mm3" in capsys.readouterr().out
    truth, made = (sitk.ReadImage(str(f / "c01.nii.gz")) for f in (
        tmp_path / "nnUNet_preprocessed" / DATASET / "gt_segmentations", tmp_path / "out"))  # fmt: skip
    assert (sitk.GetArrayFromImage(truth) == sitk.GetArrayFromImage(made)).all()
    assert made.GetSpacing() == SPACING


def test_nnunets_own_command_applies_voxels(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder, load_pickle

    assert _main("-unit", "voxels", "-f", "0") == 0
    assert "nnUNetv2_apply_postprocessing -i PREDICTIONS -o OUT -pp_pkl_file" in capsys.readouterr().out
    functions, arguments = load_pickle(str(model / "minimum_size_postprocessing.pkl"))
    out = tmp_path / "out"
    apply_postprocessing_to_folder(
        str(model / "fold_1" / "validation"), str(out), functions, arguments, str(model / "plans.json"),
        str(model / "dataset.json"), 1,
    )  # fmt: skip
    made = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "c12.nii.gz")))
    assert made.sum() == 175


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-unit", "ml"), "-unit ml; expected voxels or mm3"),
        (("-i", "x"), "-i and -o belong together"),
        (("-i", "x", "-o", "y"), "minimum_size.json: no such file; choose sizes first"),
        (("-metric", "HD95"), "-metric HD95; expected one of Dice"),
        (("-f", "7"), "no predictions. Write them: nnUNetv2_train Dataset999_Test 3d_fullres 7"),
    ],
)
def test_refusals(model: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str) -> None:
    assert _main(*more) == 2
    assert message in capsys.readouterr().err


def test_predictions_are_not_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main() == 0
    folder = model / "fold_0" / "validation"
    assert _main("-i", folder, "-o", folder) == 2
    assert "is the folder of -i; the predictions would be overwritten" in capsys.readouterr().err
    assert _main("-i", model, "-o", folder) == 2
    assert "no *.nii.gz files there" in capsys.readouterr().err


def test_one_bad_prediction_does_not_keep_the_others(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main() == 0
    source, out = tmp_path / "in", tmp_path / "out"
    for path in sorted((model / "fold_0" / "validation").glob("*.nii.gz")):
        _write(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), source / path.name)
    (source / "._c00.nii.gz").write_bytes(b"Mac OS X")
    (source / "c00.nii.gz").write_bytes(b"nothing")
    _write(np.full((20, 20, 20), 3, np.uint8), source / "c01.nii.gz")
    _write(np.full((20, 20, 20), 0.5, np.float32), source / "c03.nii.gz")
    assert _main("-i", source, "-o", out) == 2
    shown = capsys.readouterr().err
    assert "3 of 4 files are not written, all others are:" in shown
    assert "c00.nii.gz cannot be read" in shown
    assert "c01.nii.gz holds 3 (8000 voxels); dataset.json has 0, 1" in shown
    assert "c03.nii.gz holds 0.5 at voxel (0, 0, 0)" in shown
    assert [p.name for p in out.iterdir()] == ["c02.nii.gz"]
    (tmp_path / "file").write_text("")
    assert _main("-i", source, "-o", tmp_path / "file") == 2
    assert "nothing can be written there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stored", [
        "[]", "{}", '{"names": ["a"], "values": [[1]], "sizes": [5], "fill": [0], "unit": "ml"}',
        '{"names": ["a"], "values": [[1]], "sizes": [5, 6], "fill": [0], "unit": "mm3"}',
        '{"names": ["a"], "values": [[1]], "sizes": ["5"], "fill": [0], "unit": "mm3"}',
        '{"names": ["a"], "values": [1], "sizes": [5], "fill": [0], "unit": "mm3"}',
        '{"names": ["a"], "values": [[1]], "sizes": [-5], "fill": [0], "unit": "mm3"}',
        '{"names": ["a"], "values": [[1]], "sizes": [5], "fill": [null], "unit": "mm3"}',
    ],
)  # fmt: skip
def test_damaged_sizes_are_not_applied(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str
) -> None:
    (model / "minimum_size.json").write_text(stored)
    assert _main("-i", model / "fold_0" / "validation", "-o", tmp_path / "out") == 2
    assert "minimum_size.json: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [
    {"fill": [77]}, {"fill": [-1]}, {"values": [[9]]}, {"values": [[]]}, {"names": [None]}, {"names": ["other"]},
])  # fmt: skip
def test_sizes_of_other_labels_are_not_applied(
    model: Path, change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {"names": ["lesion"], "values": [[1]], "sizes": [50], "fill": [0], "unit": "mm3"}
    predictions = model / "fold_0" / "validation"
    (model / "minimum_size.json").write_text(json.dumps(stored))
    assert _main("-i", predictions, "-o", tmp_path / "right") == 0
    (model / "minimum_size.json").write_text(json.dumps({**stored, **change}))
    assert _main("-i", predictions, "-o", tmp_path / "out") == 2
    assert "choose them again" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_links_to_the_predictions_are_not_written_through(model: Path, tmp_path: Path) -> None:
    assert _main() == 0
    predictions = model / "fold_0" / "validation"
    before = {p.name: p.read_bytes() for p in predictions.glob("*.nii.gz")}
    (tmp_path / "out").mkdir()
    for name in before:
        (tmp_path / "out" / name).symlink_to(predictions / name)
    assert _main("-i", predictions, "-o", tmp_path / "out") == 0
    assert {p.name: p.read_bytes() for p in predictions.glob("*.nii.gz")} == before
    assert (tmp_path / "out" / "c00.nii.gz").read_bytes() != before["c00.nii.gz"]


def test_voxels_of_another_size_than_the_truths_are_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model / "fold_0" / "validation" / "c01.nii.gz"
    image = sitk.ReadImage(str(path))
    image.SetSpacing((1.0, 1.0, 1.0))
    sitk.WriteImage(image, str(path))
    assert _main() == 2
    assert "c01.nii.gz: voxels of 1 x 1 x 1 mm, but " in capsys.readouterr().err
