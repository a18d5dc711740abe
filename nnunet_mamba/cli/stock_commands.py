"""Running nnU-Net's own commands as a user would, with their output in a log file and the gist of it on the screen."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN_LINES_OF_FAILURE = 15
GIST = re.compile(r"Epoch \d+|Pseudo dice|Mean Validation Dice|\bpredicting\b", re.IGNORECASE)
TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ")


class CommandFailedError(RuntimeError):
    """A command of nnU-Net ended with an error; the message ends with its last lines."""


@dataclass(frozen=True)
class StockCommands:
    """nnU-Net's commands on one set of folders.

    Every finished step leaves a marker, so a second run skips it; `logs` and markers live in `root`.
    """

    root: Path
    environment: dict[str, str]

    def run(self, step: str, command: Sequence[str], title: str) -> None:
        """Run `command` unless the marker of `step` says that exactly this command has succeeded before.

        Raises CommandFailedError when it ends with an error; a Ctrl-C reaches the command and its workers too.
        """
        marker = self.root / "steps" / f"{step}.done"
        line = " ".join(command)
        if marker.is_file() and marker.read_text(encoding="utf-8") == line:
            print(f"{title}: done before", flush=True)
            return
        print(f"{title}\n    $ {line}", flush=True)
        log = self.root / "logs" / f"{step}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        marker.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        code = self._stream(command, log)
        if code != 0:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES_OF_FAILURE:]
            raise CommandFailedError(
                f"{command[0]} ended with exit code {code}. Last lines of {log}:\n    " + "\n    ".join(tail)
            )
        marker.write_text(line, encoding="utf-8")
        print(f"    {time.monotonic() - start:.0f} s", flush=True)

    def _stream(self, command: Sequence[str], log: Path) -> int:
        process = subprocess.Popen(
            [find_command(command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            with log.open("w", encoding="utf-8") as file:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if GIST.search(line):
                        print("      " + _short(line), flush=True)
            return process.wait()
        except BaseException:
            # the whole session: nnU-Net's data workers would outlive their parent otherwise
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise


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
        raise ValueError(f"{name} is not installed beside {sys.executable}: pip install nnunetv2")
    return found
