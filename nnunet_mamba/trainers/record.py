"""What a training reports in addition to losses and Dice, in nnU-Net's own log, progress.png and wandb."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

GRADIENT_NORM, SKIPPED, PRECISION = "gradient_norm", "skipped_steps", "precision"
SECONDS, SAMPLES_PER_SECOND, PEAK_GB = "train_seconds", "samples_per_second", "peak_memory_gb"
KEYS = (GRADIENT_NORM, SKIPPED, PRECISION, SECONDS, SAMPLES_PER_SECOND, PEAK_GB)
MISSING = math.nan


class TrainingRecord(LocalLogger):
    """nnU-Net's logger with our values, one per epoch like all others."""

    def __init__(self, verbose: bool = False):
        super().__init__(verbose)
        self._add_missing()

    def log(self, key: str, value: Any, epoch: int) -> None:
        if key == "ema_fg_dice" and math.isnan(value):
            # validation patches without foreground have no Dice; nnU-Net's average would stay not-a-number for good
            value = self._average_without(epoch)
        super().log(key, value, epoch)

    def _average_without(self, epoch: int) -> float:
        """The average that goes on over epochs without Dice: the one before, or where it begins, this epoch's Dice."""
        log = self.my_fantastic_logging
        before = log["ema_fg_dice"][epoch - 1] if epoch > 0 else math.nan
        return log["mean_fg_dice"][epoch] if math.isnan(before) else before

    def load_checkpoint(self, checkpoint: dict) -> None:
        super().load_checkpoint(checkpoint)
        self._add_missing()

    def _add_missing(self) -> None:
        """Epochs that were trained by a trainer without these values have none."""
        epochs = len(self.my_fantastic_logging["train_losses"])
        for key in KEYS:
            self.my_fantastic_logging.setdefault(key, [MISSING] * epochs)

    def plot_progress_png(self, output_folder: str) -> None:
        """nnU-Net's picture, and ours below it."""
        super().plot_progress_png(output_folder)
        path = Path(output_folder) / "progress.png"
        with Image.open(path) as above:
            pictures = [above.convert("RGB"), self._picture(above.width)]
        whole = Image.new("RGB", (pictures[0].width, sum(p.height for p in pictures)), "white")
        whole.paste(pictures[0], (0, 0))
        whole.paste(pictures[1], (0, pictures[0].height))
        whole.save(path)

    def _picture(self, width: int) -> Image.Image:
        """Gradient norm with skipped steps; speed with peak memory."""
        log = self.my_fantastic_logging
        epochs = min(len(log[key]) for key in KEYS)
        rows = ((GRADIENT_NORM, "gradient norm before clipping, mean", SKIPPED, "skipped steps"),
                (SAMPLES_PER_SECOND, "samples per second", PEAK_GB, "peak memory in GB"))  # fmt: skip
        figure, axes = plt.subplots(len(rows), 1, figsize=(30, 36))
        for axis, (left, left_name, right, right_name) in zip(axes, rows, strict=True):
            other = axis.twinx()
            lines = [axis.plot(range(epochs), log[left][:epochs], color="b", linewidth=4, label=left_name)[0],
                     other.plot(range(epochs), log[right][:epochs], color="r", ls="dotted", linewidth=4,
                                label=right_name)[0]]  # fmt: skip
            axis.set_xlabel("epoch")
            axis.set_ylabel(left_name)
            other.set_ylabel(right_name)
            other.set_ylim(bottom=0)
            axis.legend(handles=lines, loc=(0, 1))
        plt.tight_layout()
        figure.canvas.draw()
        picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
        plt.close(figure)
        return picture.resize((width, round(picture.height * width / picture.width)))


def peak_gigabytes(device: torch.device) -> float:
    """Largest memory so far: of tensors on the GPU since the last call, on a CPU of this process since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e9
    if sys.platform == "win32":  # has no `resource`
        return MISSING
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
