"""A zip and an image in one line: nnU-Net's own result bit by bit, in any format, and what is beside it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import nnunet_mamba
from nnunet_mamba.cli import main as cli
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.prediction.model import Use, usable
from nnunet_mamba.prediction.run import Run
from tests.export.small_model import REGIONS
from tests.prediction.conftest import NAME, UNSEEN, write_dicom, write_small_model


def _predict(*arguments: str | Path, code: int = 0) -> None:
    assert cli.main(["predict", *map(str, arguments), "-device", "cpu"]) == code


def _voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """nnU-Net's prediction of the unseen case"""
    out = tmp_path_factory.mktemp("nnunet")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), None)
    predictor.predict_from_files_sequential([[str(UNSEEN)]], [str(out / "case")])
    labels = _voxels(out / "case.nii.gz")
    assert set(np.unique(labels)) >= {0, 1}, "the network finds nothing: the test is void"
    return labels


@pytest.fixture(scope="module")
def results(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a zip, a NIfTI file and a DICOM series of the same case"""
    place = tmp_path_factory.mktemp("predict")
    series = write_dicom(sitk.ReadImage(str(UNSEEN)), place / "patient7")
    _predict(packed, UNSEEN, series, "-o", place / "out")
    return place / "out"


def test_it_is_nnunets_prediction(results: Path, expected: np.ndarray) -> None:
    written = sitk.ReadImage(str(results / UNSEEN.name))
    assert (sitk.GetArrayFromImage(written) == expected).all()
    image = sitk.ReadImage(str(UNSEEN))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, name)() == getattr(image, name)()


def test_a_dicom_series_gives_a_nifti_on_its_grid(results: Path) -> None:
    written, image = sitk.ReadImage(str(results / "patient7.nii.gz")), sitk.ReadImage(str(UNSEEN))
    image = sitk.DICOMOrient(image, "LPS")
    assert written.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(written, name)(), getattr(image, name)(), atol=1e-4)
    assert sitk.GetArrayFromImage(written).any()


def test_what_is_beside_the_label_maps(results: Path) -> None:
    assert {p.name for p in results.iterdir()} == {
        "hippocampus_173.nii.gz", "hippocampus_173.png", "patient7.nii.gz", "patient7.png", "volumes.csv",
        "predictions.html", "prediction.json",
    }  # fmt: skip
    rows = list(csv.DictReader((results / "volumes.csv").open()))
    assert [(r["case"], r["label"]) for r in rows] == [
        (c, m) for c in ("hippocampus_173", "patient7") for m in ("anterior", "posterior")
    ]
    labels = _voxels(results / UNSEEN.name)
    for row, value in zip(rows, (1, 2), strict=False):
        assert float(row["ml"]) == pytest.approx((labels == value).sum() / 1000, rel=1e-3)
    record = json.loads((results / "prediction.json").read_text(encoding="utf-8"))
    for case in record["cases"].values():  # the fingerprint is of all intensities there are
        assert not any("what was found has intensities" in text for text in case["warnings"])
    page = (results / "predictions.html").read_text(encoding="utf-8")
    assert "hippocampus_173" in page
    assert "Not a medical device" in page
    data = json.loads(re.search(r'id="viewer-data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert [c["title"] for c in data["cases"]] == ["hippocampus_173", "patient7"]
    assert all(c["truth"] is None and c["predictions"]["prediction"] for c in data["cases"])
    assert 'value="truth"' not in page


def test_in_python_it_is_the_same(model: Path, expected: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="labels touch the border"):
        mask = nnunet_mamba.predict(model, sitk.ReadImage(str(UNSEEN)), device="cpu")
    assert (sitk.GetArrayFromImage(mask) == expected).all()
    assert mask.GetOrigin() == sitk.ReadImage(str(UNSEEN)).GetOrigin()
    with pytest.raises(ValueError, match="2 images given; this model needs 1 channels: MRI"):
        nnunet_mamba.predict(model, [UNSEEN, UNSEEN])


def test_other_formats_give_the_same(model: Path, expected: np.ndarray, tmp_path: Path) -> None:
    names = [f"scan{ending[1:]}{ending}" for ending in (".nrrd", ".mha", ".nii")]
    for name in names:
        sitk.WriteImage(sitk.ReadImage(str(UNSEEN)), str(tmp_path / name))
    _predict(model, *(tmp_path / name for name in names), "-o", tmp_path / "out")
    for ending in ("nrrd", "mha", "nii"):
        assert (_voxels(tmp_path / "out" / f"scan{ending}.nii.gz") == expected).all()


def test_one_pass_and_fewer_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As nnU-Net does with --disable_tta and -step_size"""
    folder = write_small_model(tmp_path / NAME, folds=("0",), patch=[24, 32, 24])
    stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False, tile_step_size=0.9)
    stock.initialize_from_trained_model_folder(str(folder), None)
    stock.predict_from_files_sequential([[str(UNSEEN)]], [str(tmp_path / "expected")])
    out = tmp_path / "out"
    _predict(folder, UNSEEN, "-o", out, "--disable_tta", "-step_size", "0.9")
    assert "one pass instead of 2 mirrored ones" in capsys.readouterr().out
    assert (_voxels(out / UNSEEN.name) == _voxels(tmp_path / "expected.nii.gz")).all()
    _predict(folder, UNSEEN, "-o", out, code=2)
    assert "with other settings" in capsys.readouterr().err
    mask = nnunet_mamba.predict(folder, UNSEEN, device="cpu", mirroring=False, step=0.9)
    assert (sitk.GetArrayFromImage(mask) == _voxels(tmp_path / "expected.nii.gz")).all()
    for step in ("0", "1.5", "nan"):
        _predict(folder, UNSEEN, "-o", tmp_path / "none", "-step_size", step, code=2)
        assert "expected a number above 0, up to 1" in capsys.readouterr().err


