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

    Not while training, where the loss scale and the trainer's sentinel see to it. Under torch.compile the graph
    ends at the question, which only values can answer: nnU-Net's final validation predicts with a compiled network.
    """
    logits = network(x)
    if torch.is_grad_enabled() or not _in_fp16(x.device.type):
        return logits
    outputs = logits if isinstance(logits, list) else [logits]
    if torch.stack([output.isfinite().all() for output in outputs]).all():
        return logits
    with torch.autocast(x.device.type, enabled=False):
        return network(x.float())


def _in_fp16(device: str) -> bool:
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
