"""Triton kernels between the matrix products and the scan of a Mamba block. Imports triton.

`projected` (s l p) holds, for every step, B, C (each padded to whole state blocks) and the low-rank time step (padded).
"""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_pieces import COUNTS, sigmoid, softplus


@triton.jit
def _column(low, weight, r, here, inside, ACC: tl.constexpr):
    """What column r of the low-rank time step adds: [BT, BD]"""
    column = tl.load(low + r, mask=here, other=0.0).to(ACC)
    return column[:, None] * tl.load(weight + r, mask=inside, other=0.0).to(ACC)[None, :]


@triton.jit(do_not_specialize=COUNTS)
def time_steps_kernel(
    projected, weight, bias, dt, bc, batches, length,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, NB: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """projected (s l WIDTH), weight (o e r), bias (o e) -> dt (s l e) = softplus(low @ weight^T + bias), bc (s l 2n)

    bc: B and C in dt's precision, which the scan would convert to for every block of channels.

    Grid: token blocks, channel blocks, s.
    """
    ACC: tl.constexpr = dt.dtype.element_ty
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    rows = sequence * length + t.to(tl.int64)
    here = t < length
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = d < CHANNELS
    weight += (order * CHANNELS + d) * RANK
    low = projected + rows * WIDTH + 2 * STATES
    steps = tl.zeros([BT, BD], ACC) + tl.load(bias + order * CHANNELS + d, mask=inside, other=0.0).to(ACC)[None, :]
    UNROLLED: tl.constexpr = 8
    for r in tl.static_range(UNROLLED if RANK > UNROLLED else RANK):  # their loads are then under way together
        steps += _column(low, weight, r, here, inside, ACC)
    for r in range(UNROLLED, RANK):
        steps += _column(low, weight, r, here, inside, ACC)
    where = dt + rows[:, None] * CHANNELS + d[None, :]
    tl.store(where, softplus(steps, ACC), mask=here[:, None] & inside[None, :])
    if tl.program_id(1) == 0:
        for n0 in range(0, 2 * STATES, NB):
            n = n0 + tl.arange(0, NB)
            values = tl.load(projected + rows[:, None] * WIDTH + n[None, :], mask=here[:, None], other=0.0)
            tl.store(bc + rows[:, None] * (2 * STATES) + n[None, :], values.to(ACC), mask=here[:, None])


@triton.jit(do_not_specialize=COUNTS)
def gate_kernel(
    grad_y, z, behind, length, z_b, z_t,
    CHANNELS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """grad_y, z (b l e) -> behind (b l e) = grad_y * silu(z). Grid: token blocks, channel blocks, b."""
    ACC: tl.constexpr = behind.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    rows = t.to(tl.int64)[:, None]
    d = tl.program_id(1) * BD + tl.arange(0, BD)[None, :]
    here = (t < length)[:, None] & (d < CHANNELS)
    where = (batch * length + rows) * CHANNELS + d
    gate = tl.load(z + batch * z_b + rows * z_t + d, mask=here, other=0.0).to(ACC)
    tl.store(behind + where, tl.load(grad_y + where, mask=here, other=0.0).to(ACC) * gate * sigmoid(gate), mask=here)


@triton.jit(do_not_specialize=COUNTS)
def grad_projected_kernel(
    grad_bc, grad_low, grad_projected, rows_in_all,
    STATES: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, D_BLOCKS: tl.constexpr, NB: tl.constexpr,
    ALIGN: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """grad_bc (channel blocks, rows, 2n), summed over the blocks, and grad_low (rows, r) -> grad_projected
    (rows, WIDTH), its padding zero. Grid: blocks of rows.
    """
    row = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    here = (row < rows_in_all)[:, None]
    TYPE: tl.constexpr = grad_projected.dtype.element_ty
    for n0 in range(0, 2 * STATES, NB):
        n = n0 + tl.arange(0, NB)[None, :]
        total = tl.zeros([BT, NB], grad_bc.dtype.element_ty)
        for block in range(D_BLOCKS):
            at = (tl.cast(block, tl.int64) * rows_in_all + row)[:, None] * (2 * STATES) + n
            total += tl.load(grad_bc + at, mask=here, other=0.0)
        tl.store(grad_projected + row[:, None] * WIDTH + n, total.to(TYPE), mask=here)
    for r0 in range(0, WIDTH - 2 * STATES, ALIGN):
        r = r0 + tl.arange(0, ALIGN)[None, :]
        value = tl.load(grad_low + row[:, None] * RANK + r, mask=here & (r < RANK), other=0.0)
        tl.store(grad_projected + row[:, None] * WIDTH + 2 * STATES + r, value.to(TYPE), mask=here)
