"""Sizes of the blocks of Mamba-2's Triton kernels. Works without Triton: the memory estimate needs them everywhere."""

from __future__ import annotations

from nnunet_mamba.ops.kernels.triton_sizes import ceil_div
from nnunet_mamba.ops.numerics import CHUNK

ROW = 32
"""Steps that are worked on as one matrix; all pairs of them are. A chunk is walked row by row.

Not 64: matrices of 64 rows become Hopper's asynchronous products (wgmma), with which Triton 3.6 compiled
`group_gradients` to wrong numbers on an H200, now and then. They also took twice the registers."""
SMALLEST = 16
"""Side of a tile that tensor cores multiply"""
PROGRAMS = 1024
"""Programs that fill a large GPU; shorter chunks, and fewer heads a program, are taken until there are as many."""


def state_block(n: int) -> int:
    """State entries of a tile: all of them, rounded up to a power of two"""
    return max(SMALLEST, 1 << (n - 1).bit_length())


def channel_block(p: int) -> int:
    """Channels of a tile: 32, or 16 where 32 would leave more than a fifth of a head's tiles empty"""
    least = ceil_div(p, SMALLEST) * SMALLEST
    return next(block for block in (32, 16) if 4 * ceil_div(p, block) * block <= 5 * least)


def tiles(p: int) -> int:
    """Of a head"""
    return ceil_div(p, channel_block(p))


def choose_chunk(batch: int, length: int, heads: int, p: int) -> int:
    """Steps that one program walks: 256, fewer where that would leave a GPU mostly idle"""
    chunk = CHUNK
    while chunk > ROW and batch * ceil_div(length, chunk) * heads * tiles(p) < PROGRAMS:
        chunk //= 2
    return chunk


def choose_parts(sequences: int, length: int, heads: int, groups: int) -> int:
    """Programs that share a group's heads in `gradients`: a divisor of those heads, 1 where there is enough to do"""
    per_group, rows = heads // groups, sequences * ceil_div(length, ROW) * groups
    return next((d for d in range(1, per_group + 1) if per_group % d == 0 and rows * d >= PROGRAMS), per_group)
