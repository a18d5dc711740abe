"""Small functions that Mamba-2's Triton kernels share. Imports triton, so import it only where it will be used."""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_pieces import LOG2E, softplus
from nnunet_mamba.ops.kernels.triton_support import interpreted

INTERPRETED = tl.constexpr(interpreted())
"""Triton's interpreter keeps bfloat16 as its bits, and would multiply those"""

COUNTS = ["order", "batches", "sequences", "length", "codes", "n_slices", "n_chunks"]
"""Arguments for whose special values (1, multiples of 16) no kernel of its own is worth compiling"""


@triton.jit
def product(a, b, OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Matrix product of tiles, operands rounded to OPERAND, summed in ACC"""
    a = a.to(OPERAND)
    b = b.to(OPERAND)
    if INTERPRETED:
        a = a.to(ACC)
        b = b.to(ACC)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def product_onto(sum_, a, b, OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """The same, added to what there is"""
    a = a.to(OPERAND)
    b = b.to(OPERAND)
    if INTERPRETED:
        a = a.to(ACC)
        b = b.to(ACC)
    return tl.dot(a, b, sum_, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def time_steps(dt, at, here, bias, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """Of a row: [Q]. Where a row reaches beyond the sequence, zero: such a step keeps the state and adds nothing."""
    step = tl.load(dt + at, mask=here, other=0.0).to(ACC)
    if bias is not None:
        step += tl.load(bias).to(ACC)
    if SOFTPLUS:
        step = softplus(step, ACC)
    return tl.where(here, step, 0.0)


@triton.jit
def head_decay(A, ACC: tl.constexpr):
    """A / ln 2 of a head: decays are powers of two"""
    return tl.load(A).to(ACC) * LOG2E


@triton.jit
def running_sums(exponent, Q: tl.constexpr):
    """exponent (Q) -> running sums as two addends (Q), and their last values

    A difference of plain running sums would lose the digits of a slow decay behind a steep one. Here the first addend
    is a sum of exponents rounded to one grid, so coarse that no sum and no difference of them is rounded again; the
    second sums up what that left, which is smaller than a grid's step.
    """
    grid = 2 * Q * tl.max(tl.abs(exponent), 0)
    coarse = (exponent + grid) - grid
    fine = exponent - coarse
    return tl.cumsum(coarse, 0), tl.cumsum(fine, 0), tl.sum(coarse, 0), tl.sum(fine, 0)


@triton.jit
def between(coarse, fine, Q: tl.constexpr):
    """Decay from step j to step i of a row, zero where j > i: [Q, Q]

    Exponents of pairs in the wrong order are positive: they become -inf before they could overflow.
    """
    i = tl.arange(0, Q)
    exponent = (coarse[:, None] - coarse[None, :]) + (fine[:, None] - fine[None, :])
    return tl.exp2(tl.where(i[:, None] >= i[None, :], exponent, -float("inf")))


@triton.jit
def rows_tile(first, rows, columns, here, inside, WHOLE: tl.constexpr):
    """A tile [Q, columns] from offsets of its rows, zero beyond the sequence and, if not WHOLE, beyond the columns"""
    mask = here[:, None] if WHOLE else here[:, None] & inside[None, :]
    return tl.load(first + rows[:, None] + columns[None, :], mask=mask, other=0.0)


@triton.jit
def state_tile(n, p, N: tl.constexpr, P: tl.constexpr):
    """Offsets of a tile [BN, BP] of one head's state, and where there is one"""
    offsets = n[:, None] * P + p[None, :]
    return offsets, (n < N)[:, None] & (p < P)[None, :]


@triton.jit
def turned_state_tile(n, p, N: tl.constexpr, P: tl.constexpr):
    """The same for a tile [BP, BN]: products that have up to 128 states as rows would be Hopper's asynchronous ones"""
    offsets = n[None, :] * P + p[:, None]
    return offsets, (n < N)[None, :] & (p < P)[:, None]
