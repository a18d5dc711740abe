"""What nnU-Net leaves behind of a training: curves, durations, memory, size. Works for any nnU-Net model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd
import torch

from nnunet_mamba import checkpoints
from nnunet_mamba.nnunet_folders import FoldFolder

LOSSES = {"train_losses": "training loss", "val_losses": "validation loss"}
DICE = {"ema_fg_dice": "pseudo Dice (moving average)", "mean_fg_dice": "pseudo Dice"}
PEAK = "peak_memory_gb"
TIME = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+): "
PREDICTING = re.compile(TIME + r"(?:predicting (?P<case>\S+)|Validation complete)")


@dataclass(frozen=True)
class FoldRecord:
    """One fold. Seconds; gigabytes; NaN or empty where nnU-Net has not written it."""

    fold: int
    curves: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = float("nan")
    peak_gb: float = float("nan")
    parameters: int = 0
    prediction_seconds: tuple[float, ...] = ()
    device: str = ""

    @property
    def epochs(self) -> int:
        return len(self.curves.get("train_losses", ()))


def read_fold(folder: FoldFolder) -> FoldRecord:
    """A fold's folder in nnUNet_results."""
    number = int(folder.number)
    if not folder.final.is_file():
        return FoldRecord(number, prediction_seconds=validation_times(folder))
    times = validation_times(folder)
    try:  # somebody else's results, perhaps: nothing in them is run
        content = checkpoints.read(folder.final, mmap=True)
        log, weights = dict(content["logging"]), content["network_weights"]
    except (ValueError, KeyError, TypeError) as error:
        print(f"curves, memory and number of parameters are left out of the report: {error}")
        return FoldRecord(number, prediction_seconds=times, device=_device(folder))
    begun, ended = log.get("epoch_start_timestamps", []), log.get("epoch_end_timestamps", [])
    peaks = [p for p in log.get(PEAK, []) if p == p]
    return FoldRecord(
        number,
        {name: [float(v) for v in log[name]] for name in (*LOSSES, *DICE) if name in log},
        float(sum(e - b for b, e in zip(begun, ended, strict=False))),
        max(peaks, default=float("nan")),
        count_weights(weights),
        times,
        _device(folder),
    )


def count_weights(state: dict[str, torch.Tensor]) -> int:
    """Numbers in a state_dict, each once: nnU-Net's own networks are in it under several names"""
    unique = {(t.untyped_storage().data_ptr(), t.storage_offset(), tuple(t.shape)): t.numel() for t in state.values()}
    return sum(unique.values())


def validation_times(folder: FoldFolder) -> tuple[float, ...]:
    """Seconds between the lines that nnU-Net logs before each validation case, of the last complete validation."""
    times: list[float] = []
    found: tuple[float, ...] = ()
    before: datetime | None = None
    for log in folder.logs():
        for match in PREDICTING.finditer(log.read_text(encoding="utf-8", errors="replace")):
            now = datetime.fromisoformat(match[1])
            if before is not None:
                times.append((now - before).total_seconds())
            before = now
            if match["case"] is None:
                found, times, before = tuple(times), [], None
        times, before = [], None  # a log file is a process
    return found


def _device(folder: FoldFolder) -> str:
    """What nnU-Net's debug.json says it was trained on"""
    path = folder.debug
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    match = re.search(r'"gpu_name": "([^"]+)"', text)
    if match:
        return match[1]
    return "CPU" if re.search(r'"device": "cpu"', text) else ""


def energy_kwh(folder: Path, model: str, folds: list[int]) -> float:
    """Of the trainings of a model's folds, where codecarbon was there when they ran; NaN if any is missing"""
    total = 0.0
    for fold in folds:
        path = folder / f"train_{model}_{fold}.csv"
        if not path.is_file():
            return float("nan")
        total += float(pd.read_csv(path)["energy_consumed"].sum())
    return total
