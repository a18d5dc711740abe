"""Two trainings of one fold at once: the second is refused and told who has it, however the first may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nnunet_mamba.trainers import fold_lock
from tests.trainers.tiny import make, without_pictures

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no record locks")
HOLDER = """
import os, sys, time
from pathlib import Path
from nnunet_mamba.trainers import fold_lock
folder = Path(sys.argv[1])
fold_lock.claim(folder)
if sys.argv[2] == "fork" and os.fork() == 0:  # a data worker, which outlives its parent
    time.sleep(300)
print("held", flush=True)
time.sleep(300)
"""
TRAINING = """
import time
from tests.trainers.tiny import make, without_pictures
if __name__ == "__main__":
    trainer = without_pictures(make("nnUNetTrainerSegMamba_2epochs_1its"))
    plain = trainer.on_train_epoch_start
    trainer.on_train_epoch_start = lambda: (print("held", flush=True), time.sleep(300), plain())
    trainer.run_training()
"""


def _started(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    while "held" not in process.stdout.readline():
        assert process.poll() is None
    return process


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_second_is_refused_and_told_who_has_it(tmp_path: Path, ended: list) -> None:
    first = _started(HOLDER, str(tmp_path), "alone")
    ended.append(first)
    with pytest.raises(ValueError, match=f"is being trained by process {first.pid} on .*kill {first.pid}"):
        fold_lock.claim(tmp_path)
    fold_lock.release(tmp_path)  # of what one does not hold: nothing happens
    with pytest.raises(ValueError, match=f"process {first.pid}"):
        fold_lock.claim(tmp_path)


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_training_holds_nothing_even_where_its_workers_live(tmp_path: Path, ended: list, how: str) -> None:
    first = _started(HOLDER, str(tmp_path), how)
    ended.append(first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    fold_lock.claim(tmp_path)
    assert (tmp_path / fold_lock.LOCK).is_file()
    fold_lock.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_has_it_once_under_any_spelling(tmp_path: Path) -> None:
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "fold_0")
    fold_lock.claim(tmp_path / "fold_0")
    fold_lock.claim(tmp_path / "link")
    other = "import sys; from pathlib import Path; from nnunet_mamba.trainers import fold_lock; "
    other += "fold_lock.claim(Path(sys.argv[1]))"
    command = [sys.executable, "-c", other, str(tmp_path / "link")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert f"by process {os.getpid()}" in refused.stderr
    fold_lock.release(tmp_path / "link")
    assert subprocess.run(command, timeout=120, cwd=ROOT).returncode == 0
    fold_lock.claim(tmp_path / "fold_0")  # once more, and really
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert f"by process {os.getpid()}" in refused.stderr
    fold_lock.release(tmp_path / "fold_0")


def test_where_the_file_system_knows_no_locks_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fold_lock.fcntl, "lockf", unknown)
    fold_lock.claim(tmp_path)
    fold_lock.release(tmp_path)


@pytest.mark.parametrize("seen", [False, FileNotFoundError()])
def test_where_a_file_looks_like_another_at_every_look_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: object
) -> None:
    """As on shares whose files have no lasting numbers, or where somebody else removes the file each time."""
    looks: list[object] = []

    def compare(*_: object) -> bool:
        looks.append(seen)
        assert len(looks) <= 1000
        if isinstance(seen, Exception):
            raise seen
        return False

    monkeypatch.setattr(os.path, "samestat", compare)
    fold_lock.claim(tmp_path)
    fold_lock.release(tmp_path)


def test_a_training_is_refused_while_another_runs(dataset: Path, ended: list) -> None:
    first = _started(TRAINING)
    ended.append(first)
    second = without_pictures(make("nnUNetTrainerSegMamba_2epochs_1its"))
    with pytest.raises(ValueError, match=rf"fold_0 is being trained by process {first.pid}"):
        second.run_training()
    with pytest.raises(ValueError, match=rf"fold_0 is being trained by process {first.pid}"):
        second.perform_actual_validation()
    other_fold = without_pictures(make("nnUNetTrainerSegMamba_2epochs_1its", fold="all"))  # type: ignore[arg-type]
    other_fold.run_training()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    started = time.monotonic()
    second.run_training()
    assert time.monotonic() - started < 120
    folder = Path(second.output_folder)
    assert (folder / "checkpoint_final.pth").is_file()
    assert (folder / fold_lock.LOCK).is_file()  # kept for the validation that follows
    fold_lock.release(folder)


def test_an_error_gives_the_fold_back(dataset: Path) -> None:
    trainer = without_pictures(make("nnUNetTrainerSegMamba_2epochs_1its"))

    def fail() -> None:
        raise RuntimeError("an error in the training")

    trainer.on_train_epoch_start = fail
    with pytest.raises(RuntimeError, match="an error in the training"):
        trainer.run_training()
    assert not (Path(trainer.output_folder) / fold_lock.LOCK).exists()
