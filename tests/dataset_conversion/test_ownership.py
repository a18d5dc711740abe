"""Whose a target folder is: nothing of anybody else is written into, mixed with or deleted."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataset_conversion import convert as engine
from dataset_conversion import generic, ownership
from dataset_conversion.command import main
from dataset_conversion.convert import convert
from dataset_conversion.declare import Found, Options
from tests.dataset_conversion.trees import described, generic_tree, hashes

TARGET = "Dataset530_Trial"


def _found(root: Path, **change: Any) -> Found:
    return generic.discover(root, {"describe": described(root.parent / "description", **change)})


def _command(root: Path, raw: Path, *options: str, **change: Any) -> list[str]:
    description = described(root.parent / f"description{change.get('name', '')}", **change)
    return ["generic", "-i", str(root), "-o", str(raw), "--jobs", "1", "--describe", str(description), *options]


@pytest.mark.parametrize("name", ["Trial", "Other"])
def test_a_second_conversion_of_the_id_is_refused_while_the_first_checks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has the same name, and so the same folder, or another."""
    first, second = generic_tree(tmp_path / "a" / "d", 4), generic_tree(tmp_path / "b" / "d", 2)
    convert(_found(first), tmp_path / "expected", Options())
    check, refusals = engine.check_case, []

    def meanwhile(case: Any, dataset: Any, options: Any) -> Any:
        if case.id == "c2":
            with pytest.raises(ValueError, match=r"another conversion into it is running|is taken by") as caught:
                convert(_found(second, name=name), tmp_path / "raw", Options())
            refusals.append(str(caught.value))
        return check(case, dataset, options)

    monkeypatch.setattr(engine, "check_case", meanwhile)
    convert(_found(first), tmp_path / "raw", Options())
    assert len(refusals) == 1
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")
    assert [p.name for p in (tmp_path / "raw").iterdir()] == [TARGET]


