"""Checkpoint files that are whole or not there, with the one before kept next to the latest.

A training killed while it writes, or a disk that fills up, leaves half a file; nnU-Net would find it with `--c` and
stop, or worse, start again.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from nnunet_mamba.nnunet_folders import BEST, LATEST

PREVIOUS = "checkpoint_previous.pth"
TORCH_WRITER = "inline_container"
"""In the RuntimeError with which torch's writer fails where the disk is full."""


def write_whole(write: Callable[[str], None], target: Path) -> None:
    """Let `write` fill a temporary file, read it back, then put it in place; of the latest keep the one before.

    For one process at a time. Raises OSError naming the file if it cannot be written, or not be read afterwards;
    whatever happens, the file before stays and no half file is left.
    """
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    try:
        _write(write, partial)
        if target.name == LATEST and target.exists():
            _keep(target, target.with_name(PREVIOUS))
        partial.replace(target)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        free = shutil.disk_usage(target.parent).free / 1e6
        raise OSError(
            f"{target}: could not be written ({_first_line(error)}). {free:.0f} MB are free there: is the disk full, "
            "or a quota used up? The file before stays; make room and go on with --c"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _write(write: Callable[[str], None], partial: Path) -> None:
    """Raises OSError if what was written cannot be read."""
    write(str(partial))
    with partial.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())
    damage = damage_of(partial)
    if damage is not None:
        raise OSError(f"what was written cannot be read: {damage}")


def readable(path: Path) -> tuple[Path, str | None]:
    """This checkpoint, or for the latest the one before it, or the best; and what to say where it is another one.

    Raises ValueError if none can be read.
    """
    damage = damage_of(path)
    if damage is None:
        return path, None
    others = [path.with_name(name) for name in (PREVIOUS, BEST)] if path.name == LATEST else []
    for other in others:
        if damage_of(other) is None:
            return other, f"{path} cannot be read ({damage}); going on from {other.name} instead"
    tried = ", and no other checkpoint is whole" if others else ""
    advice = ". Remove it, and --c goes on from the best one" if path.name not in (LATEST, BEST) else ""
    raise ValueError(f"{path} cannot be read ({damage}){tried}{advice}")


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint file, by its own checksums and torch's reader; None if nothing is."""
    try:
        if not path.is_file():
            return "there is no such file"
        archive = zipfile.is_zipfile(path)  # torch's files before 1.6 are none: reading is the only test
        if archive:
            with zipfile.ZipFile(path) as file:
                broken = file.testzip()
            if broken is not None:
                return f"wrong checksum of {broken}"
        # torch's reader is stricter about an archive's directory; the content is not read again. Not weights_only: it
        # is a training's own file, which may hold anything, and nnU-Net unpickles it next
        torch.load(path, map_location="cpu", weights_only=False, mmap=archive)
    except Exception as error:  # whatever unpickling half a file raises
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _keep(path: Path, kept: Path) -> None:
    """A second name for the file, so that there is no moment without a latest one; a copy where links are unknown."""
    temporary = kept.with_name(f"{kept.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(kept)
    finally:
        temporary.unlink(missing_ok=True)


def remove_previous(folder: Path) -> None:
    """After the end of a training, as nnU-Net removes the latest."""
    (folder / PREVIOUS).unlink(missing_ok=True)
