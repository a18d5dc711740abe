"""Triton kernels of Mamba-2's scan, forward. Imports triton, so import it only where it will be used.

A sequence is one order of one sample, s = order * batches + sample. The convolved u (s l k) lies in scan order, a row
of it holds x (h p), B (g n) and C (g n) side by side, k = h p + 2 g n; the time step dt (b l h), and y, lie in token
order and are reached by row maps. States are (h n p).

The scan is cut into chunks along l, and every chunk of every head is a program of its own, which walks it in rows of
Q steps and holds a tile of the state, all n by BP channels:

    states       each chunk from a zero state: the state after it, and the sum of its exponents
    carry        composes the chunks: the state at each chunk's start
    outputs      each chunk again from its true start: y

Within a row everything is a product of matrices (Dao & Gu 2024, section 6). With s the running sum of dt A,

    y     = (decays between steps * C B^T * dt) x + exp(s) C S + D x
    S'    = exp(s_Q) S + (exp(s_Q - s) dt B)^T x

No Q x Q matrix leaves a program. Operands of products are bfloat16 for bfloat16 inputs and in accumulation precision
for all others: float16 could not hold a state that grew.
"""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_pieces import compose, token_of
from nnunet_mamba.ops.kernels.triton_ssd_pieces import (
    COUNTS,
    between,
    head_decay,
    product,
    rows_tile,
    running_sums,
    time_steps,
    turned_state_tile,
)


