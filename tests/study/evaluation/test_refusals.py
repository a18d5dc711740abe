"""What `nnunet-mamba evaluate` does not score in silence: values, files, descriptions and folders that mean nothing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.cli.main import main
from nnunet_mamba.study.evaluation import evaluate as scoring
from nnunet_mamba.study.evaluation.description import describe, masks_of
from nnunet_mamba.study.evaluation.each_case import of_each_case
from nnunet_mamba.study.evaluation.intact import check_intact
from nnunet_mamba.study.evaluation.masks import counts_of, files_by_case, read_pair
from nnunet_mamba.study.evaluation.output import as_text
from nnunet_mamba.whole_files import read_object

Capture = pytest.CaptureFixture[str]
LABELS = {"background": 0, "a": 1, "b": 2}
SHAPE = (6, 8, 10)


def _labels(shift: int = 0) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1 + shift : 5 + shift, 2:7] = 1
    labels[2, 2 + shift, 3:6] = 2
    return labels


def _write(path: Path, voxels: np.ndarray, **places: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.0, 2.0))
    image.SetOrigin(places.get("origin", (0.0, 0.0, 0.0)))
    sitk.WriteImage(image, str(path), places.get("compress", True))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for i in range(3):
        _write(tmp_path / "ref" / f"c{i}.nii.gz", _labels())
        _write(tmp_path / "pred" / f"c{i}.nii.gz", _labels(1))
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    return tmp_path


def _run(folders: Path, *more: str) -> int:
    return main(["evaluate", "-ref", str(folders / "ref"), "-pred", str(folders / "pred"), "-metrics", "Dice", *more])


def _result(folders: Path) -> dict[str, Any]:
    return json.loads((folders / "pred" / "evaluation.json").read_text(encoding="utf-8"))


# --- an evaluation that is ended

KILLED = """
import os, signal, sys
from nnunet_mamba.cli.main import main
from nnunet_mamba.study.evaluation import evaluate

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell have it ignored
score = evaluate.evaluate_case
def killed(asked, item):
    if item[0] == "c2":
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return score(asked, item)

evaluate.evaluate_case = killed
main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_what_was_scored_before_the_end_is_not_scored_again(
    folders: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert _run(folders) == 0
    expected = _result(folders)
    for name in ("evaluation.json", "evaluation.csv"):
        (folders / "pred" / name).unlink()
    command = ["evaluate", "-ref", str(folders / "ref"), "-pred", str(folders / "pred"), "-metrics", "Dice"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    subprocess.run([sys.executable, "-c", KILLED, how, *command], env=environment, check=False, capture_output=True)
    assert not (folders / "pred" / "evaluation.json").exists()
    with (folders / "pred" / "evaluation.unfinished").open("a") as file:
        file.write('\n{"case": "c2", "key')  # as if the end had come while it was written
    _write(folders / "pred" / "c1.nii.gz", _labels(1))  # newer than its scores
    scored, score = [], scoring.evaluate_case
    monkeypatch.setattr(scoring, "evaluate_case", lambda asked, item: scored.append(item[0]) or score(asked, item))
    capsys.readouterr()
    assert _run(folders) == 0
    assert "1 of 3 cases were scored before an earlier evaluation was ended" in capsys.readouterr().out
    assert scored == ["c1", "c2"]
    assert _result(folders) == expected
    assert not (folders / "pred" / "evaluation.unfinished").exists()


# --- headers that contradict themselves


def _edit(path: Path, **fields: Any) -> None:
    """A NIfTI header's fields, as they are stored"""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = nibabel.Nifti1Header(bytes(content[:348]))
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))


