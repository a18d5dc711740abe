"""Running steps: order, slots, failures, resumption, somebody else at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nnunet_mamba.study.crossval import commands as stock_commands
from nnunet_mamba.study.crossval import guard, local
from nnunet_mamba.study.crossval.commands import BusyError, CommandFailedError, exclusive
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.evidence import Fresh
from nnunet_mamba.study.crossval.local import Slot, run_all, run_step
from nnunet_mamba.study.crossval.steps import Step


@pytest.fixture(autouse=True)
def _shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_commands, "find_command", lambda name: name)


def _step(root: Path, name: str, *after: str, script: str = "true") -> Step:
    target = root / name
    command = ("sh", "-c", f'{script} && echo "$CUDA_VISIBLE_DEVICES" > "{target}"')
    return Step(name, f"Step {name}", command, Fresh((target,)), after)


def test_order_and_resumption(study: Study, tmp_path: Path) -> None:
    steps = [
        _step(tmp_path, "a"),
        _step(tmp_path, "b", "a", script=f'test -f "{tmp_path}/a"'),
        _step(tmp_path, "c", "b"),
    ]
    assert run_all(steps, study, [Slot(None)]).done == ["a", "b", "c"]
    (tmp_path / "b").unlink()
    again = run_all(steps, study, [Slot(None)])
    assert (again.done, again.done_before) == (["b"], ["a", "c"])


def test_a_failure_stops_only_what_needs_it(study: Study, tmp_path: Path) -> None:
    steps = [
        _step(tmp_path, "bad", script="echo because; false"), _step(tmp_path, "needs it", "bad"),
        _step(tmp_path, "needs that", "needs it"), _step(tmp_path, "other"),
    ]  # fmt: skip
    outcome = run_all(steps, study, [Slot(None)])
    assert outcome.done == ["other"]
    assert outcome.not_tried == ["needs it", "needs that"]
    assert "because" in outcome.failed["bad"]


def test_every_gpu_has_one_at_a_time(study: Study, tmp_path: Path) -> None:
    """Six steps on two GPUs: each sees one of them, and never two the same."""
    script = (
        f'mkdir "{tmp_path}/busy_$CUDA_VISIBLE_DEVICES" && sleep 0.2 && rmdir "{tmp_path}/busy_$CUDA_VISIBLE_DEVICES"'
    )
    steps = [_step(tmp_path, f"s{i}", script=script) for i in range(6)]
    begun = time.monotonic()
    outcome = run_all(steps, study, [Slot("3"), Slot("5")])
    assert sorted(outcome.done) == [s.name for s in steps]
    assert {(tmp_path / s.name).read_text(encoding="utf-8").strip() for s in steps} == {"3", "5"}
    assert time.monotonic() - begun < 6 * 0.2 + 1.5


def test_a_command_that_leaves_nothing_has_failed(study: Study, tmp_path: Path) -> None:
    step = Step("empty", "Empty", ("true",), Fresh((tmp_path / "never",)))
    with pytest.raises(CommandFailedError, match="ended without error, but its results are not there"):
        run_step(step, study, {})


def test_what_somebody_else_trains_is_refused(study: Study, tmp_path: Path) -> None:
    step = _step(tmp_path, "train_x")
    with (
        exclusive(study.folders.results / local.LOCKS / "train_x.lock", "first"),
        pytest.raises(BusyError, match=f"Step train_x: another process is at it: pid {os.getpid()}"),
    ):
        run_step(step, study, {})
    assert run_step(step, study, {})


def test_what_somebody_else_trains_has_not_failed(study: Study, tmp_path: Path, capsys) -> None:
    steps = [_step(tmp_path, "train_x"), _step(tmp_path, "needs it", "train_x")]
    with exclusive(study.folders.results / local.LOCKS / "train_x.lock", "first"):
        outcome = run_all(steps, study, [Slot(None)])
    assert outcome.busy == ["train_x"]
    assert outcome.not_tried == ["needs it"]
    assert "left alone: Step train_x: another process" in capsys.readouterr().out


PARENT = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run below nohup
from pathlib import Path
from nnunet_mamba.study.crossval import commands as c
c.find_command = lambda name: name
root = Path(sys.argv[1])
if "unguarded" in sys.argv:
    c._guard = lambda group: None
script = f"sleep 60 & echo $! > {root}/grandchild; echo $$ > {root}/child; wait"
with c.exclusive(root / "lock", "step") as inherited:
    c.StockCommands(root, {}, inherited).execute("step", ["sh", "-c", script])
"""


