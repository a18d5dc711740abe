"""The oriented SSD on the `blocked` recurrence and convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.blocked import CONVOLUTION
from nnunet_mamba.ops.numerics import CHUNK, accumulation_dtype
from nnunet_mamba.ops.oriented_ssd.composed import Composed
from nnunet_mamba.ops.ssd.blocked import RECURRENCE, ROW


def why_not(xBC: Tensor) -> str | None:
    """Runs everywhere."""
    return None


_COMPOSED = Composed(RECURRENCE, CONVOLUTION)
forward = _COMPOSED.forward
backward = _COMPOSED.backward


def workspace(
    part: str, batch: int, length: int, heads: int, p: int, d_state: int, n_groups: int, orders: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, in addition to its arguments and results; at most.

    What is alive then, of the width of xBC, of dt and of y: inputs in scan order, the convolution before and after
    SiLU, and in the backward pass their gradients; several orders hold those of all orders too.
    """
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    e = heads * p
    k = e + 2 * n_groups * d_state
    several = orders > 1
    if part == "forward":
        row = (6 if several else 3) * k + (5 if several else 2) * heads + 2 * e
    else:
        row = (11 if several else 9) * k + (6 if several else 4) * heads + 2 * e
    if dtype != acc:  # inputs and results in both precisions
        row += e if part == "forward" else k + heads + e
    chunk = 4 * batch * heads * CHUNK * ROW  # decays between the steps of a row
    return (batch * length * row + chunk) * acc.itemsize
