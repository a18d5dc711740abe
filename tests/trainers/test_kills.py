"""kill -9 at any moment, then `--c`, until it is done: the training is the one that nobody killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.tiny import write_preprocessed

ROOT = Path(__file__).parents[2]
NAME = "nnUNetTrainerSegMamba_20epochs_4its"
KILLS = 6
# nnU-Net's command line without the prediction of validation cases, which takes most of a tiny training's time
TRAIN = f"""
from nnunetv2.run.run_training import maybe_load_checkpoint
from tests.trainers.tiny import make, without_pictures
if __name__ == "__main__":
    trainer = without_pictures(make("{NAME}"))
    maybe_load_checkpoint(trainer, True, False)
    trainer.run_training()
"""


def _start(root: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "nnUNet_mamba_seed": "5", "nnUNet_n_proc_DA": "1",
        **{name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
    }  # fmt: skip
    script = root / "train.py"
    script.write_text(TRAIN)
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _final(root: Path) -> dict[str, Any]:
    (path,) = (root / "nnUNet_results").rglob("checkpoint_final.pth")
    return torch.load(path, weights_only=False)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        write_preprocessed(root)
    assert _start(whole).wait(300) == 0

    moments, done = random.Random(0), False
    for _ in range(KILLS):
        process = _start(killed)
        while process.poll() is None and not list(killed.rglob("checkpoint_*.pth")):
            time.sleep(0.05)
        try:
            process.wait(moments.uniform(0.2, 4.0))
            done = True
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its data worker too, which would wait for ever
            process.wait()
    if not done:
        assert _start(killed).wait(300) == 0

    a, b = _final(whole), _final(killed)
    assert all(torch.equal(a["network_weights"][k], b["network_weights"][k]) for k in a["network_weights"])
    for curve in ("train_losses", "val_losses", "lrs", "mean_fg_dice"):
        assert len(a["logging"][curve]) == 20
        assert list(map(float, a["logging"][curve])) == list(map(float, b["logging"][curve])), curve
