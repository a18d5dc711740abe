"""The folder of results: nobody's work is replaced, and wherever a command is killed, the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.cli import main as cli
from nnunet_mamba.prediction import results as results_module
from nnunet_mamba.prediction.images import Case, Source, cases_of, left_out
from nnunet_mamba.prediction.results import Results, alone_in
from tests.prediction.conftest import UNSEEN, write_dicom

ABOUT = {"versions": {"torch": "2"}, "model": {"trainer": "T"}}


def _predict(*arguments: str | Path, code: int = 0) -> None:
    assert cli.main(["predict", *map(str, arguments), "-device", "cpu"]) == code


def _case(path: Path, content: bytes = b"image") -> Case:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Case("scan", (Source(path),))


def _made(place: Path, maps: bool = False) -> tuple[Path, Path, Path | None]:
    place.mkdir(exist_ok=True)
    files = [place / n for n in ("labels", "picture", "doubts")]
    for path in files:
        path.write_bytes(b"made " + path.name.encode())
    return files[0], files[1], files[2] if maps else None


def _keep(results: Results, place: Path, maps: bool = False) -> None:
    results.keep("scan", *_made(place, maps), {"ml": {}, "warnings": []})


def _results(out: Path, case: Case, maps: bool = False) -> Results:
    return Results(out, ABOUT, [case], ".nii.gz", maps)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Case]:
    """A folder with one case"""
    out, case = tmp_path / "out", _case(tmp_path / "in" / "scan.nii.gz")
    out.mkdir()
    _keep(_results(out, case), tmp_path / "made")
    return out, case


def test_a_case_is_done_until_its_files_change(kept: tuple[Path, Case], tmp_path: Path) -> None:
    out, case = kept
    assert _results(out, case).done("scan")
    assert not _results(out, case, maps=True).done("scan")
    _keep(_results(out, case, maps=True), tmp_path / "made", maps=True)
    assert _results(out, case, maps=True).done("scan")
    case.channels[0].path.write_bytes(b"another image")
    again = _results(out, case)
    assert not again.done("scan")
    _keep(again, tmp_path / "made")
    assert not (out / "uncertainty" / "scan.nii.gz").exists(), "a map of the image that was there before"
    assert sorted(p.name for p in out.iterdir()) == ["prediction.json", "scan.nii.gz", "scan.png", "uncertainty"]


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_killed_between_two_moves_it_goes_on(tmp_path: Path, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out, case = tmp_path / "out", _case(tmp_path / "in" / "scan.nii.gz")
    out.mkdir()
    left = iter([True] * moves + [False])
    move = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).suffix != ".json" and not next(left):
            raise KeyboardInterrupt
        return move(self, target)

    first = _results(out, case, maps=True)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        _keep(first, tmp_path / "made", maps=True)
    monkeypatch.undo()
    again = _results(out, case, maps=True)
    assert not again.done("scan")
    assert again.cases == {}, "no table has a case without labels"
    _keep(again, tmp_path / "made", maps=True)
    assert _results(out, case, maps=True).done("scan")


def test_a_full_disk_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, case = tmp_path / "out", _case(tmp_path / "in" / "scan.nii.gz")
    out.mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    first = _results(out, case)
    monkeypatch.setattr(results_module, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        _keep(first, tmp_path / "made")
    monkeypatch.undo()
    assert list(out.iterdir()) == []
    _keep(_results(out, case), tmp_path / "made")


def test_a_label_map_that_was_removed_is_made_again(kept: tuple[Path, Case], tmp_path: Path) -> None:
    out, case = kept
    (out / "scan.nii.gz").unlink()
    again = _results(out, case)
    assert not again.done("scan")
    _keep(again, tmp_path / "made")
    assert _results(out, case).done("scan")


def test_nobody_elses_work_is_replaced(kept: tuple[Path, Case], tmp_path: Path) -> None:
    out, case = kept
    other = _case(tmp_path / "patient2" / "scan.nii.gz")
    with pytest.raises(ValueError, match=r"scan\.nii\.gz is of another image, .*in/scan\.nii\.gz; give another folder"):
        _results(out, other)
    (out / "scan.nii.gz").write_bytes(b"corrected by hand")
    assert _results(out, case).done("scan")
    with pytest.raises(ValueError, match="was changed after it had been predicted; move it away"):
        _results(out, case, maps=True)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "volumes.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"volumes\.csv is there already"):
        _results(fresh, case)
    (fresh / "volumes.csv").rename(fresh / "uncertainty")
    with pytest.raises(ValueError, match="uncertainty is a file"):
        _results(fresh, case, maps=True)
    inside = Case("scan", (Source(case.channels[0].path, within=case.channels[0].path.parent),))
    with pytest.raises(ValueError, match="the folder of the images"):
        _results(case.channels[0].path.parent, inside)


def test_other_voxels_of_a_header_are_another_image(tmp_path: Path) -> None:
    out, case = tmp_path / "out", _case(tmp_path / "in" / "scan.mhd")
    voxels = tmp_path / "in" / "scan.raw"
    voxels.write_bytes(b"voxels")
    out.mkdir()
    _keep(_results(out, case), tmp_path / "made")
    assert _results(out, case).done("scan")
    voxels.write_bytes(b"other voxels")
    assert not _results(out, case).done("scan")


def test_one_command_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    left = out / ".unfinished_abc"
    left.mkdir()
    (left / "0000.nii.gz").write_bytes(b"a patient")
    with alone_in(out):
        assert not left.exists()
        child = os.fork()
        if child == 0:  # another process, which must not get in
            try:
                with alone_in(out):
                    os._exit(0)
            except ValueError as error:
                os._exit(3 if "another nnunet-mamba predict writes there" in str(error) else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    with alone_in(out):
        pass


def test_what_decides_over_labels_is_not_mixed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A case predicted with --turn, or with another trust.json, is not the one predicted without"""
    out = tmp_path / "out"
    _predict(model, UNSEEN, "-o", out)
    _predict(model, UNSEEN, "-o", out, "--turn", code=2)
    assert "with other settings" in capsys.readouterr().err
    folder = tmp_path / model.name
    shutil.copytree(model, folder)
    card = {"orientations": ["RAS"]}
    (folder / "model_card.json").write_text(json.dumps(card))
    _predict(folder, UNSEEN, "-o", out, code=2)  # now it is known how the training images lay
    assert "with other settings" in capsys.readouterr().err


