"""What a training tells about itself, through nnU-Net's own logger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nnunet_mamba.trainers import record
from nnunet_mamba.trainers.record import TrainingRecord, peak_gigabytes
from tests.trainers.tiny import CPU, log_of, make, without_pictures


class Listener:
    """Stands for wandb: nnU-Net's MetaLogger hands it everything."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Any]] = {}
        self.config: dict[str, Any] = {}

    def log(self, key: str, value: Any, step: int) -> None:
        self.seen.setdefault(key, []).append(value)

    def log_summary(self, key: str, value: Any) -> None: ...

    def update_config(self, config: dict[str, Any]) -> None:
        self.config.update(config)


def test_every_epoch_has_every_value_everywhere(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_mamba_seed", "3")
    trainer = make("nnUNetTrainerSegMamba_bf16_2epochs_3its")
    listener = Listener()
    trainer.logger.loggers.append(listener)
    trainer.run_training()
    for key in record.KEYS:
        values = trainer.logger.get_value(key, step=None)
        assert len(values) == 2
        assert listener.seen[key] == values
    assert listener.config["hparas_nnunet_mamba"] == {"precision": "bf16", "seed": 3}
    one = {key: trainer.logger.get_value(key, step=-1) for key in record.KEYS}
    assert one[record.PRECISION] == "bf16"
    assert one[record.SKIPPED] == 0
    assert one[record.SAMPLES_PER_SECOND] == pytest.approx(3 * 2 / one[record.SECONDS])
    assert 0 < one[record.GRADIENT_NORM] < 1e3
    assert 0.1 < one[record.PEAK_GB] < 50
    assert "everything random seeded with 3" in log_of(trainer)
    assert "samples/s, peak memory" in log_of(trainer)
    with Image.open(Path(trainer.output_folder) / "progress.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[:2] == (9000, 3000), "nnU-Net's picture, 5400 high, and ours below"
    assert len(np.unique(pixels[5400:])) > 20


def test_the_norm_is_that_before_clipping(dataset: Path) -> None:
    trainer = make("nnUNetTrainerSegMamba_1epoch_1its")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    trainer.loss.register_forward_hook(lambda module, inputs, output: output * 1e4)
    trainer.train_step(batch)
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.network.parameters() if p.grad is not None))
    assert clipped == pytest.approx(12, rel=1e-4)
    assert trainer._step.norm > 1e3


def test_checkpoints_of_other_trainers_are_filled_up() -> None:
    log = TrainingRecord()
    stock = {k: [0.0] * 3 for k in log.my_fantastic_logging if k not in record.KEYS}
    log.load_checkpoint(stock)
    assert all(len(log.get_value(key, step=None)) == 3 for key in record.KEYS)
    log.log(record.SKIPPED, 4, 3)
    assert log.get_value(record.SKIPPED, step=3) == 4


NONE = math.nan


@pytest.mark.parametrize(
    ("dice", "averages", "best"),
    [
        ([0.5, NONE, NONE, 0.6], [0.5, 0.5, 0.5, 0.51], [0, 3]),
        ([NONE, 0.5, 0.6, 0.4], [NONE, 0.5, 0.51, 0.499], [0, 1, 2]),
        ([NONE, NONE, 0.5, NONE], [NONE, NONE, 0.5, 0.5], [0, 1, 2]),
        ([NONE, NONE, NONE, NONE], [NONE, NONE, NONE, NONE], [0, 1, 2, 3]),
    ],
)
def test_an_epoch_without_dice_does_not_poison_the_average(
    dataset: Path, dice: list[float], averages: list[float], best: list[int]
) -> None:
    trainer = without_pictures(make("nnUNetTrainerSegMamba_4epochs_1its"))
    plain, save, saved = trainer.logger.log, trainer.save_checkpoint, []

    def log(key: str, value: Any, step: int) -> None:
        plain(key, dice[step] if key == "mean_fg_dice" else value, step)

    def note(filename: str) -> None:
        if filename.endswith("checkpoint_best.pth"):
            saved.append(trainer.current_epoch)
        save(filename)

    trainer.logger.log, trainer.save_checkpoint = log, note
    trainer.run_training()
    assert trainer.logger.get_value("ema_fg_dice", step=None) == pytest.approx(averages, nan_ok=True)
    assert saved == best  # of epochs without any Dice before, the last one


def test_early_stopping_counts_from_the_first_dice(dataset: Path) -> None:
    trainer = without_pictures(make("nnUNetTrainerSegMamba_stop2_9epochs_1its"))
    dice = [NONE, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]
    plain = trainer.logger.log
    trainer.logger.log = lambda key, value, step: plain(key, dice[step] if key == "mean_fg_dice" else value, step)
    trainer.run_training()
    assert trainer.current_epoch == 4  # epochs 2 and 3 were waited for
    assert "No better pseudo Dice for 2 epochs" in log_of(trainer)


def test_memory_on_a_gpu_is_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000_000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    assert peak_gigabytes(torch.device("cuda")) == 3.0
    assert len(calls) == 1
    assert peak_gigabytes(CPU) > 0.05
