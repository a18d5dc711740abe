"""Prediction in fp16 of a network trained in a wider format.

nnU-Net predicts under fp16 autocast whatever a network was trained in. Activations between norms, and images that are
not normalised, can be beyond 65504, the largest fp16; then the logits are not numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Logits = Tensor | list[Tensor]


def without_overflow(network: Callable[[Tensor], Logits], x: Tensor) -> Logits:
    """network(x); while predicting in fp16, once more in float32 if that overflowed.

    Not while training, where the loss scale and the trainer's sentinel see to it, nor inside torch.compile, which knows
    no such question.
    """
    logits = network(x)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _in_fp16(x.device.type):
        return logits
    if all(bool(output.isfinite().all()) for output in (logits if isinstance(logits, list) else [logits])):
        return logits
    with torch.autocast(x.device.type, enabled=False):
        return network(x.float())


def _in_fp16(device: str) -> bool:
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
