"""A DICOM series is predicted the way round that the training images lay, and its labels lie as the series."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.cli import main as cli
from nnunet_mamba.prediction.seen import orientations_in
from tests.prediction.conftest import NAME, UNSEEN, write_dicom


def _predict(*arguments: str | Path) -> None:
    assert cli.main(["predict", *map(str, arguments), "-device", "cpu"]) == 0


def _letters(image: sitk.Image) -> str:
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Whole numbers, as DICOM has; not in the order of DICOM"""
    found = sitk.Cast(sitk.ReadImage(str(UNSEEN)), sitk.sitkInt16)
    assert _letters(found) == "RAS"
    sitk.WriteImage(found, str(tmp_path / "scan.nii.gz"))
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def told(model: Path, image: Path, tmp_path: Path) -> Path:
    """The model with a prediction of its validation, which says how its training images lay"""
    folder = Path(shutil.copytree(model, tmp_path / NAME))
    (folder / "fold_0" / "validation").mkdir()
    shutil.copy(image, folder / "fold_0" / "validation" / "case.nii.gz")
    return folder


def test_the_labels_are_those_of_the_same_file(
    told: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = write_dicom(sitk.ReadImage(str(image)), tmp_path / "series")
    # a file that lies otherwise is left so, and told of, unless it is to be turned
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(image)), "PSR"), str(tmp_path / "other.nii.gz"))
    out = tmp_path / "out"
    _predict(told, image, series, tmp_path / "other.nii.gz", "-o", out, "--turn", "--uncertainty")
    said = capsys.readouterr().out
    assert "orientation" not in said
    expected = sitk.ReadImage(str(out / "scan.nii.gz"))
    for name, letters in (("series", "LPS"), ("other", "PSR")):
        for folder in (out, out / "uncertainty"):
            found = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
            assert _letters(found) == letters
            back = sitk.DICOMOrient(found, "RAS")
            as_file = sitk.ReadImage(str(folder / "scan.nii.gz"))
            assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(as_file))
            assert np.allclose(back.GetOrigin(), expected.GetOrigin(), atol=1e-3)
    assert not list(out.rglob("*turned*"))

    _predict(told, series, tmp_path / "other.nii.gz", "-o", tmp_path / "as_it_lies")
    said = capsys.readouterr().out
    assert said.count("orientation PSR; training: RAS") == 1
    found = [sitk.GetArrayFromImage(sitk.ReadImage(str(f / "other.nii.gz"))) for f in (out, tmp_path / "as_it_lies")]
    assert not np.array_equal(*found), "the network sees no difference: the test is void"
    found = [sitk.GetArrayFromImage(sitk.ReadImage(str(f / "series.nii.gz"))) for f in (out, tmp_path / "as_it_lies")]
    assert np.array_equal(*found)


def test_what_is_not_known_is_told(
    model: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = write_dicom(sitk.ReadImage(str(image)), tmp_path / "series")
    _predict(model, series, image, "-o", tmp_path / "out")
    assert capsys.readouterr().out.count("how the training images lay in space is not known") == 1


def test_the_commonest_orientation_comes_first(image: Path, tmp_path: Path) -> None:
    """By which a series is turned that lies as none of the training images"""
    for number, letters in enumerate(("LAS", "RAS", "RAS")):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(image)), letters), str(tmp_path / f"{number}.nii.gz"))
    assert orientations_in(tmp_path / f"{n}.nii.gz" for n in range(3)) == ("RAS", "LAS")


def test_turning_where_nobody_knows_how_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _predict(model, UNSEEN, "-o", tmp_path / "out")
    assert "how the training images lay" not in capsys.readouterr().out
    _predict(model, UNSEEN, "-o", tmp_path / "turned", "--turn")
    assert "how the training images lay in space is not known" in capsys.readouterr().out
