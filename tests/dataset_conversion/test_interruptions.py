"""Workers that are killed and conversions that are terminated: told, with the way to go on, and nobody stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset_conversion.workers import in_processes
from tests.dataset_conversion.trees import described, generic_tree, hashes

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from dataset_conversion import check, convert
from dataset_conversion.command import main

phase, what, note = sys.argv[1:4]
module, name = (check, "volumes_of") if phase == "checking" else (convert, "_place")
ours = getattr(module, name)

def meet(*arguments):
    if "c2" in str(arguments[0 if phase == "checking" else 1]):
        Path(note).joinpath(str(os.getpid())).touch()
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600 if what == "blocked" else 3)
    return ours(*arguments)

setattr(module, name, meet)
if __name__ == "__main__":
    sys.exit(main(sys.argv[4:]))
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def _start(tmp_path: Path, phase: str, what: str) -> tuple[subprocess.Popen[str], list[str]]:
    root = generic_tree(tmp_path / "d", 5)
    description = described(tmp_path / "description")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--describe", str(description)]
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "note").mkdir()
    script = [sys.executable, str(tmp_path / "script.py"), phase, what, str(tmp_path / "note")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    process = subprocess.Popen([*script, *command, "--jobs", "2"], stderr=subprocess.PIPE, text=True, env=environment)
    return process, [sys.executable, "-m", "dataset_conversion", *command, "--jobs", "1"]


def _wait_for_note(tmp_path: Path) -> None:
    end = time.monotonic() + 60
    while not list((tmp_path / "note").iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("phase", ["checking", "writing"])
def test_a_killed_worker_is_told_with_its_case(phase: str, tmp_path: Path) -> None:
    process, command = _start(tmp_path, phase, "killed")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "a worker process was ended from outside at " in told
    assert "c2" in told.split("at ", 1)[1].split(",")[0]
    assert "use fewer --jobs than 2" in told
    resume = ["--resume"] if phase == "writing" else []
    assert ("--resume" in told) == bool(resume)
    assert (tmp_path / "raw").exists() == bool(resume)
    assert subprocess.run([*command, *resume], capture_output=True, check=False).returncode == 0
    again = [part.replace(str(tmp_path / "raw"), str(tmp_path / "expected")) for part in command]
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "expected")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize(("phase", "how"), [("checking", signal.SIGTERM), ("writing", signal.SIGTERM),
                                            ("writing", signal.SIGKILL)])  # fmt: skip
def test_terminated_or_killed_it_leaves_no_worker(phase: str, how: signal.Signals, tmp_path: Path) -> None:
    process, command = _start(tmp_path, phase, "blocked" if how == signal.SIGKILL else "slow")
    _wait_for_note(tmp_path)
    workers = _children(process.pid)
    assert len(workers) >= 2
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    end = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
    assert "Traceback" not in told
    if how == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "interrupted" in told
        assert ("--resume" in told) == (phase == "writing")
        assert (tmp_path / "raw").exists() == (phase == "writing")
    resume = ["--resume"] if phase == "writing" else []
    assert subprocess.run([*command, *resume], capture_output=True, check=False).returncode == 0
    assert {p.name for p in (tmp_path / "raw").iterdir()} == {"Dataset530_Trial"}


def test_results_of_several_processes_come_in_order() -> None:
    told: list[int] = []
    assert in_processes(abs, [-3, 1, -2, 5], 2, str, lambda: told.append(1)) == [3, 1, 2, 5]
    assert len(told) == 4


def test_a_reader_that_has_gone_ends_nothing(tmp_path: Path) -> None:
    """As `| head` does"""
    root, description = generic_tree(tmp_path / "d"), described(tmp_path / "description")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe", str(description)]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "dataset_conversion", *command], stdout=gone, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b""
    assert done.returncode == 0
    assert (tmp_path / "raw" / "Dataset530_Trial" / "dataset.json").is_file()
