"""The oriented SSD on the `blocked` recurrence and convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.blocked import CONVOLUTION
from nnunet_mamba.ops.numerics import accumulation_dtype
from nnunet_mamba.ops.oriented_ssd.composed import Composed
from nnunet_mamba.ops.ssd.blocked import RECURRENCE


def why_not(xBC: Tensor) -> str | None:
    """Runs everywhere."""
    return None


_COMPOSED = Composed(RECURRENCE, CONVOLUTION)
forward = _COMPOSED.forward
backward = _COMPOSED.backward


def workspace(
    part: str, batch: int, length: int, heads: int, p: int, d_state: int, n_groups: int, orders: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, in addition to its arguments and results.

    Counted from traced allocations: the gradient's exactly, with several orders the forward's at most a quarter too
    high, where it depends on which of two moments is the worst. What a block of steps takes is left out: a constant.
    """
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    e = heads * p
    k = e + 2 * n_groups * d_state
    copies = (k + heads) / 2  # of the inputs, in single precision, against results that are half
    if part == "forward" and orders == 1:
        held = 2 * e + 2 * k + heads if dtype == acc else 2.5 * e + 3 * k + 2 * heads
    elif part == "forward":
        held = 1.5 * e + 5 * k + 4 * heads
    elif orders == 1:
        held = 8 * k + 3 * heads if dtype == acc else 10 * k + e + 5 * heads - copies
    else:
        held = 10 * k + e + 5 * heads + (0 if dtype == acc else copies)
    return int(batch * length * held * acc.itemsize)
