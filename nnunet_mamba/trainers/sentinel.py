"""What to do about a step whose loss or gradient is not a number: skip it, after several go back and slow down.

Knows nothing of nnU-Net: the trainer reports its steps and does what it is told.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

IN_A_ROW = 3
"""Steps that were not finite, one after the other, before the last good weights come back."""
HEALS = 5
"""Returns to good weights before a training is given up."""
SLOWER = 0.5
"""Factor on the learning rate at every return."""
SHOWN_PER_EPOCH = 5
"""Skipped steps written to the log one by one; the rest of an epoch is counted."""
SMALLEST_SCALE = 1.0
"""A gradient scaler below this has not found a scale: then a gradient that overflows is a fault, not its search."""


class TrainingBrokenError(RuntimeError):
    """Training was given up: steps were not finite, again and again."""


@dataclass
class Sentinel:
    """Counts. `skipped` is of the running epoch, `heals` of the whole training."""

    skipped: int = 0
    in_a_row: int = 0
    heals: int = 0
    recent: list[str] = field(default_factory=list)

    def new_epoch(self) -> None:
        self.skipped = 0

    def good(self) -> None:
        """A step that was taken."""
        self.in_a_row = 0
        self.recent.clear()

    def search(self) -> None:
        """A step that the gradient scaler skipped to find its scale: normal in fp16."""
        self.skipped += 1

    def fault(self, where: str) -> bool:
        """A step that was skipped for its numbers, and what it was trained on. True: go back to good weights."""
        self.skipped += 1
        self.in_a_row += 1
        self.recent.append(where)
        return self.in_a_row >= IN_A_ROW

    def heal(self) -> None:
        """Count a return. Raises TrainingBrokenError after too many."""
        if self.heals >= HEALS:
            batches = "\n  ".join(self.recent)
            raise TrainingBrokenError(
                f"loss or gradient were not finite {IN_A_ROW} times in a row, after {self.heals} returns to good "
                f"weights, each with half the learning rate. Training stops. The last batches were\n  {batches}\n"
                "Look at these cases for NaN, Inf or extreme values; then try nnUNet_mamba_precision=fp32, or a "
                "trainer with a smaller learning rate (..._lr1e-3). The checkpoints hold finite weights: --c continues."
            )
        self.heals += 1
        self.in_a_row = 0
        self.recent.clear()


class GoodState:
    """Network, optimizer and gradient scaler as they were when last seen finite, in the main memory."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None):
        self._parts = [part for part in (network, optimizer, scaler) if part is not None]
        self._network, self._optimizer = network, optimizer
        self._kept: list[Any] | None = None

    def take(self) -> bool:
        """Remember the present state if it is finite; whether it was."""
        if not self.is_finite():
            return False
        self._kept = [_copied(part.state_dict()) for part in self._parts]
        return True

    def is_finite(self) -> bool:
        """Whether weights, buffers and the optimizer's averages are numbers"""
        tensors = [*self._network.state_dict().values(), *_tensors(self._optimizer.state_dict()["state"])]
        return all_finite(tensors)

    def restore(self) -> None:
        """Back to what was remembered. Raises TrainingBrokenError if nothing finite was ever seen."""
        if self._kept is None:
            raise TrainingBrokenError(
                "the weights were not finite from the start of the training: look at the checkpoint or the pretrained "
                "weights it started from"
            )
        for part, state in zip(self._parts, self._kept, strict=True):
            part.load_state_dict(copy.deepcopy(state))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether there is neither NaN nor Inf in any of them; one transfer from the device for all"""
    finite = [torch.isfinite(t.detach()).all() for t in tensors if t.is_floating_point() and t.numel()]
    return not finite or bool(torch.stack([f.to(finite[0].device) for f in finite]).all())


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_copied(value) for value in state)
    return state


def _tensors(state: Any) -> Iterable[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
