"""The Decathlon's tasks: what nnU-Net's own converter makes of them, with checks, resumable, and no copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.dataset_conversion import convert_MSD_dataset as stock

import nnunet_mamba
from dataset_conversion import convert as engine
from dataset_conversion.command import main
from tests.dataset_conversion.trees import edit_nifti, hashes, nifti, volumes

HIPPOCAMPUS = Path(nnunet_mamba.__file__).parent / "data" / "hippocampus" / "Task04_Hippocampus"


def _task(root: Path, n: int = 4, channels: int = 2) -> Path:
    """Task05_Prostate with n training cases and one for test"""
    task = root / "Task05_Prostate"
    for k in range(n + 1):
        image = np.stack([volumes(10 * k + c)[0] for c in range(channels)], axis=-1)
        folder = "imagesTr" if k < n else "imagesTs"
        nifti(task / folder / f"prostate_{k:02d}.nii.gz", image if channels > 1 else image[..., 0])
        if k < n:
            nifti(task / "labelsTr" / f"prostate_{k:02d}.nii.gz", volumes(k, most=2)[1])
    _describe(task, n, channels)
    return task


def _describe(task: Path, n: int, channels: int = 2, **change: Any) -> None:
    text = {
        "name": "PROSTATE",
        "reference": "Radboud University",
        "licence": "CC-BY-SA 4.0",
        "modality": {str(c): name for c, name in enumerate(("T2", "ADC", "b")[:channels])},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": n,
        "training": [
            {"image": f"./imagesTr/prostate_{k:02d}.nii.gz", "label": f"./labelsTr/prostate_{k:02d}.nii.gz"}
            for k in range(n)
        ],
        "test": [f"./imagesTs/prostate_{n:02d}.nii.gz"],
        **change,
    }
    (task / "dataset.json").write_text(json.dumps({k: v for k, v in text.items() if v is not None}))


def _command(task: Path, raw: Path, *options: str) -> list[str]:
    return ["msd", "-i", str(task), "-o", str(raw), "--jobs", "1", *options]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_it_is_what_nnunets_converter_makes(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task(tmp_path / "d", 3, channels)
    (tmp_path / "stock").mkdir()
    monkeypatch.setattr(stock, "nnUNet_raw", str(tmp_path / "stock"))
    monkeypatch.setattr(stock, "find_candidate_datasets", lambda number: [])
    stock.convert_msd_dataset(str(task), None, 1)
    assert main(_command(task, tmp_path / "raw")) == 0
    theirs, ours = tmp_path / "stock" / "Dataset005_Prostate", tmp_path / "raw" / "Dataset005_Prostate"
    names = sorted(p.relative_to(theirs).as_posix() for p in theirs.rglob("*.nii.gz"))
    assert len(names) == 4 * channels + 3
    assert names == sorted(p.relative_to(ours).as_posix() for p in ours.rglob("*.nii.gz"))
    for name in names:
        a, b = (sitk.ReadImage(str(folder / name)) for folder in (theirs, ours))
        assert np.array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b)), name
        assert b.GetSpacing() == pytest.approx(a.GetSpacing(), rel=1e-6)
        assert b.GetOrigin() == pytest.approx(a.GetOrigin(), abs=1e-5)
        assert b.GetDirection() == pytest.approx(a.GetDirection(), abs=1e-6)
    a, b = (json.loads((folder / "dataset.json").read_text(encoding="utf-8")) for folder in (theirs, ours))
    assert (a["labels"], a["channel_names"]) == (b["labels"], b["channel_names"])


def test_it_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task(tmp_path / "d")
    assert main(_command(task, tmp_path / "expected")) == 0
    place, left = engine._place, 4

    def full(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        place(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_place", full)
        assert main(_command(task, tmp_path / "raw")) == 1
    placed: list[str] = []
    monkeypatch.setattr(engine, "_place", lambda *a: (placed.append(a[1]), place(*a)))
    assert main(_command(task, tmp_path / "raw")) == 2
    assert main(_command(task, tmp_path / "raw", "--resume")) == 0
    assert not any("prostate_00" in name for name in placed), "what was done is not done again"
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["Dataset005_Prostate"], "no copies"


def test_a_dry_run_writes_nothing_at_all(tmp_path: Path) -> None:
    task = _task(tmp_path / "d")
    before = hashes(tmp_path)
    assert main(_command(task, tmp_path / "raw", "--dry-run")) == 0
    assert not (tmp_path / "raw").exists()
    assert hashes(tmp_path) == before


def test_damaged_files_are_refused_together_under_the_users_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _task(tmp_path / "d", 6)
    image, label, other = (task / f"{part}Tr" / "prostate_0" for part in ("images", "labels", "images"))
    (Path(f"{image}1.nii.gz")).write_bytes(b"/data/BRATS_001.nii.gz\n")
    cut = Path(f"{other}2.nii.gz")
    cut.write_bytes(cut.read_bytes()[:-200])
    edit_nifti(Path(f"{label}3.nii.gz"), lambda a, h: a * 60)
    edit_nifti(Path(f"{other}4.nii.gz"), lambda a, h: a[..., :1])
    assert main(_command(task, tmp_path / "raw")) == 2
    told = capsys.readouterr().err
    assert f"{image}1.nii.gz: not a NIfTI file; it looks like text: '/data/BRATS_001.nii.gz'" in told
    assert f"{cut}: cut off: the compressed data end too early" in told
    assert f"{label}3.nii.gz: label values 60, 120; allowed: 0, 1, 2" in told
    assert f"{other}4.nii.gz: 1 images in it; expected 2: T2, ADC" in told
    assert "4 of 7 cases refused" in told
    assert not (tmp_path / "raw").exists()
    assert main(_command(task, tmp_path / "raw", "--skip-incomplete")) == 0


def test_halves_of_cases_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = _task(tmp_path / "d", 5)
    (task / "imagesTr" / "prostate_01.nii.gz").unlink()
    (task / "labelsTr" / "prostate_02.nii.gz").unlink()
    for part in ("imagesTr", "labelsTr"):
        (task / part / "prostate_03.nii.gz").unlink()
    (task / "imagesTs" / "prostate_05.nii.gz").unlink()
    assert main(_command(task, tmp_path / "raw")) == 2
    told = capsys.readouterr().err
    assert f"prostate_01: {task / 'labelsTr' / 'prostate_01.nii.gz'}: a label without image" in told
    assert "prostate_02: no label" in told
    assert "prostate_03: " in told
    assert told.count("in its dataset.json, but neither image nor label") == 1
    assert "the test image prostate_05 of its dataset.json is not there" in told


def test_a_taken_target_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _task(tmp_path / "d")
    (tmp_path / "raw" / "Dataset005_Mine").mkdir(parents=True)
    monkeypatch.setattr(engine, "plan", lambda *a: pytest.fail("read"))
    assert main(_command(task, tmp_path / "raw")) == 2
    assert "id 5 is taken by Dataset005_Mine" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["Dataset005_Mine"]


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "labels a list": ({"labels": ["a"]}, 'labels is [\'a\']; expected an object like {"0": "name"}'),
    "label values as text": ({"labels": {"zero": "background"}}, "labels: 'zero' is not a number"),
    "labels the other way round": ({"labels": {"background": 0, "PZ": 1}}, "expected an object like"),
    "a gap": ({"labels": {"0": "background", "1": "PZ", "5": "TZ"}}, "are not consecutive"),
    "a name twice": ({"labels": {"0": "background", "1": "PZ", "2": "PZ"}}, "labels: a name twice"),
    "no background": ({"labels": {"0": "air", "1": "PZ"}}, "background must be there and 0"),
    "no labels": ({"labels": None}, "labels is None"),
    "no modality": ({"modality": None}, "modality is None"),
    "modality from 1": ({"modality": {"1": "T2", "2": "ADC"}}, "modality: numbers [1, 2]; expected 0, 1"),
    "modality a list": ({"modality": ["T2"]}, "modality is ['T2']"),
    "training a number": ({"training": 5}, "training: expected a list"),
    "training of numbers": ({"training": [5]}, "training: 5; expected paths of images"),
    "training without image": ({"training": [{"label": "x"}]}, "expected paths of images"),
    "negative label": ({"labels": {"0": "background", "-1": "PZ"}}, "labels: '-1' is not a number"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_dataset_json_that_is_none_of_the_decathlons(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = HOSTILE[what]
    task = _task(tmp_path / "d", 2)
    _describe(task, 2, **change)
    assert main(_command(task, tmp_path / "raw")) == 2
    told = capsys.readouterr().err
    assert f"{task / 'dataset.json'}: " in told
    assert message in told
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_dataset_json_that_is_none(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = _task(tmp_path / "d", 2)
    (task / "dataset.json").write_bytes(content)
    assert main(_command(task, tmp_path / "raw")) == 2
    assert f"{task / 'dataset.json'}: " in capsys.readouterr().err


def test_the_bundled_cases_in_two_processes(tmp_path: Path) -> None:
    assert main(["msd", "-i", str(HIPPOCAMPUS), "-o", str(tmp_path / "raw"), "-d", "44", "--jobs", "2"]) == 0
    made = tmp_path / "raw" / "Dataset044_Hippocampus" / "imagesTr" / "hippocampus_001_0000.nii.gz"
    source = HIPPOCAMPUS / "imagesTr" / "hippocampus_001.nii.gz"
    assert np.array_equal(np.asanyarray(nibabel.load(made).dataobj), np.asanyarray(nibabel.load(source).dataobj))


def test_names_with_both_endings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = _task(tmp_path / "d", 3)
    shutil.copy(task / "labelsTr" / "prostate_01.nii.gz", task / "labelsTr" / "prostate_01.nii")
    assert main(_command(task, tmp_path / "raw")) == 2
    assert "two files of one name; remove one" in capsys.readouterr().err
