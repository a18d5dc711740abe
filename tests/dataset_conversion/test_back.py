"""`brats --back`: predictions brought back to the challenge's labels once, all of them, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.command import main
from tests.dataset_conversion.trees import hashes, nifti, volumes

VALUES = volumes(0, most=3)[1]


def _command(folder: Path, target: Path, *options: str) -> list[str]:
    return ["brats", "--back", str(folder), "-o", str(target), "--year", "2021", "--label-order", "nnunet137", *options]


def _predictions(folder: Path, **others: np.ndarray) -> Path:
    nifti(folder / "a.nii.gz", VALUES)
    for name, array in others.items():
        nifti(folder / f"{name}.nii.gz", array)
    return folder


def test_labels_of_all_files(tmp_path: Path) -> None:
    folder = _predictions(tmp_path / "p", b=VALUES[::-1].astype(np.float32))
    assert main(_command(folder, tmp_path / "out")) == 0
    for name, values in (("a", VALUES), ("b", VALUES[::-1])):
        made = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))).T
        assert np.array_equal(made, np.array([0, 2, 1, 4])[values])


@pytest.mark.parametrize("same", ["p", "p/../p", "link"])
def test_its_own_folder_is_refused(same: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _predictions(tmp_path / "p")
    (tmp_path / "link").symlink_to(folder)
    before = hashes(folder)
    assert main(_command(folder, tmp_path / same)) == 2
    assert "the folder of the predictions; choose another" in capsys.readouterr().err
    assert hashes(folder) == before


def test_a_second_run_into_the_same_target_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _predictions(tmp_path / "p")
    assert main(_command(folder, tmp_path / "out")) == 0
    before = hashes(tmp_path / "out")
    assert main(_command(folder, tmp_path / "out")) == 2
    assert "a.nii.gz is there already (1 of 1)" in capsys.readouterr().err
    assert hashes(tmp_path / "out") == before


def _with(value: float, kind: Any) -> np.ndarray:
    array = VALUES.astype(kind)
    array[1, 2, 3] = value
    return array


BAD = {
    "a half": (_with(1.5, np.float32), "labels are not whole numbers (up to 0.5 off)"),
    "a probability": (_with(0.3, np.float64), "labels are not whole numbers (up to 0.3 off)"),
    "NaN": (_with(np.nan, np.float32), "a label with NaN or infinite voxels"),
    "infinite": (_with(np.inf, np.float32), "a label with NaN or infinite voxels"),
    "another label": (_with(4, np.uint8), "label values 4; allowed: 0, 1, 2, 3"),
    "negative": (_with(-1, np.int16), "label values -1; allowed: 0, 1, 2, 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_one_bad_file_and_nothing_is_written(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, message = BAD[what]
    folder = _predictions(tmp_path / "p", b=array)
    assert main(_command(folder, tmp_path / "out")) == 2
    assert f"{folder / 'b.nii.gz'}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(_command(_predictions(tmp_path / "p"), tmp_path / "out")) == 2
    assert "a file; expected a folder" in capsys.readouterr().err