BY_SFORM = {"qform_code": 0}
CONTRADICTING: dict[str, tuple[dict[str, Any], str]] = {
    "pixdim": ({**BY_SFORM, "pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}, "voxels of 1 x 1 x 2 by its sform, of 2 x 2 x 2 by"),
    "forms": ({"qoffset_x": 5}, "sform and qform disagree by up to 5 mm, and readers differ in which they use"),
    "intercept": ({"scl_slope": 0, "scl_inter": 1}, "scl_slope 0 with scl_inter 1: by the NIfTI standard neither"),
    "offset": ({"vox_offset": 0}, "vox_offset 0: its voxels would begin in its header"),
    "a form": ({"srow_x": [0, 0, 0, 0]}, "its sform is singular or not finite"),
}


@pytest.mark.parametrize("name", CONTRADICTING)
def test_headers_that_contradict_themselves_are_told(folders: Path, name: str, capsys: Capture) -> None:
    """Both files of a pair alike, so that they lie in one place by whatever is read"""
    fields, reason = CONTRADICTING[name]
    for part in ("ref", "pred"):
        _edit(folders / part / "c1.nii.gz", **fields)
    assert _run(folders, "--unknown_as_background") == 0
    told = capsys.readouterr().err
    assert f"{folders}/ref/c1.nii.gz ({reason}" in told
    assert "scored as nnU-Net reads them" in told
    found = _result(folders)["contradicting_headers"]
    assert {case: list(files) for case, files in found.items()} == {
        "c1": [str(folders / part / "c1.nii.gz") for part in ("ref", "pred")]
    }
    assert all(reason in reasons[0] for reasons in found["c1"].values())
    assert "c1" in _result(folders)["cases"]


def test_of_many_such_files_some_are_named_in_one_line(folders: Path, capsys: Capture) -> None:
    for i in range(3):
        for part in ("ref", "pred"):
            _edit(folders / part / f"c{i}.nii.gz", qoffset_x=5)
    assert _run(folders) == 0
    (line,) = [t for t in capsys.readouterr().err.splitlines() if "contradict" in t]
    assert line.count("sform and qform disagree") == 3
    assert " and 3 more; all: evaluation.json" in line
    assert [len(files) for files in _result(folders)["contradicting_headers"].values()] == [2, 2, 2]


def test_headers_that_say_one_thing_are_not_told(folders: Path, capsys: Capture) -> None:
    """Of SimpleITK, of nibabel, without forms, and in micrometres"""
    _edit(folders / "pred" / "c1.nii.gz", qform_code=0, sform_code=0)
    _edit(folders / "ref" / "c1.nii.gz", qform_code=0, sform_code=0)
    for part in ("ref", "pred"):
        image = nibabel.load(folders / part / "c2.nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine), folders / part / "c2.nii.gz")
        _edit(folders / part / "c0.nii.gz", xyzt_units=3)
    assert _run(folders) == 0
    assert "contradict" not in capsys.readouterr().err
    assert _result(folders)["contradicting_headers"] == {}


# --- values


@pytest.mark.parametrize("part", ["ref", "pred"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: np.where(v == 2, 4, v).astype(np.uint8), r"c1.nii.gz holds 4 \(3 voxels\); dataset.json has 0, 1"),
        (lambda v: v.astype(np.int8) * -1, r"c1.nii.gz holds -2 \(3 voxels\), -1 \(57 voxels\); dataset.json has"),
        (lambda v: (v * 0.4).astype(np.float32), r"c1.nii.gz holds 0.[48] at voxel \(\d, \d, \d\), and 60 values"),
        (lambda v: np.where(v == 2, np.nan, v).astype(np.float32), "c1.nii.gz holds 3 voxels that are NaN"),
        (lambda v: np.where(v == 2, np.inf, v).astype(np.float64), "c1.nii.gz holds 3 voxels that are NaN"),
        (lambda v: v.astype(np.uint16) * 256, r"c1.nii.gz holds 256 \(57 voxels\), 512 \(3 voxels\)"),
    ],
)  # fmt: skip
def test_values_that_mean_nothing(
    folders: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
) -> None:
    _write(folders / part / "c1.nii.gz", change(_labels(1 if part == "pred" else 0)))
    assert _run(folders) == 2
    shown = capsys.readouterr().err
    assert re.search(f"not scored: 'c1': .*{part}/{message}", shown), shown
    assert "1 of 3 pairs could not be scored" in shown
    # the others are
    assert sorted(_result(folders)["cases"]) == ["c0", "c2"]
    assert list(_result(folders)["not_scored"]) == ["c1"]
    with (folders / "pred" / "evaluation.csv").open() as file:
        assert sorted({row["case"] for row in csv.DictReader(file)}) == ["c0", "c2"]


def test_a_file_without_a_checksum_that_ends_too_early(folders: Path, capsys: Capture) -> None:
    """SimpleITK reads something else in the place of what is missing."""
    for part, shift in (("ref", 0), ("pred", 1)):
        for i in range(2):
            _write(folders / part / f"c{i}.gipl", _labels(shift))
    (folders / "pred" / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".gipl"}))
    assert _run(folders) == 0
    path = folders / "pred" / "c1.gipl"
    path.write_bytes(path.read_bytes()[:-30])
    assert _run(folders) == 2
    assert "c1.gipl: cut off: 450 of 480 bytes" in capsys.readouterr().err
    assert list(_result(folders)["cases"]) == ["c0"]