@triton.jit(do_not_specialize=COUNTS)
def states_kernel(
    u, dt, A, bias, starts, ends, sums, kept, batches, length, codes, n_slices, dt_b, dt_t,
    HEADS: tl.constexpr, P: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, Q: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """u (s l k), dt (b l h), A, bias (o h), starts (s c h n p): zero if None
    -> what is given of: ends (s c h n p), sums of exponents, base 2, (s c h), and kept (s rows h n p), the state before
    every row

    Grid: chunks, tiles of heads, s.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    OPERAND: tl.constexpr = tl.bfloat16 if u.dtype.element_ty == tl.bfloat16 else ACC
    K: tl.constexpr = HEADS * P + 2 * GROUPS * N
    TILES: tl.constexpr = (P + BP - 1) // BP
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    start = tl.program_id(0) * CHUNK
    head = tl.program_id(1) // TILES
    p0 = tl.program_id(1) % TILES * BP
    p = p0 + tl.arange(0, BP)
    n = tl.arange(0, BN)
    q = tl.arange(0, Q)
    dt += (tl.program_id(2) - order * batches).to(tl.int64) * dt_b + head
    if bias is not None:
        bias += order * HEADS + head
    A2 = head_decay(A + order * HEADS + head, ACC)
    tile, inside = turned_state_tile(n, p, N, P)
    index = (sequence * tl.num_programs(0) + tl.program_id(0)) * HEADS + head
    S = tl.zeros([BP, BN], ACC)
    if starts is not None:
        S = tl.load(starts + index * (N * P) + tile, mask=inside, other=0.0)
    total = tl.sum(tl.zeros([Q], ACC), 0)
    u += sequence * length * K
    for first in range(start, tl.minimum(start + CHUNK, length), Q):
        t = first + q
        here = t < length
        if kept is not None:
            at = (sequence * tl.cdiv(length, Q) + first // Q) * HEADS + head
            tl.store(kept + at * (N * P) + tile, S.to(kept.dtype.element_ty), mask=inside)
        step = time_steps(dt, token_of(t, codes, order, length, n_slices) * dt_t, here, bias, SOFTPLUS, ACC)
        coarse, fine, coarse_end, fine_end = running_sums(step * A2, Q)
        rows = t.to(tl.int64) * K
        x = rows_tile(u + head * P, rows, p, here, p < P, P % BP == 0).to(ACC)
        B = rows_tile(u + HEADS * P + head // (HEADS // GROUPS) * N, rows, n, here, n < N, N == BN)
        given = x * (tl.exp2((coarse_end - coarse) + (fine_end - fine)) * step)[:, None]
        S = tl.exp2(coarse_end + fine_end) * S + product(tl.trans(given), B, OPERAND, PRECISION, ACC)
        total += coarse_end + fine_end
    if ends is not None:
        tl.store(ends + index * (N * P) + tile, S, mask=inside)
    if sums is not None:
        if p0 == 0:
            tl.store(sums + index, total)


@triton.jit(do_not_specialize=COUNTS)
def carry_kernel(
    ends, sums, starts, n_chunks,
    HEADS: tl.constexpr, TILE: tl.constexpr, CB: tl.constexpr, BK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """ends (s c h TILE), sums (s c h) -> starts (s c h TILE): the state that enters each chunk

    REVERSE: the adjoint that enters each chunk from its end. TILE: n p. Grid: blocks of h n p, s.
    """
    ACC: tl.constexpr = ends.dtype.element_ty
    SIZE: tl.constexpr = HEADS * TILE
    sequence = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    k_inside = k < SIZE
    ends += sequence * n_chunks * SIZE
    starts += sequence * n_chunks * SIZE
    sums += sequence * n_chunks * HEADS

    state = tl.zeros([BK], ACC)
    first = 0
    if REVERSE:
        first = n_chunks - 1
    tl.store(starts + tl.cast(first, tl.int64) * SIZE + k, state, mask=k_inside)
    rows = tl.arange(0, CB)
    for c0 in range(0, n_chunks, CB):
        c = c0 + rows
        chunk = c
        following = c + 1
        if REVERSE:
            chunk = n_chunks - 1 - c
            following = chunk - 1
        inside = (c < n_chunks)[:, None] & k_inside[None, :]
        chunk = chunk.to(tl.int64)[:, None]
        following = following.to(tl.int64)[:, None]
        exponent = tl.load(sums + chunk * HEADS + (k // TILE)[None, :], mask=inside, other=0.0)
        end = tl.load(ends + chunk * SIZE + k[None, :], mask=inside, other=0.0)
        decay, own = tl.associative_scan((tl.exp2(exponent), end), 0, compose)
        after = decay * state[None, :] + own
        has_next = (c + 1 < n_chunks)[:, None] & k_inside[None, :]
        tl.store(starts + following * SIZE + k[None, :], after, mask=has_next)
        state = tl.sum(tl.where((rows == CB - 1)[:, None], after, 0.0), 0)


@triton.jit(do_not_specialize=COUNTS)
def outputs_kernel(
    u, dt, A, bias, D, starts, partial, out, order, batches, length, codes, n_slices, dt_b, dt_t,
    HEADS: tl.constexpr, P: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, Q: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISION: tl.constexpr,
    ADD: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """starts (s c h n p) and the scan's inputs -> y (b l h p) of one order in token order, in `partial` or `out`

    ADD: `partial` holds what other orders gave. LAST: the sum goes to `out`. Grid: chunks, tiles of heads, b.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    OPERAND: tl.constexpr = tl.bfloat16 if u.dtype.element_ty == tl.bfloat16 else ACC
    K: tl.constexpr = HEADS * P + 2 * GROUPS * N
    TILES: tl.constexpr = (P + BP - 1) // BP
    batch = tl.program_id(2).to(tl.int64)
    sequence = batch + order * batches
    start = tl.program_id(0) * CHUNK
    head = tl.program_id(1) // TILES
    p = tl.program_id(1) % TILES * BP + tl.arange(0, BP)
    n = tl.arange(0, BN)
    q = tl.arange(0, Q)
    dt += batch * dt_b + head
    if bias is not None:
        bias += order * HEADS + head
    A2 = head_decay(A + order * HEADS + head, ACC)
    tile, inside = turned_state_tile(n, p, N, P)
    index = (sequence * tl.num_programs(0) + tl.program_id(0)) * HEADS + head
    S = tl.load(starts + index * (N * P) + tile, mask=inside, other=0.0)
    u += sequence * length * K
    if partial is not None:
        partial += batch * length * (HEADS * P) + head * P
    if out is not None:
        out += batch * length * (HEADS * P) + head * P
    for first in range(start, tl.minimum(start + CHUNK, length), Q):
        t = first + q
        here = t < length
        token = token_of(t, codes, order, length, n_slices)
        step = time_steps(dt, token * dt_t, here, bias, SOFTPLUS, ACC)
        coarse, fine, coarse_end, fine_end = running_sums(step * A2, Q)
        rows = t.to(tl.int64) * K
        x = rows_tile(u + head * P, rows, p, here, p < P, P % BP == 0)
        bc = u + HEADS * P + head // (HEADS // GROUPS) * N
        B = rows_tile(bc, rows, n, here, n < N, N == BN)
        C = rows_tile(bc + GROUPS * N, rows, n, here, n < N, N == BN)
        weights = product(C, tl.trans(B), OPERAND, PRECISION, ACC) * between(coarse, fine, Q) * step[None, :]
        y = product(weights, x, OPERAND, PRECISION, ACC)
        y += product(C, tl.trans(S), OPERAND, PRECISION, ACC) * tl.exp2(coarse + fine)[:, None]
        given = x.to(ACC) * (tl.exp2((coarse_end - coarse) + (fine_end - fine)) * step)[:, None]
        S = tl.exp2(coarse_end + fine_end) * S + product(tl.trans(given), B, OPERAND, PRECISION, ACC)
        if D is not None:
            y += tl.load(D + order * HEADS + head) * x.to(ACC)
        at = (token * (HEADS * P))[:, None] + p[None, :]
        mask = here[:, None] & (p < P)[None, :]
        if ADD:
            y += tl.load(partial + at, mask=mask, other=0.0)
        if LAST:
            tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)
        else:
            tl.store(partial + at, y, mask=mask)
