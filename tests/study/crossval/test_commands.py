"""Running one of nnU-Net's commands: markers, logs, failures, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_mamba.study.crossval import commands as stock_commands
from nnunet_mamba.study.crossval.commands import CommandFailedError, StockCommands


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StockCommands:
    """Shell commands in the place of nnU-Net's."""
    monkeypatch.setattr(stock_commands, "find_command", lambda name: name)
    return StockCommands(tmp_path, {"GIVEN": "yes"})


def test_finished_steps_are_skipped_until_the_command_changes(commands: StockCommands, tmp_path: Path) -> None:
    count = tmp_path / "count"
    write = f'test "$GIVEN" = yes && echo x >> "{count}"'
    for _ in range(2):
        commands.run("step", ["sh", "-c", write], "Step")
    assert count.read_text(encoding="utf-8") == "x\n"
    commands.run("step", ["sh", "-c", write + " && true"], "Step")
    assert count.read_text(encoding="utf-8") == "x\nx\n"


def test_failure_shows_the_last_lines_and_is_tried_again(commands: StockCommands, tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"exit code 3(.|\n)*the reason"):
        commands.run("step", ["sh", "-c", "echo the reason; exit 3"], "Step")
    commands.run("step", ["sh", "-c", "exit 0"], "Step")
    assert (tmp_path / "steps" / "step.done").exists()


def test_gist_is_readable(commands: StockCommands, capsys: pytest.CaptureFixture[str]) -> None:
    line = "2026-01-01 10:00:00.123456: Pseudo dice [np.float32(0.5), np.float32(0.25)]"
    commands.run("step", ["echo", line], "Step")
    assert "      Pseudo dice [0.5, 0.25]\n" in capsys.readouterr().out


def test_interruption_ends_the_command_and_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        # a shell that runs the tests in the background has SIGINT ignored, and children inherit that
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from nnunet_mamba.study.crossval import commands as s; from pathlib import Path\n"
        "s.find_command = lambda name: name\n"
        f"s.StockCommands(Path({str(tmp_path)!r}), {{}}).run('step', ['sh', '-c', "
        f"'sleep 60 & echo $! > {child}; wait'], 'Step')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (child.exists() and child.read_text(encoding="utf-8").strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) != 0
    number = int(child.read_text(encoding="utf-8"))
    while time.monotonic() < deadline:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            break
        if (
            Path(f"/proc/{number}/stat").exists()
            and Path(f"/proc/{number}/stat").read_text(encoding="utf-8").split()[2] == "Z"
        ):
            break  # ended, not yet collected
        time.sleep(0.05)
    else:
        pytest.fail("the command's child is still running")
    assert not (tmp_path / "steps" / "step.done").exists()


def test_missing_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"nnUNetv2_nonsense is not installed next to .*pip install nnunetv2"):
        stock_commands.find_command("nnUNetv2_nonsense")


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_a_killed_command_is_seen_to_end_though_its_workers_live(commands: StockCommands, tmp_path: Path) -> None:
    """As a training that the system ends for want of memory: its data workers keep its output open."""
    script = f"echo begun; sleep 60 & echo $! > {tmp_path}/worker; kill -9 $$"
    started = time.monotonic()
    with pytest.raises(CommandFailedError, match="exit code -9"):
        commands.execute("step", ["sh", "-c", script])
    assert time.monotonic() - started < 30
    worker = int((tmp_path / "worker").read_text(encoding="utf-8"))
    state = Path(f"/proc/{worker}/stat")
    assert not state.exists() or state.read_text(encoding="utf-8").split()[2] == "Z"
