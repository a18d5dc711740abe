"""Where a download leaves open what is meant, it is told: two files for one case, splits without cases, odd names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import SimpleITK as sitk

from dataset_conversion.command import main
from tests.dataset_conversion.trees import (
    asoca_tree,
    brats_tree,
    described,
    generic_tree,
    hashes,
    nifti,
    unpack,
    volumes,
)


def _pair(image: Path, label: Path, seed: int) -> None:
    nifti(image, volumes(seed)[0])
    nifti(label, volumes(seed)[1])


def _btcv(root: Path, numbers: tuple[int, ...] = (1, 2, 3, 4)) -> Path:
    for k in numbers:
        _pair(root / "Training" / "img" / f"img{k:04d}.nii.gz", root / "Training" / "label" / f"label{k:04d}.nii.gz", k)
    return root


def _aiib(root: Path) -> Path:
    for k in (1, 2, 3):
        _pair(root / "img" / f"AIIB23_{k}.nii.gz", root / "gt" / f"AIIB23_{k}.nii.gz", k)
    return root


def _imagecas(root: Path) -> Path:
    for k in range(1, 5):
        _pair(root / f"{k}.img.nii.gz", root / f"{k}.label.nii.gz", k)
    return root


def _run(name: str, root: Path, raw: Path, *options: str) -> int:
    return main([name, "-i", str(root), "-o", str(raw), "--jobs", "1", *options])


TWICE = {
    "btcv image": ("btcv", _btcv, "Training/img/img0002.nii.gz", "BTCV_0002"),
    "btcv label": ("btcv", _btcv, "Training/label/label0002.nii.gz", "BTCV_0002"),
    "aiib23 image": ("aiib23", _aiib, "img/AIIB23_2.nii.gz", "AIIB23_002"),
    "aiib23 label": ("aiib23", _aiib, "gt/AIIB23_2.nii.gz", "AIIB23_002"),
    "imagecas image": ("imagecas", _imagecas, "2.img.nii.gz", "ImageCAS_0002"),
    "imagecas label": ("imagecas", _imagecas, "2.label.nii.gz", "ImageCAS_0002"),
    "brats image": (
        "brats", brats_tree, "BraTS2021_Training_Data/BraTS2021_00001/BraTS2021_00001_t1.nii.gz", "BraTS2021_00001",
    ),
    "brats label": (
        "brats", brats_tree, "BraTS2021_Training_Data/BraTS2021_00001/BraTS2021_00001_seg.nii.gz", "BraTS2021_00001",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TWICE)
def test_two_files_for_one(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, tree, path, case = TWICE[what]
    root = tree(tmp_path / "d")
    packed = root / path
    other = packed.with_suffix("")
    shutil.copy(packed, other)
    unpack(other)
    assert _run(name, root, tmp_path / "raw") == 2
    told = capsys.readouterr().err
    assert f"{case}: {other} and {packed}: two files of one name; remove one" in told
    assert _run(name, root, tmp_path / "raw", "--skip-incomplete") == 0
    assert not list((tmp_path / "raw").rglob(f"{case}*"))


def test_asoca_files_that_differ_in_their_endings_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = asoca_tree(tmp_path / "d")
    path = root / "Normal" / "Annotations" / "Normal_1.nrrd"
    other = path.with_suffix(".NRRD")
    if other.exists():
        pytest.skip("a file system that does not tell cases apart")
    shutil.copy(path, other)
    assert _run("asoca", root, tmp_path / "raw") == 2
    assert "Normal_01: " in capsys.readouterr().err


def test_labels_without_image_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, tree, path, case in (("btcv", _btcv, "Training/img/img0002.nii.gz", "BTCV_0002"),
                                   ("aiib23", _aiib, "img/AIIB23_2.nii.gz", "AIIB23_002"),
                                   ("imagecas", _imagecas, "2.img.nii.gz", "ImageCAS_0002")):  # fmt: skip
        root = tree(tmp_path / name)
        (root / path).unlink()
        assert _run(name, root, tmp_path / "raw") == 2
        told = capsys.readouterr().err
        assert f"{case}: " in told
        assert "a label without image" in told


# --- splits --------------------------------------------------------------------------------------------------------


def _sheet(path: Path, rows: list[tuple[int, str]]) -> None:
    pandas.DataFrame([("FileName", "Split-1"), *rows]).to_csv(path, header=False, index=False)


@pytest.mark.parametrize(
    ("parts", "code", "message"),
    [
        (["Val", "Val", "Val", "Testing"], 2, "a split without training cases"),
        (["Training", "Training", "Training", "Testing"], 0, "a split without validation cases"),
        (["Training", "Training", "Val", "Testing"], 0, ""),
    ],
)
def test_splits_without_cases(
    parts: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _imagecas(tmp_path / "d")
    _sheet(root / "split.csv", list(enumerate(parts, 1)))
    assert _run("imagecas", root, tmp_path / "raw") == code
    told = "".join(capsys.readouterr())
    assert message in told
    assert ("split without" in told) == bool(message)


def test_a_sheet_with_a_case_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _imagecas(tmp_path / "d")
    _sheet(root / "split.csv", [(1, "Training"), (2, "Training"), (3, "Val"), (4, "Testing"), (2, "Testing")])
    assert _run("imagecas", root, tmp_path / "raw") == 2
    assert "split.csv: ImageCAS_0002 is in it more than once" in capsys.readouterr().err


def test_a_named_split_of_which_no_case_is_there_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("btcv", _btcv(tmp_path / "d"), tmp_path / "raw", "--split", "24-6") == 0
    assert "a split without validation cases" in capsys.readouterr().out


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_of_asoca_become_plain(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "d")
    for part in ("CTCA", "Annotations"):
        (root / "Normal" / part / "Normal_1.nrrd").rename(root / "Normal" / part / 'a\n"b";$(c) ü.nrrd')
    assert _run("asoca", root, tmp_path / "raw") == 0
    target = tmp_path / "raw" / "Dataset510_ASOCA"
    made = sorted(p.name for p in (target / "labelsTr").iterdir())
    assert made[2:] == ["Normal_02.nii.gz", "Normal_a__b____c___.nii.gz"]
    report = json.loads((target / "conversion_report.json").read_text(encoding="utf-8"))
    assert report["training"] == 4


def test_a_newline_in_a_path_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = asoca_tree(tmp_path / "a\nb")
    (root / "Normal" / "Annotations" / "Normal_1.nrrd").write_bytes(b"")
    assert _run("asoca", root, tmp_path / "raw") == 2
    assert "a\\nb" in capsys.readouterr().err


def test_a_case_may_be_called_dataset(tmp_path: Path) -> None:
    root = generic_tree(tmp_path / "d", 4)
    for part in ("images", "labels"):
        (root / part / "c1.nii.gz").rename(root / part / "dataset.nii.gz")
    (root / "labels" / "dataset.nii.gz").write_bytes(b"")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe",
               str(described(tmp_path / "description"))]  # fmt: skip
    assert main(command) == 2
    assert main([*command, "--skip-incomplete"]) == 0
    assert len(list((tmp_path / "raw").rglob("labelsTr/*"))) == 3


@pytest.mark.parametrize(("length", "code"), [(200, 0), (201, 2), (240, 2)])
def test_names_that_are_too_long_are_refused_before_anything_is_written(
    length: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = generic_tree(tmp_path / "d")
    for part in ("images", "labels"):
        (root / part / "c1.nii.gz").rename(root / part / f"{'x' * length}.nii.gz")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe",
               str(described(tmp_path / "description"))]  # fmt: skip
    assert main(command) == code
    told = capsys.readouterr().err
    assert (f"its name has {length} signs; allowed: 200" in told) == bool(code)
    assert "--resume" not in told


def test_names_that_become_the_same_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    for k, name in enumerate(("a b", "a+b")):
        for part in ("images", "labels"):
            (root / part / f"c{k}.nii.gz").rename(root / part / f"{name}.nii.gz")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe",
               str(described(tmp_path / "description"))]  # fmt: skip
    assert main(command) == 2
    assert "a_b: found 2 times" in capsys.readouterr().err


def test_a_table_of_patients_that_is_no_utf8_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = brats_tree(tmp_path / "d")
    (root / "name_mapping.csv").write_bytes("Grade,BraTS_2020_subject_ID\nM\xfcller,x\n".encode("latin-1"))
    assert _run("brats", root, tmp_path / "raw") == 2
    told = capsys.readouterr().err
    assert f"{root / 'name_mapping.csv'}: no table in UTF-8" in told


def test_the_report_of_odd_names_can_be_written(tmp_path: Path) -> None:
    """A test image whose name is no UTF-8 is left out; its path is in the report."""
    root = asoca_tree(tmp_path / "d")
    folder = root / "Normal" / "Testset_Normal"
    path = next(folder.iterdir())
    path.rename(folder / "M\udcfcller_7.nrrd")
    assert _run("asoca", root, tmp_path / "raw", "--skip-incomplete") == 0
    text = (tmp_path / "raw" / "Dataset510_ASOCA" / "conversion_report.json").read_text(encoding="utf-8")
    assert "M\\\\udcfcller_7.nrrd: its name is not UTF-8" in text


@pytest.mark.parametrize(
    "command",
    [
        ["asoca", "-i", "d", "-o", "M\udcfcller"],
        ["brats", "--back", "d", "--year", "2021", "-o", "M\udcfcller"],
        ["--make-example", "asoca", "M\udcfcller"],
    ],
)
def test_folders_to_write_into_whose_name_is_no_utf8(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SimpleITK ends the process at such a name."""
    asoca_tree(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "M\\udcfcller: its name is not UTF-8; choose another folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("where", ["nowhere", "file"])
def test_a_download_that_is_no_folder(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    before = hashes(tmp_path)
    message = "a file, not a folder" if where == "file" else "no such folder"
    for name in ("asoca", "brats", "imagecas", "btcv", "aiib23", "msd"):
        assert _run(name, tmp_path / where, tmp_path / "raw") == 2
        assert f"{tmp_path / where}: {message}" in capsys.readouterr().err
    assert hashes(tmp_path) == before


def test_images_of_two_channels_keep_their_order_and_grid(tmp_path: Path) -> None:
    root = generic_tree(tmp_path / "d", 3)
    arrays: dict[str, Any] = {}
    for k in range(3):
        arrays[f"c{k}"] = volumes(100 + k)[0]
        nifti(root / "second" / f"c{k}.nii.gz", arrays[f"c{k}"])
    images = {"first": "images/{case}.nii.gz", "second": "second/{case}.nii.gz"}
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe",
               str(described(tmp_path / "description", images=images))]  # fmt: skip
    assert main(command) == 0
    target = tmp_path / "raw" / "Dataset530_Trial"
    assert json.loads((target / "dataset.json").read_text(encoding="utf-8"))["channel_names"] == {
        "0": "first",
        "1": "second",
    }
    for name, array in arrays.items():
        made = sitk.ReadImage(str(target / "imagesTr" / f"{name}_0001.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(made).T, array)


@pytest.mark.parametrize("ending", [".nii", ".NII", ".hdr", ".img", ".nia"])
def test_a_case_named_like_a_file_is_refused(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SimpleITK would write its label under the name of another case."""
    root = generic_tree(tmp_path / "d")
    for part, array in zip(("images", "labels"), volumes(9), strict=True):
        nifti(root / part / f"c0{ending}.nii.gz", array)
    description = described(tmp_path / "description")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe", str(description)]
    assert main(command) == 2
    assert f"c0{ending}: its name ends with one of .nii" in capsys.readouterr().err
    assert main([*command, "--skip-incomplete"]) == 0


# --- the same images twice -----------------------------------------------------------------------------------------


def _twice(tmp_path: Path) -> Path:
    """c0 and c1 with the same images"""
    root = generic_tree(tmp_path / "d", 4)
    shutil.copy(root / "images" / "c0.nii.gz", root / "images" / "c1.nii.gz")
    return root


def _generic(root: Path, raw: Path, *options: str) -> int:
    description = described(root.parent / "description")
    return main(["generic", "-i", str(root), "-o", str(raw), "--jobs", "1", "--describe", str(description), *options])


def _cases_in(raw: Path) -> list[str]:
    return sorted(p.name.removesuffix(".nii.gz") for p in (raw / "Dataset530_Trial" / "labelsTr").iterdir())


def test_of_the_same_images_twice_the_first_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _twice(tmp_path)
    assert _generic(root, tmp_path / "raw") == 2
    assert "c1: the same images as c0, with another label: which of them is right?" in capsys.readouterr().err
    assert _generic(root, tmp_path / "raw", "--skip-incomplete") == 0
    assert "c1: the same images as c0, with another label" in capsys.readouterr().out
    assert _cases_in(tmp_path / "raw") == ["c0", "c2", "c3"]
    shutil.copy(root / "labels" / "c0.nii.gz", root / "labels" / "c1.nii.gz")
    assert _generic(root, tmp_path / "both", "--keep-duplicates") == 0
    assert "c1: the same images as c0\n" in capsys.readouterr().out
    assert _cases_in(tmp_path / "both") == ["c0", "c1", "c2", "c3"]


def test_a_case_that_is_refused_takes_no_duplicate_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _twice(tmp_path)
    (root / "labels" / "c0.nii.gz").unlink()
    assert _generic(root, tmp_path / "raw", "--skip-incomplete") == 0
    told = capsys.readouterr().out
    assert "c0: no label" in told
    assert "c0: the same images as c1" in told
    assert _cases_in(tmp_path / "raw") == ["c1", "c2", "c3"]


@pytest.mark.parametrize(("name", "tree", "image", "label"), [
    ("btcv", _btcv, "Training/img/img0002.nii.gz", "Training/label/label0002.nii.gz"),
    ("aiib23", _aiib, "img/AIIB23_2.nii.gz", "gt/AIIB23_2.nii.gz"),
    ("imagecas", _imagecas, "2.img.nii.gz", "2.label.nii.gz"),
    ("asoca", asoca_tree, "Normal/CTCA/Normal_1.nrrd", "Normal/Annotations/Normal_1.nrrd"),
])  # fmt: skip
def test_an_image_that_is_its_label_is_refused(
    name: str, tree: Any, image: str, label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "d")
    shutil.copy(root / label, root / image)
    assert _run(name, root, tmp_path / "raw") == 2
    assert f"{root / label}: the label holds the same voxels as an image" in capsys.readouterr().err


def test_images_that_two_channels_or_cases_share_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = brats_tree(tmp_path / "d")
    data = root / "BraTS2021_Training_Data"
    names = [f"BraTS2021_0000{k}" for k in range(3)]
    if not (data / names[0]).is_dir():
        names = sorted(p.name for p in data.iterdir())
    shutil.copy(data / names[1] / f"{names[1]}_t1.nii.gz", data / names[1] / f"{names[1]}_t2.nii.gz")
    shutil.copy(data / names[0] / f"{names[0]}_flair.nii.gz", data / names[2] / f"{names[2]}_flair.nii.gz")
    assert _run("brats", root, tmp_path / "raw") == 0
    told = capsys.readouterr().out
    assert f"{names[1]}: two of its images hold the same voxels" in told
    assert f"{names[2]}: shares an image with {names[0]}" in told
    assert "as the label of" not in told


def test_an_image_that_is_the_label_of_another_case_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = brats_tree(tmp_path / "d")
    data = root / "BraTS2021_Training_Data"
    one, other = sorted(p.name for p in data.iterdir() if p.is_dir())[:2]
    shutil.copy(data / other / f"{other}_seg.nii.gz", data / one / f"{one}_t1.nii.gz")
    assert _run("brats", root, tmp_path / "raw") == 0
    assert f"{one}: an image holds the same voxels as the label of {other}" in capsys.readouterr().out


# --- files and folders whose meaning cannot be known ---------------------------------------------------------------


@pytest.mark.parametrize(("name", "tree", "path"), [
    ("btcv", _btcv, "Training/img/img00005.nii.gz"), ("aiib23", _aiib, "img/AIIB_5.nii.gz"),
])  # fmt: skip
def test_files_named_like_no_case_are_told(
    name: str, tree: Any, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "d")
    nifti(root / path, volumes(9)[0])
    assert _run(name, root, tmp_path / "raw") == 0
    told = capsys.readouterr().out
    assert f"{(root / path).parent}: 1 files named like no case are left out: {(root / path).name}" in told


def test_two_split_sheets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _imagecas(tmp_path / "d")
    table = "FileName,Split-1\n1,Training\n2,Val\n3,Training\n4,Training\n"
    for name in ("a_split.csv", "split_b.csv"):
        (root / name).write_text(table)
    assert _run("imagecas", root, tmp_path / "raw") == 2
    assert (
        f"2 split sheets: {root / 'a_split.csv'}, {root / 'split_b.csv'}; choose with --sheet"
        in capsys.readouterr().err
    )
    assert _run("imagecas", root, tmp_path / "raw", "--sheet", str(root / "split_b.csv")) == 0


@pytest.mark.parametrize(("source", "copy"), [("Normal", "ASOCA_Normal"), ("Normal/CTCA", "Normal/Normal/CTCA")])
def test_two_folders_for_one_thing_are_refused(
    source: str, copy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = asoca_tree(tmp_path / "d")
    shutil.copytree(root / source, root / copy)
    assert _run("asoca", root, tmp_path / "raw") == 2
    told = capsys.readouterr().err
    assert f"{root / source}" in told
    assert f"{root / copy}" in told
    assert "two folders for one thing; move one away" in told
