"""From what a user names to cases with their channels; what cannot be told apart is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.prediction.images import cases_of
from tests.prediction.conftest import write_dicom

TWO = ("FLAIR", "T1")


def _touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return [folder / name for name in names]


def _found(paths: list[Path], channels: tuple[str, ...]) -> dict[str, list[str]]:
    return {c.name: [s.path.name for s in c.channels] for c in cases_of(paths, channels)}


def test_one_channel(tmp_path: Path) -> None:
    files = _touch(tmp_path, "a.nii.gz", "b_0000.nii.gz", "c.d.NRRD", ".hidden.nii.gz", "notes.txt", "._a.nii.gz")
    expected = {"a": ["a.nii.gz"], "b": ["b_0000.nii.gz"], "c.d": ["c.d.NRRD"]}
    assert _found(files[:3], ("MRI",)) == expected
    assert _found([tmp_path], ("MRI",)) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a_0001.mha", "b_0001.mha", "a_0000.mha", "b_0000.mha"],
         {"a": ["a_0000.mha", "a_0001.mha"], "b": ["b_0000.mha", "b_0001.mha"]}),
        (["p1_t1.nii.gz", "p1_flair.nii.gz"], {"p1": ["p1_flair.nii.gz", "p1_t1.nii.gz"]}),
        (["T1.nii", "FLAIR.nii"], {"FLAIR": ["FLAIR.nii", "T1.nii"]}),
        (["x.nii", "y.nii"], {"x": ["x.nii", "y.nii"]}),
        (["t1_flair.nii", "x.nii"], {"t1_flair": ["t1_flair.nii", "x.nii"]}),
    ],
    ids=["numbers in another order", "names", "names alone", "order", "names that say nothing for certain"],
)  # fmt: skip
def test_two_channels(names: list[str], expected: dict[str, list[str]], tmp_path: Path) -> None:
    assert _found(_touch(tmp_path, *names), TWO) == expected


def test_a_folder_per_case(tmp_path: Path) -> None:
    _touch(tmp_path, "p1/t1.nii.gz", "p1/flair.nii.gz", "p2/FLAIR.nii.gz", "p2/T1.nii.gz")
    assert _found([tmp_path / "p1", tmp_path / "p2"], TWO) == {
        "p1": ["flair.nii.gz", "t1.nii.gz"], "p2": ["FLAIR.nii.gz", "T1.nii.gz"],
    }  # fmt: skip


def test_series_of_dicom_files_are_channels_too(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16))
    for name in ("t1", "FLAIR"):
        write_dicom(image, tmp_path / "p1" / name)
    assert _found([tmp_path / "p1"], TWO) == {"p1": ["FLAIR", "t1"]}
    assert _found([tmp_path / "p1" / "t1"], ("MRI",)) == {"t1": ["t1"]}
    one = next((tmp_path / "p1" / "t1").iterdir())
    with pytest.raises(ValueError, match="one DICOM file; give the folder of its series"):
        cases_of([one], ("MRI",))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a_0000.nii"], r"a: channel 1 \(T1\) is missing; there is a_0000\.nii"),
        (["p_t1.nii"], r"p: channel 0 \(FLAIR\) is missing"),
        (["a_0000.nii", "a_0001.nii", "a_0002.nii"], r"the model has 2 channels, _0000 to _0001"),
        (
            ["x.nii", "y.nii", "z.nii"],
            r"which channel x\.nii is cannot be told; this model needs 2 per case, FLAIR, T1",
        ),
        (["x.nii", "x_t1.nii"], r"which channel x\.nii is cannot be told"),
        (["x.nii", "x_0001.nii"], r"which channel x\.nii is cannot be told"),
        (["p_t1.nii", "p-T1.nii.gz", "p_flair.nii"], r"both channel 1 \(T1\) of one case"),
        (["only.nii"], r"cannot be told"),
    ],
)
def test_channels_that_cannot_be_told_apart(names: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        cases_of(_touch(tmp_path, *names), TWO)


def test_what_is_no_image(tmp_path: Path) -> None:
    (text,) = _touch(tmp_path, "report.pdf")
    (tmp_path / "empty").mkdir()
    for path, told in (
        (text, "no image that is known"),
        (tmp_path / "empty", "no images there"),
        (tmp_path / "nowhere", "no such file or folder"),
    ):
        with pytest.raises(ValueError, match=told):
            cases_of([path], ("MRI",))
    files = _touch(tmp_path, "a_0000.nii", "a_0001.nii")
    with pytest.raises(ValueError, match="a second channel of a; this model has one, MRI: leave it out"):
        cases_of(files, ("MRI",))
    with pytest.raises(ValueError, match="is given twice"):
        cases_of([files[0], files[0]], ("MRI",))


def test_cases_of_one_name_get_their_folders_name(tmp_path: Path) -> None:
    _touch(tmp_path, "p1/scan.nii.gz", "p2/SCAN.nii.gz", "p2/other.nii.gz")
    paths = [tmp_path / "p1" / "scan.nii.gz", tmp_path / "p2" / "SCAN.nii.gz", tmp_path / "p2" / "other.nii.gz"]
    assert list(_found(paths, ("MRI",))) == ["p1_scan", "p2_SCAN", "other"]
    _touch(tmp_path, "x/p1/scan.nii.gz")
    with pytest.raises(ValueError, match="would have one name in the results"):
        cases_of([paths[0], tmp_path / "x" / "p1" / "scan.nii.gz"], ("MRI",))