def test_a_case_too_large_for_the_memory_takes_no_other_along(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_mamba.prediction.predictor import Predictor

    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Predictor, "labels", no_memory)
    _predict(model, UNSEEN, "-o", tmp_path / "out", code=1)
    said = capsys.readouterr()
    assert "the memory of this computer is not enough for this image" in said.err
    assert "look at" not in said.out, "there is no page"


@pytest.mark.parametrize("metres", [False, True])
def test_what_is_no_volume_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metres: bool
) -> None:
    image = sitk.ReadImage(str(UNSEEN))
    if metres:
        image.SetSpacing([s / 1000 for s in image.GetSpacing()])
    else:
        image = image[:, :, 5:6]
        image.SetSpacing((1.0, 1.0, 0.1))
    sitk.WriteImage(image, str(tmp_path / "odd.nii.gz"))
    _predict(model, tmp_path / "odd.nii.gz", "-o", tmp_path / "out", code=2)
    assert "are none at the spacing that the model works with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_windows_of_a_huge_image_are_counted_not_listed(model: Path) -> None:
    import torch

    from nnunet_mamba.export.model import TrainedModel
    from nnunet_mamba.nnunet_folders import ModelFolder
    from nnunet_mamba.prediction.model import usable
    from nnunet_mamba.prediction.run import Run

    run = Run(usable(TrainedModel.read(ModelFolder(model))), torch.device("cpu"))
    assert run.predictor.runs_for((20000, 20000, 20000), (1.0, 1.0, 1.0)) > 10**8


def test_names_of_folders_and_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = sitk.ReadImage(str(UNSEEN))
    series = write_dicom(image, tmp_path / "patient7")
    shutil.copy(UNSEEN, series / "other.nii.gz")
    monkeypatch.chdir(series)
    assert [c.name for c in cases_of([Path()], ["MRI"])] == ["patient7"]
    assert left_out([series]) == [series / "other.nii.gz"]
    deep = write_dicom(image, tmp_path / "all" / "p1" / "T1")
    write_dicom(image, tmp_path / "all" / "p2")
    assert left_out([tmp_path / "all"]) == [deep.parent]


def test_slices_with_scales_of_their_own_keep_their_values(tmp_path: Path) -> None:
    from nnunet_mamba.prediction import dicom

    image = sitk.Cast(sitk.ReadImage(str(UNSEEN)), sitk.sitkInt16)
    series = write_dicom(image, tmp_path / "series")
    for path in dicom.find_series(series).files[1:]:  # the first has whole numbers
        one = sitk.ReadImage(str(path))
        scaled = sitk.Cast(one, sitk.sitkFloat32) * 0.01
        for key in one.GetMetaDataKeys():
            scaled.SetMetaData(key, one.GetMetaData(key))
        scaled.SetMetaData("0028|1053", "0.01")
        scaled.SetMetaData("0028|1052", "0")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path))
        writer.Execute(scaled)
    found = dicom.find_series(series)
    voxels = sitk.GetArrayFromImage(dicom.read_series(found))
    alone = [sitk.GetArrayFromImage(sitk.ReadImage(str(p), sitk.sitkFloat32))[0] for p in found.files]
    assert np.unique(alone[5]).size > 10
    assert np.allclose(voxels, np.stack(alone), atol=1e-5)


def test_every_second_slice_missing_is_told(tmp_path: Path) -> None:
    from nnunet_mamba.prediction import dicom

    series = write_dicom(sitk.ReadImage(str(UNSEEN)), tmp_path / "series")
    for path in dicom.find_series(series).files[1::2]:
        path.unlink()
    assert any("instance numbers go up by 2" in note for note in dicom.notes(dicom.find_series(series)))
