"""Checkpoint files that are whole or not there, with the one before kept beside the latest.

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

LATEST, PREVIOUS, BEST = "checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_best.pth"


def write_whole(write: Callable[[str], None], target: Path) -> None:
    """Let `write` fill a temporary file, read it back, then put it in place; of the latest keep the one before.

    Raises OSError naming the file if what was written cannot be read.
    """
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    write(str(partial))
    if not partial.exists():  # nnU-Net writes nothing on other ranks or where checkpoints are switched off
        return
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    damage = damage_of(partial)
    if damage is not None:
        partial.unlink()
        raise OSError(f"{target}: what was written cannot be read ({damage}); is the disk full? The file before stays")
    if target.name == LATEST and target.exists():
        _keep(target, target.with_name(PREVIOUS))
    partial.replace(target)


def readable(path: Path) -> Path:
    """This checkpoint, or for the latest the one before it, or the best. Raises ValueError if none can be read."""
    damage = damage_of(path)
    if damage is None:
        return path
    others = [path.with_name(name) for name in (PREVIOUS, BEST)] if path.name == LATEST else []
    for other in others:
        if damage_of(other) is None:
            print(f"{path} cannot be read ({damage}); going on from {other.name} instead")
            return other
    advice = " Remove it, and --c goes on from the best one" if path.name not in (LATEST, BEST) else ""
    raise ValueError(f"{path} cannot be read ({damage}), and no other checkpoint is whole.{advice}")


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint file, by its own checksums; None if nothing is."""
    try:
        if not path.is_file():
            return "there is no such file"
        if not zipfile.is_zipfile(path):
            return _damage_of_old_format(path)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return str(error) or type(error).__name__
    return None if broken is None else f"wrong checksum of {broken}"


def _damage_of_old_format(path: Path) -> str | None:
    """torch's files before 1.6 are no archives and have no checksums: reading is the only test."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling half a file raises
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
    return None


def _keep(path: Path, kept: Path) -> None:
    """A second name for the file, so that there is no moment without a latest one; a copy where links are unknown."""
    temporary = kept.with_name(f"{kept.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(kept)


def remove_previous(folder: Path) -> None:
    """After the end of a training, as nnU-Net removes the latest."""
    (folder / PREVIOUS).unlink(missing_ok=True)
