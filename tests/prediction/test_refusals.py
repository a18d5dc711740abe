"""Bad models and bad images: one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.cli import main as cli
from tests.prediction.conftest import NAME, UNSEEN, write_dicom


def _refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str | Path) -> str:
    assert cli.main(["predict", *map(str, arguments), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert not out.exists(), "something was written"
    (line,) = [x for x in said.splitlines() if x.startswith("nnunet-mamba predict:")]
    return line


def test_models(model: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", b"x")
    shutil.copy(packed, tmp_path / "evil.zip")
    with zipfile.ZipFile(tmp_path / "evil.zip", "a") as archive:
        archive.writestr("../../evil.txt", b"x")
    content = packed.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    for name, told in (
        ("photos.zip", "a zip without a model of nnU-Net"),
        ("evil.zip", "leads out of the folder"),
        ("cut.zip", "cut off after"),
        ("nowhere.zip", "no such file or folder"),
    ):
        assert told in _refused(capsys, out, tmp_path / name, UNSEEN)
    assert not list(tmp_path.rglob("evil.txt"))
    assert "-tr goes with a data set" in _refused(capsys, out, model, UNSEEN, "-tr", "nnUNetTrainer")
    assert "no checkpoint_final.pth in fold 7" in _refused(capsys, out, model, UNSEEN, "-f", "7")
    cascade = tmp_path / "cascade" / NAME
    shutil.copytree(model, cascade)
    plans = json.loads((cascade / "plans.json").read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (cascade / "plans.json").write_text(json.dumps(plans))
    assert "second stage of a cascade and needs the predictions of 3d_lowres" in _refused(capsys, out, cascade, UNSEEN)


def test_a_data_set_with_its_only_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    out, results = tmp_path / "out", tmp_path / "nnUNet_results" / "Dataset004_Hippocampus"
    results.mkdir(parents=True)
    assert "Dataset004_Hippocampus: no trained model; there is none" in _refused(capsys, out, "4", UNSEEN)
    shutil.copytree(model, results / NAME)
    assert f"no trained model fits; there is {NAME}" in _refused(capsys, out, "4", UNSEEN, "-c", "2d")
    assert "no images there" in _refused(capsys, out, "4", tmp_path / "nnUNet_results")  # the model was found
    other = NAME.replace("NoMamba", "")
    shutil.copytree(model, results / other)
    assert "several of its models fit; say which" in _refused(capsys, out, "Dataset004_Hippocampus", UNSEEN)


def test_images(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, image = tmp_path / "out", sitk.ReadImage(str(UNSEEN))
    four = sitk.JoinSeries([image, image])
    sitk.WriteImage(four, str(tmp_path / "four.nii.gz"))
    content = UNSEEN.read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    holes = sitk.GetArrayFromImage(image).astype(np.float32)
    holes[3, 4, 5] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(holes), str(tmp_path / "holes.mha"))
    (tmp_path / "text.nii.gz").write_text("no image")
    for name, told in (
        ("four.nii.gz", "expected three axes"),
        ("cut.nii.gz", "cut off"),
        ("holes.mha", "1 voxels are NaN or infinite"),
        ("text.nii.gz", "text.nii.gz"),
    ):
        assert told in _refused(capsys, out, model, UNSEEN, tmp_path / name), name
    series = write_dicom(image, tmp_path / "series")
    next(iter(sorted(series.iterdir())[5:])).unlink()
    assert "is incomplete: 1 slice missing" in _refused(capsys, out, model, UNSEEN, series)
    assert "expected a folder" in _refused(capsys, tmp_path / "mask.nii.gz", model, UNSEEN)
