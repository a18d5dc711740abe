"""Running nnU-Net's own commands as a user would, with their output in a log file and the gist of it on the screen."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.study.crossval import guard

try:
    import fcntl
except ImportError:  # Windows: two that do the same at once are not noticed there
    fcntl = None

SHOWN_LINES_OF_FAILURE = 15
ON_A_CPU = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
"""Every further process of nnU-Net costs seconds to start; on few cores they only get in each other's way."""
GIST = re.compile(r"Epoch \d+|Pseudo dice|Mean Validation Dice|\bpredicting\b", re.IGNORECASE)
TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ")


END_LIMIT_S = 30


class CommandFailedError(RuntimeError):
    """A command of nnU-Net ended with an error; the message ends with its last lines."""


class BusyError(ValueError):
    """Another process does the same; the message says which and how to end it."""


def environment(device: str) -> dict[str, str]:
    """Variables for nnU-Net on this device; what the user has set stays."""
    return {name: os.environ.get(name, value) for name, value in ON_A_CPU.items()} if device == "cpu" else {}


@dataclass(frozen=True)
class StockCommands:
    """nnU-Net's commands on one set of folders.

    Every finished step leaves a marker, so a second run skips it; `logs` and markers live in `root`.
    """

    root: Path
    environment: dict[str, str]
    inherited: tuple[int, ...] = ()
    """Descriptors of locks, which commands keep open and which say who holds them."""

    def run(self, step: str, command: Sequence[str], title: str) -> None:
        """Run `command` unless the marker of `step` says that exactly this command has succeeded before.

        Raises CommandFailedError when it ends with an error; a Ctrl-C reaches the command and its workers too.
        """
        marker = self.root / "steps" / f"{step}.done"
        line = shlex.join(command)
        if marker.is_file() and marker.read_text(encoding="utf-8") == line:
            print(f"{title}: done before", flush=True)
            return
        print(f"{title}\n    $ {line}", flush=True)
        seconds = self.execute(step, command)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(line, encoding="utf-8")
        print(f"    {seconds:.0f} s", flush=True)

    def execute(self, step: str, command: Sequence[str], prefix: str = "") -> float:
        """Run `command`, whatever was done before, and return its seconds; `prefix` begins the lines on the screen.

        Raises CommandFailedError when it ends with an error.
        """
        log = self.root / "logs" / f"{step}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        code = self._stream(command, log, prefix)
        if code != 0:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES_OF_FAILURE:]
            raise CommandFailedError(
                f"{command[0]} ended with exit code {code}. Last lines of {log}:\n    " + "\n    ".join(tail)
            )
        return time.monotonic() - start

    def _stream(self, command: Sequence[str], log: Path, prefix: str) -> int:
        process = subprocess.Popen(
            [find_command(command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, **self.environment},
            start_new_session=True,
            pass_fds=self.inherited,
        )
        assert process.stdout is not None
        _RUNNING.add(process)
        watch = _guard(process.pid)
        threading.Thread(target=_end_what_it_left, args=(process,), daemon=True).start()
        for lock in self.inherited:
            _write_holder(lock, process.pid, command)
        try:
            with log.open("w", encoding="utf-8") as file:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if GIST.search(line):
                        print(f"      {prefix}{_short(line)}", flush=True)
            return process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            _RUNNING.discard(process)
            _dismiss(watch)


_RUNNING: set[subprocess.Popen[str]] = set()


def end_running() -> None:
    """End every command that other threads wait for; they see it fail."""
    for process in list(_RUNNING):
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    # the whole session: nnU-Net's data workers would outlive their parent otherwise
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_what_it_left(process: subprocess.Popen[str]) -> None:
    """Data workers of a command that was killed, for memory perhaps: they live on and hold its output open, which we
    would read for ever.
    """
    process.wait()
    if hasattr(os, "killpg"):
        guard.end_group(process.pid)


def _guard(group: int) -> subprocess.Popen[bytes] | None:
    """Watches us for the command: a killed process ends nothing itself, and data workers outlive their parent."""
    if not hasattr(os, "killpg"):
        return None
    return subprocess.Popen(
        [sys.executable, "-S", "-E", guard.__file__, str(group)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _dismiss(watch: subprocess.Popen[bytes] | None) -> None:
    if watch is not None:
        with suppress(BrokenPipeError):
            watch.communicate(b"x")


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[tuple[int, ...]]:
    """Hold the lock `path`, and give the descriptor with which commands hold it too, should they outlive us.

    Raises BusyError if somebody else holds it.
    """
    if fcntl is None:
        yield ()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"{what}: another process is at it{_holder(path)}; lock: {path}") from None
        _write_holder(file.fileno(), None, ())
        yield (file.fileno(),)


def _write_holder(lock: int, command_pid: int | None, command: Sequence[str]) -> None:
    content = {"host": socket.gethostname(), "pid": os.getpid(), "command_pid": command_pid,
               "command": shlex.join(command)}  # fmt: skip
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(content).encode(), 0)


def _holder(lock: Path) -> str:
    """Who holds a lock, and what ends it; "" where that is not known"""
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
        host, pid, command_pid, command = (found[k] for k in ("host", "pid", "command_pid", "command"))
    except (OSError, ValueError, KeyError, TypeError):  # taken this moment, or by an older version
        return ""
    here = "" if host == socket.gethostname() else f" on {host}"
    if here or _is_alive(pid):
        return f": pid {pid}{here}{f', running {command}' if command else ''}. To end it and what it runs: kill {pid}"
    return f", left over: pid {command_pid}, {command}. To end it: kill -- -{command_pid}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _short(line: str) -> str:
    """A line of nnU-Net's log without its time stamp and without numpy's way of printing numbers."""
    plain = re.sub(r"np\.float\d+\(([^)]*)\)", r"\1", TIMESTAMP.sub("", line.strip()))
    return plain[:110]


def find_command(name: str) -> str:
    """Path of an installed command, preferring this interpreter's environment. Raises ValueError when absent."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return str(beside)
    found = shutil.which(name)
    if found is None:
        raise ValueError(f"{name} is not installed next to {sys.executable}: pip install nnunetv2")
    return found