def test_half_precision_changes_few_voxels(
    model: Path, expected: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _predict(model, UNSEEN, "-o", tmp_path, "--bf16")
    assert "convolutions in bfloat16" in capsys.readouterr().out
    same = (_voxels(tmp_path / UNSEEN.name) == expected).mean()
    assert 0.97 < same < 1  # a network without training hardly prefers any label; 1 would be float32
    with pytest.raises(ValueError, match="--bf16 with -device meta: it is for CPUs"):
        Run(usable(_read(model), Use(bf16=True)), torch.device("meta"))


def test_through_onednn_labels_differ_in_ties_only(
    model: Path, expected: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _predict(model, UNSEEN, "-o", tmp_path, "--onednn")
    assert "convolutions through oneDNN" in capsys.readouterr().out
    # rounding: one voxel in ten thousand of a network without training, which hardly prefers any label
    assert (_voxels(tmp_path / UNSEEN.name) == expected).mean() > 0.9999
    with pytest.raises(ValueError, match="--onednn with -device meta: it is for CPUs"):
        Run(usable(_read(model), Use(onednn=True)), torch.device("meta"))
    _predict(model, UNSEEN, "-o", tmp_path / "none", "--onednn", "--bf16", code=2)
    assert "in bfloat16 convolutions go through oneDNN already" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_it_continues(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        shutil.copy(UNSEEN, tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    _predict(model, tmp_path / "a.nii.gz", "-o", out)
    before = (out / "a.nii.gz").stat().st_mtime_ns
    _predict(model, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "-o", out)
    assert "1 of 2 cases were predicted before" in capsys.readouterr().out
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    assert (_voxels(out / "a.nii.gz") == _voxels(out / "b.nii.gz")).all()
    assert len((out / "volumes.csv").read_text(encoding="utf-8").splitlines()) == 5
    _predict(model, tmp_path / "b.nii.gz", "-o", out, "-f", "0", code=2)
    assert "predictions of another model" in capsys.readouterr().err


def test_one_bad_case_takes_no_other_along(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_mamba.prediction.predictor import Predictor

    for name in ("a", "b"):
        shutil.copy(UNSEEN, tmp_path / f"{name}.nii.gz")
    labels = Predictor.labels

    def fails(self: Predictor, files: Any, *more: Any) -> Any:
        if "a.nii.gz" in str(files[0]):
            raise ValueError("the GPU's memory is not enough for this image")
        return labels(self, files, *more)

    monkeypatch.setattr(Predictor, "labels", fails)
    _predict(model, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "-o", tmp_path / "out", code=1)
    assert "nnunet-mamba predict: a: the GPU's memory" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "b.nii.gz", "b.png", "volumes.csv", "predictions.html", "prediction.json"
    }  # fmt: skip


def test_nothing_that_is_there_is_overwritten(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(UNSEEN, tmp_path / "scan.nii.gz")
    before = (tmp_path / "scan.nii.gz").read_bytes()
    _predict(model, tmp_path / "scan.nii.gz", "-o", tmp_path, code=2)
    assert "is there already; give another folder" in capsys.readouterr().err
    assert (tmp_path / "scan.nii.gz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def _read(folder: Path) -> TrainedModel:
    return TrainedModel.read(ModelFolder(folder))


@pytest.mark.slow
def test_stored_sizes_and_thresholds_are_used_if_they_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small_model(tmp_path / NAME, REGIONS, folds=("0",))
    _predict(folder, UNSEEN, "-o", tmp_path / "before")
    chosen = {"regions": ["whole", "posterior"], "thresholds": [0.3, 0.6], "interval": [0.01, 0.02]}
    sizes = {"names": ["posterior", "whole"], "values": [[2], [1, 2]], "sizes": [50.0, 50.0], "fill": [1, 0],
             "unit": "mm3", "interval": [0.01, 0.02]}  # fmt: skip
    (folder / "thresholds.json").write_text(json.dumps(chosen))
    (folder / "minimum_size.json").write_text(json.dumps(sizes))
    found = usable(_read(folder))
    assert found.model.plans["label_manager"] == "LabelManagerThresholds_300_600"
    assert found.sizes is not None
    _predict(folder, UNSEEN, "-o", tmp_path / "after")
    assert "thresholds whole 0.30, posterior 0.60, chosen by calibrate" in capsys.readouterr().out
    before, after = (_voxels(tmp_path / name / UNSEEN.name) for name in ("before", "after"))
    assert (before != after).any()
    _predict(folder, UNSEEN, "-o", tmp_path / "plain", "--plain")
    assert (_voxels(tmp_path / "plain" / UNSEEN.name) == before).all()
    for name, content in (("thresholds", chosen), ("minimum_size", sizes)):
        (folder / f"{name}.json").write_text(json.dumps({**content, "interval": [-0.01, 0.02]}))
    uncertain = usable(_read(folder))
    assert uncertain.sizes is None
    assert not uncertain.model.plans["label_manager"].startswith("LabelManagerThresholds")
    assert all("gain nothing for certain" in text for text in uncertain.told)


@pytest.mark.slow
def test_the_commands_agree(model: Path, packed: Path, tmp_path: Path) -> None:
    """nnUNetv2_predict's own command on the folder, ours on the zip, in processes of their own"""
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(UNSEEN, images / "scan_0000.nii.gz")
    scripts = Path(sys.executable).parent
    theirs = [scripts / "nnUNetv2_predict_from_modelfolder", "-i", images, "-o", tmp_path / "theirs", "-m", model,
              "-device", "cpu", "-npp", "1", "-nps", "1", "-f", "0", "1"]  # fmt: skip
    ours = [scripts / "nnunet-mamba", "predict", packed, images, "-o", tmp_path / "ours", "-device", "cpu"]
    for command in (theirs, ours):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "nnUNet_raw" not in done.stdout + done.stderr, "people who only predict have no such folders"
    assert (_voxels(tmp_path / "ours" / "scan.nii.gz") == _voxels(tmp_path / "theirs" / "scan.nii.gz")).all()