def _hard_link(folders: Path) -> None:
    (folders / "pred" / "c1.nii.gz").hardlink_to(folders / "ref" / "c1.nii.gz")


def _link(folders: Path) -> None:
    (folders / "pred" / "c1.nii.gz").symlink_to(folders / "ref" / "c1.nii.gz")


def _pipe(folders: Path) -> None:
    os.mkfifo(folders / "pred" / "c1.nii.gz")


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes with names")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_hard_link, "is the same file as .*ref/c1.nii.gz"),
        (_link, "is the same file as"),
        (_pipe, "is not a regular file"),
    ],
)
def test_predictions_that_are_none(folders: Path, make: Callable[[Path], None], message: str, capsys: Capture) -> None:
    """A perfect score, or waiting for ever"""
    (folders / "pred" / "c1.nii.gz").unlink()
    make(folders)
    assert _run(folders) == 2
    assert re.search(f"pred/c1.nii.gz {message}", capsys.readouterr().err)
    assert list(_result(folders)["cases"]) == ["c0", "c2"]


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.csv"])
def test_a_folder_in_the_place_of_results_is_told_before_anything_is_scored(
    folders: Path, name: str, capsys: Capture
) -> None:
    (folders / "pred" / name).mkdir()
    assert _run(folders) == 2
    told = capsys.readouterr().err
    assert f"pred/{name}: a folder, where results are to be written" in told
    assert "cases:" not in told, "no bar of progress"


