"""Sizes of the Triton scan's blocks and passes. Works without Triton: the memory estimate needs them everywhere."""

from __future__ import annotations

import torch

from nnunet_mamba.ops.numerics import CHUNK

BD = 32
"""Channels of one program: one warp, one channel per thread. Twice as many need shared memory or spill backward."""
PROGRAMS = 2048
"""Programs that fill a large GPU; shorter chunks are taken until there are as many."""
SHORTEST_CHUNK = 32
CHECKPOINT = 4
"""Steps between two states that the backward pass keeps in memory."""


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up"""
    return -(-a // b)


def state_block(n: int, dtype: torch.dtype) -> int:
    """State entries of one program: as many as fit its registers; more are taken block after block"""
    return min(1 << (n - 1).bit_length(), 4 if dtype == torch.float64 else 16)


def padded_states(n: int, dtype: torch.dtype) -> int:
    """n rounded up to whole blocks; the entries added have A = B = C = 0 and stay zero"""
    return ceil_div(n, state_block(n, dtype)) * state_block(n, dtype)


def choose_chunk(batch: int, length: int, channels: int) -> int:
    """Steps per program: 256, fewer where that would leave a GPU mostly idle"""
    chunk = CHUNK
    while chunk > SHORTEST_CHUNK and batch * ceil_div(length, chunk) * ceil_div(channels, BD) < PROGRAMS:
        chunk //= 2
    return chunk


PART = 2**25
"""Elements (orders, b, l, e) worked on at a time; one order of one sample is never divided."""
ALIGN = 16
"""Rows of the projected tensor start at multiples of this, so that wide loads are possible."""
ROWS = 4096
"""Tokens that one partial sum of a weight gradient takes."""


def projected_width(padded_states: int, rank: int) -> int:
    """Columns of the projected tensor: B, C, and the low-rank time step"""
    return 2 * padded_states + ceil_div(rank, ALIGN) * ALIGN


def parts(orders: int, batch: int, length: int, channels: int) -> tuple[int, int]:
    """Orders and samples that are worked on together: all, if they are few; else order by order, and then by samples"""
    elements = length * channels
    if orders * batch * elements <= PART:
        return orders, batch
    return 1, min(batch, max(1, PART // elements))


def slices_of_parts(orders: int, batch: int, length: int, channels: int) -> tuple[list[slice], list[slice]]:
    """`parts` as slices of the orders and of the batch"""
    together, samples = parts(orders, batch, length, channels)
    return (
        [slice(k, k + together) for k in range(0, orders, together)],
        [slice(b, b + samples) for b in range(0, batch, samples)],
    )
