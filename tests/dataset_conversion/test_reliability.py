"""Killed, cut off, mutated, out of space: the target is complete or can be completed, and nothing else ever happens."""

from __future__ import annotations

import errno
import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_conversion import convert as engine
from dataset_conversion import written
from dataset_conversion.command import main
from dataset_conversion.convert import WORK, convert
from dataset_conversion.declare import Options
from dataset_conversion.examples import make_asoca, make_brats
from dataset_conversion.grid import UnreadableError, Volume
from dataset_conversion.volumes import read
from tests.dataset_conversion.trees import BRATS_SIZE, SIZE, asoca_tree, brats_tree, find_asoca, find_brats, hashes

KILLS = 12
DIES = """
import os, signal, sys
from pathlib import Path
import dataset_conversion.convert as engine
from dataset_conversion.command import main
left, when = int(sys.argv[1]), sys.argv[2]
replace = Path.replace
def counted(self, target):
    global left
    left -= 1
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    made = replace(self, target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return made
Path.replace = counted
sys.exit(main(sys.argv[3:]))
"""


def test_killed_at_any_file_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "download")
    convert(find_asoca(root), tmp_path / "expected", Options())
    command = ["asoca", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--resume"]
    random.seed(0)
    died = 0
    for _ in range(KILLS):
        # on the way forward: every run writes a few more files
        stop = [str(random.randint(1, 3)), random.choice(["before", "after"])]
        ended = subprocess.run([sys.executable, "-c", DIES, *stop, *command], capture_output=True, check=False)
        died += ended.returncode == -signal.SIGKILL
        if ended.returncode != -signal.SIGKILL:
            break
        assert not (tmp_path / "raw" / "Dataset510_ASOCA" / "dataset.json").exists()
    assert died >= 5
    if not (tmp_path / "raw" / "Dataset510_ASOCA" / "dataset.json").exists():
        assert main(command) == 0
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    make_asoca(tmp_path / "download", (3, 3), (1, 1), (96, 96, 48))
    convert(find_asoca(tmp_path / "download"), tmp_path / "expected", Options())
    random.seed(1)
    complete = tmp_path / "raw" / "Dataset510_ASOCA" / "dataset.json"
    command = [sys.executable, "-m", "dataset_conversion", "asoca", "-i", str(tmp_path / "download"), "-o",
               str(tmp_path / "raw"), "--jobs", "2", "--resume"]  # fmt: skip
    for _ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0.5, 6))
        process.kill()
        process.wait()
        if complete.exists():
            break
    if not complete.exists():
        assert subprocess.run(command, check=False).returncode == 0
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")


def test_results_do_not_depend_on_jobs(tmp_path: Path) -> None:
    root = brats_tree(tmp_path / "download")
    for jobs in (1, 3):
        convert(find_brats(root), tmp_path / str(jobs), Options(jobs=jobs))
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")


