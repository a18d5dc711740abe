"""The tests for a GPU, on a CPU: what can run without a GPU still runs, and all are skipped unless asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
DRY = {"NNUNET_MAMBA_GPU_TESTS": "dry", "TRITON_INTERPRET": "1", "nnUNet_mamba_self_test": "0"}


def _pytest(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout.splitlines()[-1]


def test_skipped_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    last = _pytest("tests/gpu")
    assert "skipped" in last
    assert "passed" not in last


@pytest.mark.parametrize(
    "names", [("behaviour", "self_test"), pytest.param(("operators",), marks=pytest.mark.long)], ids=" ".join
)
def test_kernels_dry(names: tuple[str, ...]) -> None:
    pytest.importorskip("triton")
    assert "passed" in _pytest(*(f"tests/gpu/test_{name}.py" for name in names), **DRY)


@pytest.mark.long
def test_memory_and_training_dry() -> None:
    dry = {"NNUNET_MAMBA_GPU_TESTS": "dry"}
    assert "passed" in _pytest("tests/gpu/test_memory.py", "tests/gpu/test_training.py", **dry)


def test_the_exam_dry(tmp_path: Path) -> None:
    """Its figures; the tests it runs are run dry above."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.gpu.exam", str(tmp_path), "--dry", "--only", "ops float32", "sanitizer"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    found = json.loads((tmp_path / "exam.json").read_text(encoding="utf-8"))
    assert {name: row["state"] for name, row in found.items()} == {"ops float32": "ok", "sanitizer": "ok"}
    figures = json.loads((tmp_path / "ops_float32.json").read_text(encoding="utf-8"))
    assert figures["kind"] == "ops"
    assert any(row["seconds"] for row in figures["rows"])


def test_a_step_that_hangs_or_fails_ends_alone(tmp_path: Path) -> None:
    from tests.gpu.exam import Exam, Step

    exam = Exam(tmp_path, True, {})
    sleeps = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    exam.run(Step("hangs", ("-c", sleeps), 1))
    exam.run(Step("fails", ("-c", "raise SystemExit('no such thing')"), 60))
    states = {
        name: row["state"] for name, row in json.loads((tmp_path / "exam.json").read_text(encoding="utf-8")).items()
    }
    assert states == {"hangs": "more than 1 s", "fails": "ended with 1"}
    assert exam.results["fails"]["output"] == ["no such thing"]
