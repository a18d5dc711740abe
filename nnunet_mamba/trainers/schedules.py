"""Learning rates over the epochs, in the form nnU-Net calls them: `step(epoch)` before the epoch."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

WARM_UP, HIGHEST, LOWEST = 10, 1e-4, 1e-6


class CosineWithWarmUp:
    """Linear from highest / warm_up to `highest` over `warm_up` epochs, then half a cosine down to `lowest`.

    It would be reached in an epoch after the last one: at a rate of nearly nothing, a training of four epochs learns
    in three. Loshchilov & Hutter 2017 (SGDR), section 3, one cycle; warm-up as Goyal et al. 2017, section 2.2.
    """

    def __init__(
        self, optimizer: Optimizer, highest: float, epochs: int, warm_up: int = WARM_UP, lowest: float = LOWEST
    ):
        self.optimizer, self.highest, self.lowest = optimizer, highest, lowest
        self.warm_up = min(warm_up, max(1, epochs // 2))  # a short training is not all warm-up
        self.epochs = epochs

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0"""
        if epoch < self.warm_up:
            return self.highest * (epoch + 1) / self.warm_up
        share = (epoch - self.warm_up + 1) / (self.epochs - self.warm_up + 1)
        return self.lowest + (self.highest - self.lowest) * (1 + math.cos(math.pi * min(1.0, share))) / 2

    def step(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(epoch)


class SlowedSchedule:
    """Another schedule, times a factor that only ever falls: what remains of the learning rate after faults."""

    def __init__(self, schedule: Any, optimizer: Optimizer, factor: float = 1.0):
        self.schedule, self.optimizer, self.factor = schedule, optimizer, factor

    def step(self, epoch: int) -> None:
        self.schedule.step(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] *= self.factor

    def slow_down(self, factor: float, epoch: int) -> None:
        """At once, and for all epochs to come: whatever rate the optimizer has now, it gets that of `epoch`, slowed."""
        self.factor *= factor
        self.step(epoch)
