"""compute-sanitizer over the mixers' kernels: no access outside a tensor, no race in shared memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import torch
from tests.gpu.mixer import mamba2_inputs, mixer_inputs, run
for make, channels in ((mixer_inputs, 49), (mamba2_inputs, 80)):
    run(make(1, channels, 10, torch.bfloat16, torch.device("cuda")), 10)
torch.cuda.synchronize()
print("ran")
"""


def _sanitize(tool: str, *options: str) -> str:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on PATH: it comes with the CUDA toolkit")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "nnUNet_mamba_self_test": "0"}
    command = [sanitizer, "--tool", tool, *options, sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert "ran" in done.stdout, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.mark.card
def test_memcheck() -> None:
    assert "ERROR SUMMARY: 0 errors" in _sanitize("memcheck")


@pytest.mark.card
def test_racecheck() -> None:
    """Triton lets several lanes store one and the same sum to one place (write after write); that is no race of ours"""
    output = _sanitize("racecheck", "--racecheck-report", "hazard")
    assert not re.findall(r"Read-after-write|Write-after-read|\(RAW\)|\(WAR\)", output), output[-3000:]