def test_a_full_disk_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = asoca_tree(tmp_path / "download")
    convert(find_asoca(root), tmp_path / "expected", Options())
    left, write = 4, written.write

    def full(path: Path, array: np.ndarray, grid: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, array=array, grid=grid)  # type: ignore[arg-type]

    monkeypatch.setattr(written, "write", full)
    command = ["asoca", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1"]
    assert main(command) == 1
    target = tmp_path / "raw" / "Dataset510_ASOCA"
    assert not (target / "dataset.json").exists()
    assert not any(p.read_bytes() == b"half" for p in target.rglob("*") if p.is_file())
    assert main(command) == 2, "unfinished: --resume is asked for"
    monkeypatch.setattr(written, "write", write)
    assert main([*command, "--resume"]) == 0
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")
    assert main([*command, "--resume"]) == 2, "complete: nothing is overwritten"


def test_resumed_it_repeats_what_changed_and_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = asoca_tree(tmp_path / "download")
    placed: list[str] = []
    place = engine._place

    def counted(target: Path, name: str, files: dict, make: object) -> None:
        placed.append(name)
        place(target, name, files, make)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_place", counted)
    monkeypatch.setattr(engine, "remove_others", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(find_asoca(root), tmp_path / "raw", Options())
    n = len(placed)
    placed.clear()
    monkeypatch.undo()
    monkeypatch.setattr(engine, "_place", counted)
    path = root / "Normal" / "CTCA" / "Normal_1.nrrd"
    os.utime(path, (1, 1))
    (tmp_path / "raw" / "Dataset510_ASOCA" / "imagesTs" / "Test_Normal_00_0000.nii.gz").unlink()
    convert(find_asoca(root), tmp_path / "raw", Options(), resume=True)
    assert n == 10
    assert sorted(placed) == [
        "imagesTr/Normal_01_0000.nii.gz", "imagesTs/Test_Normal_00_0000.nii.gz", "labelsTr/Normal_01.nii.gz",
    ]  # fmt: skip


def test_resumed_it_repeats_what_was_changed_without_a_change_of_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = asoca_tree(tmp_path / "download")
    convert(find_asoca(root), tmp_path / "expected", Options())
    with monkeypatch.context() as patched:
        patched.setattr(engine, "remove_others", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(find_asoca(root), tmp_path / "raw", Options())
    damaged = tmp_path / "raw" / "Dataset510_ASOCA" / "labelsTr" / "Normal_02.nii.gz"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-40] + bytes(32) + content[-8:])
    convert(find_asoca(root), tmp_path / "raw", Options(), resume=True)
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")


def test_killed_while_it_tidies_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = asoca_tree(tmp_path / "download")
    convert(find_asoca(root), tmp_path / "expected", Options())
    monkeypatch.setattr(engine.shutil, "rmtree", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(find_asoca(root), tmp_path / "raw", Options())
    monkeypatch.undo()
    convert(find_asoca(root), tmp_path / "raw", Options(), resume=True)
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")


def test_a_case_left_out_on_resumption_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = asoca_tree(tmp_path / "download")
    monkeypatch.setattr(engine, "remove_others", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(find_asoca(root), tmp_path / "raw", Options())
    monkeypatch.undo()
    (root / "Normal" / "Annotations" / "Normal_1.nrrd").unlink()
    convert(find_asoca(root), tmp_path / "raw", Options(skip_incomplete=True), resume=True)
    assert not list((tmp_path / "raw").rglob("Normal_01*"))


@pytest.mark.parametrize("link", ["hard", "sym"])
def test_links_and_read_only_sources_and_odd_paths(link: str, tmp_path: Path) -> None:
    root = brats_tree(tmp_path / "mit Leerzeichen ü 日本")
    before = hashes(root)
    for folder, _, files in os.walk(root):
        for name in files:
            (Path(folder) / name).chmod(0o444)
        Path(folder).chmod(0o555)
    try:
        convert(find_brats(root), tmp_path / "zi el", Options(link=link))
        target = tmp_path / "zi el" / "Dataset521_BraTS2021"
        image = target / "imagesTr" / "BraTS2021_00001_0000.nii.gz"
        source = root / "BraTS2021_Training_Data" / "BraTS2021_00001" / "BraTS2021_00001_t1.nii.gz"
        assert image.is_symlink() == (link == "sym")
        assert image.samefile(source)
        label = target / "labelsTr" / "BraTS2021_00001.nii.gz"
        assert not label.samefile(source.with_name("BraTS2021_00001_seg.nii.gz")), "its values change"
        assert hashes(root) == before
    finally:
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o755)


def test_targets_that_are_taken(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "download")
    raw = tmp_path / "raw"
    (raw / "Dataset510_Other").mkdir(parents=True)
    with pytest.raises(ValueError, match="id 510 is taken by Dataset510_Other"):
        convert(find_asoca(root), raw, Options())
    (raw / "Dataset510_Other").rename(raw / "Dataset510_ASOCA")
    (raw / "Dataset510_ASOCA" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is there, and not by this command"):
        convert(find_asoca(root), raw, Options(), resume=True)
    assert [p.name for p in raw.rglob("*")] == ["Dataset510_ASOCA", "mine.txt"]
    assert not (raw / "Dataset510_ASOCA" / WORK).exists()


# --- fuzzing the readers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    make_brats(folder, 2021, "BraTS2021_00001", size=(6, 7, 5))
    make_asoca(folder / "a", (1, 1), (0, 0), (16, 16, 8))
    nifti = (folder / "BraTS2021_00001" / "BraTS2021_00001_t1.nii.gz").read_bytes()
    nrrd = (folder / "a" / "Normal" / "CTCA" / "Normal_1.nrrd").read_bytes()
    return {"x.nii.gz": nifti, "x.nii": gzip.decompress(nifti), "x.nrrd": nrrd}


def _read_or_say_why(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    start = time.monotonic()
    reason, volume = "", None
    try:
        volume = read(path)
    except UnreadableError as error:
        reason = str(error)
    assert time.monotonic() - start < 10
    if volume is None:
        assert reason.startswith(str(path))
        assert "\n" not in reason
        return
    assert isinstance(volume, Volume)
    assert volume.array.shape == volume.geometry.shape[::-1]
    assert np.isfinite(volume.geometry.matrix).all()
    assert (volume.geometry.spacing > 0).all()


MUTATIONS = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6)
FUZZ = settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(changes=MUTATIONS, packed=st.booleans(), cut=st.none() | st.integers(0, 1000))
def test_mutated_nifti(
    changes: list[tuple[int, int]], packed: bool, cut: int | None, originals: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(originals["x.nii"])
    for place, byte in changes:
        content[place] = byte
    whole = gzip.compress(bytes(content), 1) if packed else bytes(content)
    _read_or_say_why(tmp_path / ("x.nii.gz" if packed else "x.nii"), whole if cut is None else whole[:cut])


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_compressed_bytes(changes: list[tuple[int, int]], originals: dict[str, bytes], tmp_path: Path) -> None:
    content = bytearray(originals["x.nii.gz"])
    for place, byte in changes:
        content[place % len(content)] = byte
    _read_or_say_why(tmp_path / "x.nii.gz", bytes(content))


FIELDS = [b"type: short", b"dimension: 3", b"sizes: 16 16 8", b"kinds: domain domain domain", b"encoding: gzip",
          b"endian: little", b"space: left-posterior-superior"]  # fmt: skip
VALUES = [b"", b"0", b"-1", b"nan", b"1e99", b"block", b"raw", b"domain list domain", b"4096 4096 4096", b"x", b"3 3"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=st.sampled_from(VALUES), cut=st.none() | st.integers(1, 3000))
def test_mutated_nrrd(field: bytes, value: bytes, cut: int | None, originals: dict[str, bytes], tmp_path: Path) -> None:
    head, _, rest = originals["x.nrrd"].partition(b"\n\n")
    assert field in head, head
    name = field.split(b":")[0]
    content = head.replace(field, name + b": " + value) + b"\n\n" + rest
    _read_or_say_why(tmp_path / "x.nrrd", content if cut is None else content[:cut])


def test_sizes_are_small_enough_for_a_fast_test() -> None:
    assert np.prod(SIZE) < 10_000
    assert np.prod(BRATS_SIZE) < 20_000


def test_a_file_that_is_not_whole_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk SimpleITK writes a part and reports nothing."""
    root = asoca_tree(tmp_path / "download")
    write_image = sitk.WriteImage

    def short(image: sitk.Image, name: str, **options: bool) -> None:
        write_image(image, name, **options)
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: random.randint(0, len(whole) - 1)])

    monkeypatch.setattr(sitk, "WriteImage", short)
    with pytest.raises(OSError, match="not written whole; is the disk full"):
        convert(find_asoca(root), tmp_path / "raw", Options())
    assert not list((tmp_path / "raw").rglob("*.nii.gz"))
