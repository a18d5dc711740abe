"""Checkpoints are whole; half files and flipped bits are noticed, and the one before is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_mamba.trainers import checkpoint_files
from nnunet_mamba.trainers.checkpoint_files import LATEST, PREVIOUS, damage_of, readable, write_whole
from tests.trainers.tiny import log_of, make, without_pictures


def _save(epoch: int) -> Any:
    return lambda name: torch.save({"epoch": epoch, "weights": torch.arange(5000.0)}, name)


def _epoch(path: Path) -> int:
    return torch.load(path)["epoch"]


def test_a_checkpoint_is_complete_or_the_one_before(tmp_path: Path) -> None:
    """Killed while writing: the file from before is still there and can be read."""
    target = tmp_path / LATEST

    def die_half_way(name: str) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    write_whole(_save(1), target)
    with pytest.raises(KeyboardInterrupt):
        write_whole(die_half_way, target)
    assert _epoch(target) == 1
    assert [p.name for p in tmp_path.iterdir()] == [LATEST]
    write_whole(_save(2), target)
    assert (_epoch(target), _epoch(tmp_path / PREVIOUS)) == (2, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [LATEST, PREVIOUS]


def test_nothing_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_whole(lambda name: None, tmp_path / LATEST)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_back_does_not_replace(tmp_path: Path) -> None:
    def truncated(name: str) -> None:
        _save(2)(name)
        os.truncate(name, 3000)

    target = tmp_path / LATEST
    write_whole(_save(1), target)
    with pytest.raises(OSError, match=r"latest\.pth: could not be written \(what was written cannot be read"):
        write_whole(truncated, target)
    assert _epoch(target) == 1
    assert [p.name for p in tmp_path.iterdir()] == [LATEST]


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from nnunet_mamba.trainers.checkpoint_files import LATEST, write_whole
target = Path(sys.argv[1]) / LATEST
write_whole(lambda name: torch.save({"epoch": 1}, name), target)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a quota or a full disk: no file grows beyond
try:
    write_whole(lambda name: torch.save({"epoch": 2, "weights": torch.zeros(1_000_000)}, name), target)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "checkpoint_latest.pth: could not be written (" in run.stdout
    assert "is the disk full" in run.stdout
    assert "go on with --c" in run.stdout
    assert [p.name for p in tmp_path.iterdir()] == [LATEST]
    assert _epoch(tmp_path / LATEST) == 1


def test_other_errors_while_writing_stay_themselves(tmp_path: Path) -> None:
    def broken(name: str) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        write_whole(broken, tmp_path / LATEST)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_while_the_one_before_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    write_whole(_save(1), tmp_path / LATEST)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(checkpoint_files.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(_save(2), tmp_path / LATEST)
    assert [p.name for p in tmp_path.iterdir()] == [LATEST]
    assert _epoch(tmp_path / LATEST) == 1


def test_the_file_is_flushed_through_a_writable_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush what is open for reading only."""
    modes: list[int] = []
    plain = os.fsync
    fcntl = pytest.importorskip("fcntl")

    def watched(descriptor: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_whole(_save(1), tmp_path / LATEST)
    assert modes == [os.O_RDWR]


def test_only_of_the_latest_the_one_before_is_kept(tmp_path: Path) -> None:
    for epoch in (1, 2):
        write_whole(_save(epoch), tmp_path / "checkpoint_best.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_best.pth"]


def test_a_disk_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    for epoch in (1, 2, 3):
        write_whole(_save(epoch), tmp_path / LATEST)
    assert (_epoch(tmp_path / LATEST), _epoch(tmp_path / PREVIOUS)) == (3, 2)


@given(share=st.floats(0, 0.999), flip=st.booleans())
@example(share=0.9967588079417281, flip=True)  # in the archive's directory: Python reads on, torch does not
def test_any_damage_is_noticed_or_harmless(tmp_path_factory: pytest.TempPathFactory, share: float, flip: bool) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    target = folder / LATEST
    for epoch in (1, 2):
        write_whole(_save(epoch), target)
    content = bytearray(target.read_bytes())
    place = int(share * len(content))
    damaged = (
        bytes(content[:place])
        if not flip
        else bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
    )
    target.write_bytes(damaged)
    chosen, notice = readable(target)
    assert (notice is None) == (chosen == target)
    if chosen == target:  # the flipped bit is in padding or in a field that no reader looks at
        loaded = torch.load(target)
        assert loaded["epoch"] == 2
        assert torch.equal(loaded["weights"], torch.arange(5000.0))
    else:
        assert _epoch(chosen) == 1


def test_without_another_one_the_message_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / LATEST).write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint_latest\.pth cannot be read .* no other checkpoint is whole"):
        readable(tmp_path / LATEST)
    (tmp_path / "checkpoint_final.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match="Remove it, and --c goes on from the best one"):
        readable(tmp_path / "checkpoint_final.pth")
    assert damage_of(tmp_path / "none.pth") == "there is no such file"


def test_files_of_old_torch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"epoch": 1}, path, _use_new_zipfile_serialization=False)
    assert damage_of(path) is None
    os.truncate(path, path.stat().st_size // 2)
    assert damage_of(path) is not None


def test_a_training_goes_on_from_the_previous_checkpoint(dataset: Path) -> None:
    first = without_pictures(make("nnUNetTrainerSegMamba_6epochs_1its"))

    def die(epoch_end: Any = first.on_epoch_end) -> None:
        epoch_end()
        if first.current_epoch == 4:
            raise KeyboardInterrupt

    first.on_epoch_end = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    folder = Path(first.output_folder)
    assert {LATEST, PREVIOUS} <= {p.name for p in folder.iterdir()}
    os.truncate(folder / LATEST, 5000)

    second = without_pictures(make("nnUNetTrainerSegMamba_6epochs_1its"))
    second.load_checkpoint(str(folder / LATEST))
    assert second.current_epoch == 3
    said = "checkpoint_latest.pth cannot be read"
    assert said in log_of(second)
    assert "going on from checkpoint_previous.pth instead" in log_of(second).split(said)[1]
    second.run_training()
    assert len(second.logger.get_value("train_losses", step=None)) == 6
    assert {p.name for p in folder.iterdir() if p.suffix == ".pth"} == {"checkpoint_final.pth", "checkpoint_best.pth"}


def test_what_happened_to_a_training_survives_in_its_checkpoint(dataset: Path) -> None:
    trainer = without_pictures(make("nnUNetTrainerSegMamba_2epochs_1its"))
    trainer.initialize()
    trainer.sentinel.heals = 3
    trainer.lr_scheduler.slow_down(0.125, 0)
    path = Path(trainer.output_folder) / "checkpoint_best.pth"
    trainer.save_checkpoint(str(path))
    assert checkpoint_files.damage_of(path) is None
    assert "nnunet_mamba" not in trainer.my_init_kwargs

    again = make("nnUNetTrainerSegMamba_2epochs_1its")
    again.load_checkpoint(str(path))
    assert (again.sentinel.heals, again.lr_scheduler.factor) == (3, 0.125)
    assert set(again.my_init_kwargs) == {"plans", "configuration", "fold", "dataset_json", "device"}


@pytest.mark.parametrize("reason", ["another rank", "checkpoints are switched off"])
def test_who_saves_nothing_touches_nothing(dataset: Path, reason: str) -> None:
    """nnU-Net calls the saving on every GPU; the first one may be half way through its file."""
    trainer = without_pictures(make("nnUNetTrainerSegMamba_2epochs_1its"))
    trainer.initialize()
    path = Path(trainer.output_folder) / LATEST
    half = path.with_name(f"{LATEST}.partial")
    half.write_bytes(b"being written by the first process")
    if reason == "another rank":
        trainer.local_rank = 1
    else:
        trainer.disable_checkpointing = True
    trainer.save_checkpoint(str(path))
    assert half.read_bytes() == b"being written by the first process"
    assert not path.exists()