@pytest.mark.parametrize("resume", [False, True])
def test_nobody_is_told_to_remove_a_conversion_that_runs(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _found(generic_tree(tmp_path / "d", 3))
    write_cases, refusals = engine._write_cases, []

    def meanwhile(*arguments: Any) -> None:
        for other in (convert, engine.dry_run):
            with pytest.raises(ValueError, match="another conversion into it is running") as caught:
                other(found, tmp_path / "raw", Options(), resume)
            refusals.append(str(caught.value))
        write_cases(*arguments)

    monkeypatch.setattr(engine, "_write_cases", meanwhile)
    convert(found, tmp_path / "raw", Options())
    assert len(refusals) == 2
    assert (tmp_path / "raw" / TARGET / "dataset.json").exists()


def test_who_was_faster_keeps_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other conversion begins and ends between this one's look at the folder and its claim to it."""
    first, second = generic_tree(tmp_path / "a" / "d", 4), generic_tree(tmp_path / "b" / "d", 2)
    make = ownership._make

    def meanwhile(folder: Path) -> list[Path]:
        monkeypatch.setattr(ownership, "_make", make)
        convert(_found(first), tmp_path / "raw", Options())
        return make(folder)

    monkeypatch.setattr(ownership, "_make", meanwhile)
    with pytest.raises(ValueError, match="is there already, and complete"):
        convert(_found(second), tmp_path / "raw", Options())
    convert(_found(first), tmp_path / "expected", Options())
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")
    assert not (tmp_path / "raw" / TARGET / ownership.WORK).exists()


def test_two_processes_at_once(tmp_path: Path) -> None:
    roots = [generic_tree(tmp_path / str(k) / "d", 6 + 2 * k) for k in range(2)]
    command = [sys.executable, "-m", "dataset_conversion"]
    running = [
        subprocess.Popen([*command, *_command(root, tmp_path / "raw")], stderr=subprocess.PIPE) for root in roots
    ]
    codes = []
    for process in running:
        process.communicate(timeout=60)
        codes.append(process.returncode)
    assert sorted(codes) == [0, 2]
    n = 6 + 2 * codes.index(0)
    target = tmp_path / "raw" / TARGET
    assert len(list((target / "imagesTr").iterdir())) == len(list((target / "labelsTr").iterdir())) == n
    assert json.loads((target / "dataset.json").read_text(encoding="utf-8"))["numTraining"] == n


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    """Killed while it checks: nothing was written, so the next one begins without being told to resume."""
    root = generic_tree(tmp_path / "d")
    hold = (
        "import sys, time\n"
        "from dataset_conversion import convert as engine\n"
        "from dataset_conversion.command import main\n"
        "engine.plan = lambda *a: (print('held', flush=True), time.sleep(60))\n"
        "main(sys.argv[1:])"
    )
    command = _command(root, tmp_path / "raw")
    process = subprocess.Popen([sys.executable, "-c", hold, *command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert main(command) == 2
    assert main([*command, "--resume"]) == 2
    process.kill()
    process.communicate()
    assert main(command) == 0


def test_only_files_of_own_records_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = generic_tree(tmp_path / "d", 4)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_write_cases", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(_found(root), tmp_path / "raw", Options())
    target = tmp_path / "raw" / TARGET
    (target / "labelsTr" / "mine.nii.gz").write_bytes(b"mine")
    (root / "labels" / "c1.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"1 files in it are not of this conversion \(labelsTr/mine.nii.gz\)"):
        convert(_found(root), tmp_path / "raw", Options(skip_incomplete=True), resume=True)
    assert (target / "labelsTr" / "mine.nii.gz").read_bytes() == b"mine"
    assert not list(target.rglob("*c1*")), "of its own, files of the case left out are gone"
    assert not (target / "dataset.json").exists()
    (target / "labelsTr" / "mine.nii.gz").unlink()
    convert(_found(root), tmp_path / "raw", Options(skip_incomplete=True), resume=True)
    assert sorted(p.name for p in (target / "labelsTr").iterdir()) == ["c0.nii.gz", "c2.nii.gz", "c3.nii.gz"]


def test_killed_between_file_and_record_nothing_is_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = generic_tree(tmp_path / "d")
    write_json = engine._write_json

    def killed(path: Path, content: Any) -> None:
        if path.name == "c1.json" and content["signature"] is not None:
            raise KeyboardInterrupt
        write_json(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(_found(root), tmp_path / "raw", Options())
    target = tmp_path / "raw" / TARGET
    assert (target / "labelsTr" / "c1.nii.gz").exists()
    (root / "labels" / "c1.nii.gz").unlink()
    convert(_found(root), tmp_path / "raw", Options(skip_incomplete=True), resume=True)
    assert not list(target.rglob("c1*"))


def test_a_case_that_became_one_for_test_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = generic_tree(tmp_path / "d", 4)
    (root / "test").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_write_cases", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(_found(root), tmp_path / "raw", Options())
    (root / "images" / "c3.nii.gz").rename(root / "test" / "c3.nii.gz")
    (root / "labels" / "c3.nii.gz").unlink()
    convert(_found(root, test_images={"CT": "test/{case}.nii.gz"}), tmp_path / "raw", Options(), resume=True)
    target = tmp_path / "raw" / TARGET
    assert [p.relative_to(target).as_posix() for p in target.rglob("c3*")] == ["imagesTs/c3_0000.nii.gz"]


@pytest.mark.parametrize("raw", ["d", "d/images/raw", "."])
def test_download_and_target_may_not_overlap(raw: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    if raw == ".":
        root = root.rename(tmp_path / TARGET)
        root = generic_tree(root / "inner" / "d")
    before = hashes(tmp_path)
    for option in ((), ("--dry-run",)):
        assert main(_command(root, tmp_path / raw, *option)) == 2
        assert "in the download" in capsys.readouterr().err
    after = hashes(tmp_path)
    assert {k: v for k, v in after.items() if "description" not in k} == {
        k: v for k, v in before.items() if "description" not in k
    }


def test_dry_run_writes_nothing_and_tells_a_taken_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    command = _command(root, tmp_path / "a" / "raw")
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "a").exists()
    assert main(command) == 0
    before = hashes(tmp_path / "a")
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 2
    assert "is there already, and complete" in capsys.readouterr().err
    assert hashes(tmp_path / "a") == before


@pytest.mark.parametrize("what", ["raw", "target"])
def test_a_file_in_the_place_of_a_folder(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    raw = tmp_path / "raw"
    if what == "target":
        raw.mkdir()
    place = raw if what == "raw" else raw / TARGET
    place.write_text("mine")
    assert main(_command(root, raw)) == 2
    told = capsys.readouterr().err
    assert f"{place}: a file; expected a folder" in told
    assert "--resume" not in told
    assert place.read_text(encoding="utf-8") == "mine"


def test_no_advice_to_resume_where_nothing_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a read-only disk"""
    root = generic_tree(tmp_path / "d")
    mkdir = Path.mkdir

    def read_only(self: Path, *arguments: Any, **options: Any) -> None:
        if self.name == TARGET:
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", read_only)
    command = _command(root, tmp_path / "raw")
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "Read-only file system" in told
    assert "nothing was written" in told
    assert "--resume" not in told


def test_a_refusal_leaves_no_folder_behind(tmp_path: Path) -> None:
    root = generic_tree(tmp_path / "d")
    (root / "labels" / "c1.nii.gz").write_bytes(b"")
    assert main(_command(root, tmp_path / "new" / "raw")) == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    assert main(_command(root, tmp_path / "old")) == 2
    assert list((tmp_path / "old").iterdir()) == []
