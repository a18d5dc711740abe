"""`nnunet-mamba evaluate` on folders as nnU-Net leaves them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_mamba.cli.main import main

LABELS = {"background": 0, "a": 1, "b": 2}
SHAPE = (12, 14, 10)


def _write(path: Path, labels: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 2.0), origin: float = 0.0) -> None:
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin((origin, 0.0, 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def _truth(i: int) -> np.ndarray:
    labels = np.zeros(SHAPE)
    labels[2:8, 2:9, 2:7] = 1
    labels[4:7, 4 : 5 + i, 3:6] = 2
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for i in range(3):
        _write(tmp_path / "ref" / f"case{i}.nii.gz", _truth(i))
        _write(tmp_path / "pred" / f"case{i}.nii.gz", np.roll(_truth(i), 1, 0))
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    return tmp_path


def _arguments(folders: Path, *more: str) -> list[str]:
    return ["evaluate", "-ref", str(folders / "ref"), "-pred", str(folders / "pred"), *more]


def _result(folders: Path) -> dict[str, Any]:
    return json.loads((folders / "pred" / "evaluation.json").read_text(encoding="utf-8"))


def test_per_label_with_files_and_table(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(folders)) == 0
    shown = capsys.readouterr().out
    assert "| mask | Dice | IoU | HD95 in mm | ASSD in mm | NSD1 | cases |" in shown
    assert "larger of the two directed 95th percentiles" in shown
    result = _result(folders)
    # shifted by one plane of 2 mm
    assert result["cases"]["case0"]["a"]["HD95"] == pytest.approx(2.0)
    expected = np.roll(_truth(0), 1, 0) == 1, _truth(0) == 1
    dice = 2 * (expected[0] & expected[1]).sum() / (expected[0].sum() + expected[1].sum())
    assert result["cases"]["case0"]["a"]["Dice"] == pytest.approx(dice)
    table = pd.read_csv(folders / "pred" / "evaluation.csv")
    assert len(table) == 6
    assert result["summary"]["b"]["Dice"]["mean"] == pytest.approx(table[table["mask"] == "b"]["Dice"].mean())
    assert result["summary"]["a"]["Dice"]["cases"] == 3


def test_regions_and_ignore(folders: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (folders / "pred" / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    ignored = _truth(0)
    ignored[:, :, 8:] = 3
    _write(folders / "ref" / "case0.nii.gz", ignored)
    noisy = _truth(0)
    noisy[:, :, 8:] = 1  # where nobody counts
    _write(folders / "pred" / "case0.nii.gz", noisy)
    assert main(_arguments(folders, "-metrics", "Dice", "HD95")) == 0
    case = _result(folders)["cases"]["case0"]
    assert case == {"whole": {"Dice": 1.0, "HD95": 0.0}, "core": {"Dice": 1.0, "HD95": 0.0}}
    assert _result(folders)["masks"] == {"whole": [1, 2], "core": [2]}


def test_the_number_of_processes_changes_nothing(folders: Path) -> None:
    assert main(_arguments(folders)) == 0
    alone = (folders / "pred" / "evaluation.json").read_bytes()
    assert main(_arguments(folders, "-np", "2", "-o", str(folders / "out"))) == 0
    assert (folders / "out" / "evaluation.json").read_bytes() == alone


def test_missing_predictions_are_no_silence(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "pred" / "case1.nii.gz").unlink()
    _write(folders / "pred" / "extra.nii.gz", _truth(0))
    assert main(_arguments(folders)) == 2
    assert "1 of 3 references have no prediction, case1 for instance" in capsys.readouterr().err
    assert not (folders / "pred" / "evaluation.json").exists()
    assert main(_arguments(folders, "--allow_missing")) == 0
    assert "2 cases, 1 without prediction, 1 predictions without reference" in capsys.readouterr().out
    assert _result(folders)["missing_predictions"] == ["case1"]
    assert _result(folders)["predictions_without_reference"] == ["extra"]


def test_empty_masks_by_rule(folders: Path) -> None:
    _write(folders / "ref" / "case0.nii.gz", np.zeros(SHAPE))
    _write(folders / "pred" / "case0.nii.gz", np.zeros(SHAPE))
    assert main(_arguments(folders, "-metrics", "Dice", "HD95", "-both_empty", "nan")) == 0
    result = _result(folders)
    assert result["cases"]["case0"]["a"] == {"Dice": None, "HD95": None}
    assert result["summary"]["a"]["Dice"]["cases"] == 2
    assert result["empty_masks"] == {"both": "nan", "one_distance": "diagonal"}


def test_volumes_and_empty_masks_are_those_of_the_prediction(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, guess = np.zeros(SHAPE), np.zeros(SHAPE)
    truth[2:6, 2:6, 2:6] = 1
    guess[2:6, 2:6, 2:4] = 1
    guess[8, 8, 8] = 2
    for case, (r, p) in {"case0": (truth, guess), "case1": (guess, truth)}.items():
        _write(folders / "ref" / f"{case}.nii.gz", r)
        _write(folders / "pred" / f"{case}.nii.gz", p)
    assert main(_arguments(folders, "-metrics", "Volume", "VolumeDifference", "Dice", "HD95", "-one_empty", "nan")) == 0
    result = _result(folders)
    assert result["cases"]["case0"]["a"]["Volume"] == pytest.approx(0.064)  # 32 voxels of 2 mm3
    assert result["cases"]["case0"]["a"]["VolumeDifference"] == pytest.approx(-0.064)
    assert result["cases"]["case1"]["a"]["VolumeDifference"] == pytest.approx(0.064)
    assert result["cases_with_empty_masks"]["b"] == {"prediction": ["case1"], "reference": ["case0"], "both": []}
    by_rule = {name: of["cases_set_by_rule"] for name, of in result["summary"]["b"].items()}
    assert by_rule == {"Volume": 0, "VolumeDifference": 0, "Dice": 2, "HD95": 0}, "HD95 is left out there"
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| b |"))
    assert [("†" in cell) for cell in row.split("|")[2:6]] == [False, False, True, False]
    table = pd.read_csv(folders / "pred" / "evaluation.csv", keep_default_na=False).set_index(["case", "mask"])["empty"]
    assert (table["case0", "b"], table["case1", "b"], table["case0", "a"]) == ("reference", "prediction", "")


def _elsewhere(folders: Path) -> None:
    _write(folders / "pred" / "case1.nii.gz", _truth(1), origin=5.0)


def _other_size(folders: Path) -> None:
    _write(folders / "pred" / "case1.nii.gz", np.zeros((3, 3, 3)))


def _damaged(folders: Path) -> None:
    (folders / "pred" / "case1.nii.gz").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (_elsewhere, [], r"case1.nii.gz lies elsewhere than .*: 5 mm at voxel"),
        (_other_size, [], r"case1.nii.gz: \(3, 3, 3\) voxels, but .* has \(10, 14, 12\)"),
        (_damaged, [], "case1.nii.gz cannot be read"),
        (lambda f: None, ["-djfile", "nowhere.json"], r"-djfile nowhere.json: no such file; expected the dataset.json"),
        (lambda f: None, ["-metrics", "F1"], "metric 'F1'; expected some of"),
        (lambda f: None, ["-np", "0"], "-np 0; expected"),
        (lambda f: [p.unlink() for p in (f / "ref").iterdir()], [], r"ref: no \*.nii.gz files there"),
        (lambda f: [p.rename(p.with_name(f"x{p.name}")) for p in (f / "ref").iterdir()], [], "no file names in common"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(
    folders: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], arguments: list[str], message: str
) -> None:
    spoil(folders)
    assert main(_arguments(folders, *arguments)) == 2
    assert re.search(message, capsys.readouterr().err)