def test_scores_are_there_before_they_are_shown(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that lacks a sign, or a reader that has gone, takes no scores along."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert _run(folders) == 0
    sys.stdout.flush()
    assert b"0.6842 \\xb1 0" in shown.getvalue()
    assert sorted(_result(folders)["cases"]) == ["c0", "c1", "c2"]
    assert (folders / "pred" / "evaluation.csv").exists()


def test_nearly_whole_numbers_are_whole(folders: Path) -> None:
    assert _run(folders) == 0
    right = _result(folders)["cases"]
    _write(folders / "pred" / "c1.nii.gz", (_labels(1) * 1.0004).astype(np.float32))
    _write(folders / "ref" / "c2.nii.gz", _labels().astype(np.float64) - 0.0009)
    assert _run(folders) == 0
    assert _result(folders)["cases"] == right
    _write(folders / "ref" / "c2.nii.gz", _labels().astype(np.float64) - 0.0011)
    assert _run(folders) == 2


def test_unknown_values_as_background(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(folders / "pred" / "c1.nii.gz", np.where(_labels(1) == 2, 7, _labels(1)).astype(np.uint8))
    assert _run(folders, "--unknown_as_background") == 0
    assert "pred/c1.nii.gz: 7 (3 voxels) counted as background" in capsys.readouterr().out
    assert _result(folders)["cases"]["c1"]["b"]["Dice"] == 0
    assert _result(folders)["cases"]["c1"]["a"] == _result(folders)["cases"]["c0"]["a"]
    assert list(_result(folders)["unknown_values"]) == ["c1"]


def test_ignored_voxels_are_known(folders: Path) -> None:
    labels = {**LABELS, "ignore": 3}
    (folders / "pred" / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    _write(folders / "ref" / "c1.nii.gz", np.where(_labels() == 0, 3, _labels()).astype(np.uint8))
    assert _run(folders) == 0


def test_counts() -> None:
    assert counts_of(np.array([5, -2, 5, 0], np.int8)) == {-2: 1, 0: 1, 5: 2}
    assert counts_of(np.array([2**31, 0], np.uint32)) == {0: 1, 2**31: 1}
    assert counts_of(np.zeros((0, 3), np.uint8)) == {}


# --- files


def _flipped(path: Path, right: np.ndarray) -> None:
    """One bit of the compressed voxels is changed, such that SimpleITK reads others without a word"""
    whole = path.read_bytes()
    for place in range(len(whole) // 3, len(whole) - 9):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            if (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) != right).any():
                return
        except RuntimeError:
            pass
    raise AssertionError("SimpleITK notices every flipped bit")


def test_a_flipped_bit_in_a_compressed_prediction(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = np.zeros((96, 128, 128), np.uint8)
    large[20:60, 30:90, 40:80] = 1
    large[30:40, 50:60, 50:60] = 2
    for part in ("ref", "pred"):
        _write(folders / part / "c1.nii.gz", large)
    _flipped(folders / "pred" / "c1.nii.gz", large)
    assert _run(folders) == 2
    assert "pred/c1.nii.gz is damaged: its compressed data or their checksum are wrong" in capsys.readouterr().err
    assert sorted(_result(folders)["cases"]) == ["c0", "c2"]


@pytest.mark.parametrize("name", ["l.nii.gz", "l.nii", "l.nrrd", "l.mha"])
def test_files_that_are_cut_off(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (9, 30, 40)).astype(np.uint8)
    _write(tmp_path / name, noise, compress=not name.endswith(".nii"))
    check_intact(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=rf"{name} is cut off: "):
        check_intact(tmp_path / name)


@pytest.mark.parametrize("stated", ["", "CompressedDataSize = 30\n", "CompressedDataSize = 0\n"])
def test_a_meta_image_that_states_another_length(tmp_path: Path, stated: str) -> None:
    """SimpleITK unpacks so much of it, and puts whatever was in memory in the place of the rest."""
    path = tmp_path / "l.mha"
    _write(path, np.random.default_rng(0).integers(0, 3, (9, 30, 40)).astype(np.uint8))
    whole = path.read_bytes()
    check_intact(path)
    path.write_bytes(whole + b"\n")
    check_intact(path)
    path.write_bytes(re.sub(rb"CompressedDataSize = \d+\n", stated.encode(), whole))
    with pytest.raises(ValueError, match=r"l.mha is damaged: its header says (no|30|0) compressed bytes; it has \d+"):
        check_intact(path)


@pytest.mark.parametrize("name", ["l.nrrd", "l.mha"])
def test_damaged_bodies_of_other_formats(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (9, 30, 40)).astype(np.uint8)
    _write(tmp_path / name, noise)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))) == noise).all(), "SimpleITK does not look"
    with pytest.raises(ValueError, match=rf"{name} is (damaged|cut off)"):
        check_intact(tmp_path / name)


def test_voxels_that_only_the_checksum_knows_to_be_wrong(tmp_path: Path) -> None:
    for labels in (_labels(), _labels().astype(np.float32)):
        _write(tmp_path / "l.nii.gz", labels)
        content = gzip.decompress((tmp_path / "l.nii.gz").read_bytes())
        changed = gzip.compress(content[:-1] + b"\1")
        (tmp_path / "l.nii.gz").write_bytes(changed[:-8] + gzip.compress(content)[-8:])
        with pytest.raises(ValueError, match=r"l.nii.gz is damaged: .* checksum are wrong"):
            check_intact(tmp_path / "l.nii.gz")


def test_a_right_checksum_of_too_few_voxels(tmp_path: Path) -> None:
    _write(tmp_path / "l.nii.gz", _labels())
    (tmp_path / "l.nii.gz").write_bytes(gzip.compress(gzip.decompress((tmp_path / "l.nii.gz").read_bytes())[:-10]))
    with pytest.raises(ValueError, match="cut off: 470 of 480 bytes of voxels are there"):
        check_intact(tmp_path / "l.nii.gz")


@pytest.mark.parametrize(("moved", "same"), [(0.02, False), (0.011, False), (0.005, True), (0.0, True)])
def test_how_far_apart_is_elsewhere(tmp_path: Path, moved: float, same: bool) -> None:
    a, b = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    _write(a, _labels())
    _write(b, _labels(), origin=(0.0, moved, 0.0))
    if same:
        read_pair(a, b)
    else:
        with pytest.raises(ValueError, match=r"b.nii.gz lies elsewhere than .*a.nii.gz: 0.0[12]1?\d* mm at voxel"):
            read_pair(a, b)


def test_colours_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(ValueError, match=r"c.png: 3 values per voxel; a label map has one"):
        read_pair(path, path)


def test_hidden_files_are_no_cases(folders: Path) -> None:
    for part in ("ref", "pred"):
        (folders / part / "._c1.nii.gz").write_bytes(b"Mac OS X        ")
    (folders / "ref" / ".nii.gz").write_bytes(b"")
    assert _run(folders) == 0
    assert sorted(_result(folders)["cases"]) == ["c0", "c1", "c2"]
    assert list(files_by_case(folders / "ref", ".nii.gz")) == ["c0", "c1", "c2"]
    assert files_by_case(folders / "nowhere", ".nii.gz") == {}


def test_links_to_nowhere_are_no_missing_cases(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "ref" / "c9.nii.gz").symlink_to(folders / "gone.nii.gz")
    _write(folders / "pred" / "c9.nii.gz", _labels())
    assert _run(folders) == 2
    assert "c9.nii.gz cannot be read: No such file or directory" in capsys.readouterr().err


def test_nothing_can_be_scored(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folders / "pred").glob("*.nii.gz"):
        path.write_bytes(b"nothing")
    assert _run(folders) == 2
    assert "none of 3 pairs could be scored; nothing is written" in capsys.readouterr().err
    assert not (folders / "pred" / "evaluation.json").exists()


# --- folders


def test_the_output_folder_is_asked_for_first(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_mamba.study.evaluation.evaluate.evaluate", lambda *a: pytest.fail("computed first"))
    (folders / "file").write_text("")
    for target in ("file", "file/below"):
        assert _run(folders, "-o", str(folders / target)) == 2
        assert f"{target}: nothing can be written there: " in capsys.readouterr().err


def test_typing_errors(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*more: str, ref: str = "ref", pred: str = "pred") -> str:
        assert main(["evaluate", "-ref", str(folders / ref), "-pred", str(folders / pred), *more]) == 2
        return capsys.readouterr().err

    assert re.search(r"-pred .*typo: no such folder", told(pred="typo"))
    assert re.search(r"-ref .*typo: no such folder", told(ref="typo"))
    assert "dataset.json: a file, not a folder" in told(ref="pred/dataset.json")
    assert "-ref and -pred are the same folder" in told(pred="ref")
    assert "Did you mean Dice?" in told("-metrics", "dice")
    assert "Did you mean VolumeDifference?" in told("-metrics", "Volume_difference")
    assert "-one_empty 1e400" in told("-one_empty", "1e400")
    assert "-one_empty 99999999999" in told("-one_empty", "9" * 400)
    assert "-djfile nowhere.json: no such file" in told("-djfile", "nowhere.json")


def test_another_evaluation_is_kept(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(folders) == 0
    first = (folders / "pred" / "evaluation.csv").read_bytes()
    assert _run(folders) == 0
    assert not (folders / "pred" / "evaluation_1.csv").exists(), "the same question again"
    assert _run(folders, "IoU") == 0
    assert "is kept: " in capsys.readouterr().out
    assert (folders / "pred" / "evaluation_1.csv").read_bytes() == first
    assert list(_result(folders)["definitions"]) == ["Dice", "IoU"]
    assert _run(folders, "-both_empty", "nan") == 0
    assert (folders / "pred" / "evaluation_2.json").is_file()


def test_without_a_dataset_json(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(folders) == 0
    right = _result(folders)["cases"]
    (folders / "pred" / "dataset.json").unlink()
    assert _run(folders) == 0
    shown = capsys.readouterr().out
    assert "dataset.json: scored are the values found, each as a label" in shown
    assert "  2: in 3 references, 3 predictions" in shown
    assert [of["1"] for of in _result(folders)["cases"].values()] == [of["a"] for of in right.values()]
    _write(folders / "pred" / "c1.nii.gz", np.where(_labels(1) == 2, 7, _labels(1)).astype(np.uint8))
    assert _run(folders) == 0
    assert "  7: in 0 references, 1 predictions" in capsys.readouterr().out
    assert _result(folders)["summary"]["7"]["Dice"]["mean"] == pytest.approx(2 / 3)
    for path in (folders / "pred").glob("*.nii.gz"):
        _write(path, np.arange(480).reshape(SHAPE).astype(np.int16))
    assert _run(folders) == 2
    assert "479 different values: images, not label maps?" in capsys.readouterr().err


def test_several_endings_need_a_dataset_json(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "pred" / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    assert _run(folders) == 0
    assert "has no file_ending; scored are *.nii.gz files" in capsys.readouterr().out
    for part in ("ref", "pred"):
        _write(folders / part / "c0.nrrd", _labels())
    assert _run(folders) == 2
    assert "have files of .nii.gz and .nrrd in common" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_name_is_a_formula(name: str) -> None:
    assert as_text(name) == f"'{name}"
    assert as_text(f"x{name}") == f"x{name}"


# --- descriptions


def test_labels_of_the_decathlon(folders: Path) -> None:
    assert _run(folders) == 0
    right = _result(folders)["cases"]
    msd = {"name": "X", "labels": {"0": "background", "1": "a", "2": "b"}, "numTraining": 3}
    (folders / "pred" / "dataset.json").write_text(json.dumps(msd))
    assert _run(folders) == 0
    assert _result(folders)["cases"] == right
    assert masks_of(msd["labels"]) == {"a": (1,), "b": (2,)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"holds \[1\]; expected an object"),
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ('{"a": 1, "a": 2}', 'not JSON: "a" is there twice'),
        ("{}", "labels are null; expected"),
        ('{"labels": []}', r"labels are \[\]; expected"),
        ('{"labels": {"background": 0}}', r"labels \{.*\} name no foreground"),
        ('{"labels": {"background": 1}}', '"background" is 1; in nnU-Net it is 0'),
        ('{"labels": {"a": 1.5}}', "label 'a' is 1.5; expected a whole number from 0"),
        ('{"labels": {"a": true}}', "label 'a' is true; expected a whole number"),
        ('{"labels": {"a": -1}}', "label 'a' is -1; expected"),
        ('{"labels": {"a": null}}', "label 'a' is null; expected"),
        ('{"labels": {"a": [1, [2]]}}', r"label 'a' is \[2\]; expected"),
        ('{"labels": {"a": []}}', r"label 'a' is \[\]; expected a name, and a number"),
        ('{"labels": {" ": 1}}', "label ' ' is 1; expected a name"),
        ('{"labels": {"a": 1e400}}', "label 'a' is Infinity; expected"),
        (
            '{"labels": {"0": "background", "1": "x", "2": "x"}}',
            r'labels \{.*\}: "x" is not a name, or one of two labels',
        ),
        ('{"labels": {"a": 1, "ignore": 1}}', '"ignore" is .1.; expected one value that no other label has'),
        ('{"labels": {"a": 1, "ignore": [2, 3]}}', '"ignore" is .2, 3.; expected one value'),
        ('{"labels": {"a": 1}, "file_ending": 3}', '"file_ending" is 3; expected ".nii.gz"'),
        ('{"labels": {"a": 1}, "file_ending": ""}', '"file_ending" is ""; expected'),
        ('{"labels": {"a": 1}, "file_ending": "../x"}', '"file_ending" is "../x"; expected'),
        ('{"labels": {"a": 1}, "file_ending": ".mhd"}', '"file_ending" is ".mhd", which nnU-Net does not read'),
        ('{"labels": {"\\ud800": 1}}', "label .* is 1; expected a name, and a number"),
    ],
)
def test_descriptions_without_meaning(
    folders: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (folders / "pred" / "dataset.json").write_text(content)
    assert _run(folders) == 2
    shown = capsys.readouterr().err
    assert re.search(f"dataset.json: {message}", shown), shown


def test_descriptions_with_meaning(tmp_path: Path) -> None:
    content = {
        "labels": {"background": 0, "whole": [1, 2], "core": "2", "edge": 3.0, "ignore": 4},
        "file_ending": ".nrrd",
    }
    found = describe(content, "here")
    assert found.masks == {"whole": (1, 2), "core": (2,), "edge": (3,)}
    assert (found.values, found.ignore, found.ending) == ({0, 1, 2, 3, 4}, 4, ".nrrd")
    (tmp_path / "d.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_object(tmp_path / "d.json") == {}
    (tmp_path / "d.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"d\.json: not JSON"):
        read_object(tmp_path / "d.json")


# --- processes


def _square(number: int) -> int:
    if number == 2:
        raise ValueError("no twos")
    if number == 3:
        raise MemoryError
    if number == 4:
        raise KeyError("four")
    return number**2


def _square_or_die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_failure_takes_no_other_along(jobs: int) -> None:
    done, failed = of_each_case(_square, {str(n): n for n in range(6)}, jobs)
    assert done == {"0": 0, "1": 1, "5": 25}
    assert failed == {"2": "no twos", "3": "not enough memory", "4": "KeyError: 'four'"}


def test_a_killed_process_is_told_by_its_case(capsys: pytest.CaptureFixture[str]) -> None:
    done, failed = of_each_case(_square_or_die, {str(n): n for n in range(5)}, 2)
    assert done == {"0": 0, "1": 1, "3": 9, "4": 16}
    assert failed == {"2": "the process that worked on it was ended from outside, as systems do when memory runs out"}
    assert "the remaining" in capsys.readouterr().err