def _parent_of_a_command(root: Path, *more: str) -> tuple[subprocess.Popen[bytes], int, int]:
    """A process like ours, its command, and a process that the command has started, as nnU-Net starts data workers"""
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(root), *more])
    child = root / "child"
    deadline = time.monotonic() + 30
    while not (child.exists() and child.read_text(encoding="utf-8").strip() and "sleep" in _lock(root)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, int(child.read_text(encoding="utf-8")), int((root / "grandchild").read_text(encoding="utf-8"))


def _lock(root: Path) -> str:
    return (root / "lock").read_text(encoding="utf-8") if (root / "lock").is_file() else ""


def _runs(pid: int) -> bool:
    """A zombie has ended; who collects it depends on the machine"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_what_a_killed_process_has_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    process, child, grandchild = _parent_of_a_command(tmp_path)
    process.send_signal(number)
    process.wait(20)
    deadline = time.monotonic() + 30
    while _runs(child) or _runs(grandchild):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.05)
    with exclusive(tmp_path / "lock", "step"):
        pass


def test_what_does_not_listen_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "GRACE_S", 0.3)
    script = "trap '' TERM; echo ready; while true; do sleep 0.1; done"
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    guard.end_group(process.pid)
    assert process.wait(20) == -signal.SIGKILL
    guard.end_group(process.pid)  # nobody is left


def test_a_lock_says_who_holds_it_and_how_to_end_it(tmp_path: Path) -> None:
    process, child, grandchild = _parent_of_a_command(tmp_path)
    try:
        said = rf"at it: pid {process.pid}, running sh -c '.*'\. .*: kill {process.pid};"
        with pytest.raises(BusyError, match=said), exclusive(tmp_path / "lock", "step"):
            pass
    finally:
        process.terminate()  # as the message says
        process.wait(20)
    deadline = time.monotonic() + 30
    while _runs(child) or _runs(grandchild):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.05)


def test_a_command_that_outlives_us_keeps_its_lock(tmp_path: Path) -> None:
    process, number, _ = _parent_of_a_command(tmp_path, "unguarded")
    deadline = time.monotonic() + 30
    process.kill()
    process.wait()
    try:
        with (
            pytest.raises(
                ValueError, match=rf"another process is at it, left over: pid {number}, .*: kill -- -{number};"
            ),
            exclusive(tmp_path / "lock", "step"),
        ):
            pass
    finally:
        os.killpg(number, signal.SIGKILL)
    while time.monotonic() < deadline:
        try:
            with exclusive(tmp_path / "lock", "step"):
                return
        except ValueError:
            time.sleep(0.05)
    pytest.fail("the lock was never given back")


def test_interruption_ends_what_runs(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C arrives in the main thread while others wait for commands."""
    child = tmp_path / "child"
    steps = [_step(tmp_path, "long", script=f'echo $$ > "{child}"; sleep 60')]

    def interrupted(*_: object, **__: object) -> None:
        while not (child.exists() and child.read_text(encoding="utf-8").strip()):
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "wait", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(steps, study, [Slot(None)])
    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text(encoding="utf-8")), 0)
    assert not (tmp_path / "long").exists()


def test_energy_is_written_where_codecarbon_is(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "codecarbon"
    folder.mkdir()
    (folder / "codecarbon.py").write_text(
        "from pathlib import Path\n"
        "class EmissionsTracker:\n"
        "    def __init__(self, output_dir, output_file, **_): self.path = Path(output_dir) / output_file\n"
        "    def start(self): pass\n"
        "    def stop(self): self.path.write_text('energy_consumed\\n0.5\\n')\n"
    )
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    assert run_step(_step(tmp_path, "without"), study, {})
    assert not (study.out / "energy").exists()
    monkeypatch.delitem(sys.modules, "codecarbon")
    monkeypatch.syspath_prepend(str(folder))
    assert run_step(_step(tmp_path, "train_m_0"), study, {})
    assert float(pd.read_csv(study.out / "energy" / "train_m_0.csv")["energy_consumed"].sum()) == 0.5
