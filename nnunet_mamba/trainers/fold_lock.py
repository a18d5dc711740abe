"""One training of a fold at a time: two would overwrite each other's checkpoints, logs and validation.

The lock is the operating system's, on a file in the fold's folder: it ends with the process that holds it, however that
ends, and is not inherited by data workers that outlive it. The file says who holds it.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: two trainings of one fold at once are not noticed there
    fcntl = None

LOCK = "training.lock"
HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
ATTEMPTS = 100
"""After this many, a file system that numbers one file anew at every look is one that knows no locks."""

_held: dict[Path, TextIO] = {}


def claim(folder: Path) -> None:
    """Hold the fold's folder until `release`, or the end of this process. Safe to call again.

    Raises ValueError naming the process that holds it. Where the file system knows no locks, nothing is held.
    """
    path = _path(folder)
    if fcntl is None or path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        file = path.open("a+", encoding="utf-8")
        try:
            # a record lock: unlike flock's it is not inherited over a fork
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = _refusal(folder, file) if error.errno in HELD_BY_ANOTHER else None
            file.close()
            if message is not None:
                raise ValueError(message) from None
            return
        if _is_there(path, file):
            file.truncate(0)
            json.dump(_own(), file)
            file.flush()
            _held[path] = file
            return
        file.close()  # its holder removed it in the meantime


def release(folder: Path) -> None:
    """Let others train this fold. Does nothing where it is not held."""
    path = _path(folder)
    file = _held.pop(path, None)
    if file is not None:
        with suppress(OSError):
            path.unlink()
        file.close()


def _is_there(path: Path, file: TextIO) -> bool:
    """Whether others who open the path find this file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _path(folder: Path) -> Path:
    """One spelling: closing a second file on the lock would give the lock away."""
    return folder.resolve() / LOCK


def _own() -> dict[str, str | int]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
    }


def _refusal(folder: Path, file: TextIO) -> str:
    file.seek(0)
    try:
        holder = json.load(file)
        who = f"process {holder['process']} on {holder['host']} since {holder['since']} ({holder['command']})"
        there = "" if holder["host"] == socket.gethostname() else f"on {holder['host']}: "
        remedy = f"Wait for it, or end it: {there}kill {holder['process']}"
    except (ValueError, KeyError, TypeError):  # it has just begun
        who, remedy = "another process", "Wait for it"
    return f"{folder} is being trained by {who}. Two trainings would overwrite each other's checkpoints. {remedy}"


def _forget_in_child() -> None:
    """A fork holds nothing; its copies of the files must not be closed late and unseen by what it does itself."""
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
