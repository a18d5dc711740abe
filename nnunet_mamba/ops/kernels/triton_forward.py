"""Triton kernels of the scan, forward. Imports triton, so import it only where it will be used.

Layout: channel-last. Inside, sequences lie in scan order; only what a caller sees (x, z, y and their gradients) lies in
token order. Several orders go through one launch: a sequence is one order of one sample, s = order * batches + sample,
and weights lie one order behind the other.

The scan is cut into chunks along l, and every chunk is a program of its own:

    chunk_ends     each chunk from a zero state: the state after it, and the sum of its time steps
    carry          composes the chunks: the state at each chunk's start (or, reversed, the adjoint at each chunk's end)
    outputs        each chunk again from its true start: y

and backward (`triton_backward`)

    again          first walk: y, grad_C, checkpoints, and what carry needs for the adjoint
    adjoints       second walk from end to start: the other gradients

One program is one warp that holds the states of BD = 32 channels, NB <= 16 state entries each, as a tile [NB, BD]. A
program sums in a fixed order and writes results of its own; nothing is added atomically, so results repeat bit for bit.

Steps are taken four at a time; the next four are loaded before the four at hand are computed, since a load from memory
takes longer than a step. What remains of a ragged last chunk is walked step by step.

Rows are int64; only the token number inside one sequence is int32.
"""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_pieces import (
    COUNTS,
    LOG2E,
    compose,
    forth,
    load,
    order_of,
    parameter,
    place,
    sigmoid,
    step,
    store,
    tile_of,
    token,
)


@triton.jit
def one_row(rows, i, d, inside, CHANNELS: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr):
    """Row of step i: [BD]"""
    return load(rows + tl.cast(i, tl.int64) * CHANNELS + d, inside, WHOLE).to(ACC)


@triton.jit
def four_rows(rows, i, d, inside, CHANNELS: tl.constexpr, WHOLE: tl.constexpr):
    """Rows of steps i to i + 3, [BD] each, in the precision they are stored in"""
    first = rows + tl.cast(i, tl.int64) * CHANNELS + d
    return (
        load(first, inside, WHOLE),
        load(first + CHANNELS, inside, WHOLE),
        load(first + 2 * CHANNELS, inside, WHOLE),
        load(first + 3 * CHANNELS, inside, WHOLE),
    )


@triton.jit
def states_row(bc, i, n, STATES: tl.constexpr):
    """B (or C, if n is STATES more) of step i: [NB]"""
    return tl.load(bc + tl.cast(i, tl.int64) * (2 * STATES) + n)


@triton.jit(do_not_specialize=COUNTS)
def chunk_ends_kernel(
    u, dt, bc, A, ends, sums, batches, length,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """u, dt (s l e); bc (s l 2n) = B|C; A (o n e) -> ends (s c n e), sums of time steps (s c e)

    Grid: chunks, channel blocks x state blocks, s.
    """
    ACC: tl.constexpr = ends.dtype.element_ty
    WHOLE: tl.constexpr = CHANNELS % BD == 0
    sequence = tl.program_id(2).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    d_blocks = tl.cdiv(CHANNELS, BD)
    d = tl.program_id(1) % d_blocks * BD + tl.arange(0, BD)
    n0 = tl.program_id(1) // d_blocks * NB
    n = n0 + tl.arange(0, NB)
    inside = d < CHANNELS
    tile = tile_of(n, d, CHANNELS, 1)
    row = sequence * length + start
    u += row * CHANNELS
    dt += row * CHANNELS
    bc += row * (2 * STATES)
    A += tl.program_id(2) // batches * (STATES * CHANNELS)

    A2 = load(A + tile, inside[None, :], WHOLE) * LOG2E
    h = tl.zeros([NB, BD], ACC)
    total = tl.zeros([BD], ACC)
    whole = count // 4 * 4
    if whole > 0:
        u0, u1, u2, u3 = four_rows(u, 0, d, inside, CHANNELS, WHOLE)
        t0, t1, t2, t3 = four_rows(dt, 0, d, inside, CHANNELS, WHOLE)
        for i in range(0, whole, 4):
            following = tl.minimum(i + 4, whole - 4)
            v0, v1, v2, v3 = four_rows(u, following, d, inside, CHANNELS, WHOLE)
            w0, w1, w2, w3 = four_rows(dt, following, d, inside, CHANNELS, WHOLE)
            _, h = step(h, u0.to(ACC), t0, A2, states_row(bc, i, n, STATES))
            _, h = step(h, u1.to(ACC), t1, A2, states_row(bc, i + 1, n, STATES))
            _, h = step(h, u2.to(ACC), t2, A2, states_row(bc, i + 2, n, STATES))
            _, h = step(h, u3.to(ACC), t3, A2, states_row(bc, i + 3, n, STATES))
            total += (t0 + t1) + (t2 + t3)
            u0, u1, u2, u3 = v0, v1, v2, v3
            t0, t1, t2, t3 = w0, w1, w2, w3
    for i in range(whole, count):
        t = one_row(dt, i, d, inside, CHANNELS, WHOLE, ACC)
        _, h = step(h, one_row(u, i, d, inside, CHANNELS, WHOLE, ACC), t, A2, states_row(bc, i, n, STATES))
        total += t

    index = sequence * tl.num_programs(0) + tl.program_id(0)
    store(ends + index * (STATES * CHANNELS) + tile, h, inside[None, :], WHOLE)
    if n0 == 0:
        store(sums + index * CHANNELS + d, total, inside, WHOLE)


@triton.jit(do_not_specialize=COUNTS)
def carry_kernel(
    ends, sums, A, starts, batches, n_chunks,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, CB: tl.constexpr, BK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """ends (s c n e), sums (s c e), A (o n e) -> starts (s c n e): the state that enters each chunk

    REVERSE: the adjoint that enters each chunk from its end. Grid: blocks of n x e, s.
    """
    ACC: tl.constexpr = ends.dtype.element_ty
    SIZE: tl.constexpr = STATES * CHANNELS
    sequence = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    k_inside = k < SIZE
    ends += sequence * n_chunks * SIZE
    starts += sequence * n_chunks * SIZE
    sums += sequence * n_chunks * CHANNELS
    A += tl.program_id(1) // batches * SIZE

    A2 = tl.load(A + k, mask=k_inside, other=0.0) * LOG2E
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
        steps = tl.load(sums + chunk * CHANNELS + (k % CHANNELS)[None, :], mask=inside, other=0.0)
        end = tl.load(ends + chunk * SIZE + k[None, :], mask=inside, other=0.0)
        decay, own = tl.associative_scan((tl.exp2(steps * A2[None, :]), end), 0, compose)
        after = decay * state[None, :] + own
        has_next = (c + 1 < n_chunks)[:, None] & k_inside[None, :]
        tl.store(starts + following * SIZE + k[None, :], after, mask=has_next)
        state = tl.sum(tl.where((rows == CB - 1)[:, None], after, 0.0), 0)


@triton.jit
def _before(partial, z, p, z_t, d, inside, CHANNELS: tl.constexpr, WHOLE: tl.constexpr, ADD: tl.constexpr,
            LAST: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """What y of token p is added to, and its gate"""
    so_far = tl.zeros_like(d).to(ACC)
    if ADD:
        so_far = load(partial + p * CHANNELS + d, inside, WHOLE)
    gate = so_far
    if LAST:
        if z is not None:
            gate = load(z + p * z_t + d, inside, WHOLE).to(ACC)
    return so_far, gate


@triton.jit
def _put(y, gate, partial, out, z, p, d, inside, CHANNELS: tl.constexpr, WHOLE: tl.constexpr, LAST: tl.constexpr):
    """Write y of token p: into the running sum, or gated into the result"""
    if LAST:
        if z is not None:
            y *= gate * sigmoid(gate)
        store(out + p * CHANNELS + d, y.to(out.dtype.element_ty), inside, WHOLE)
    else:
        store(partial + p * CHANNELS + d, y, inside, WHOLE)


@triton.jit(do_not_specialize=COUNTS)
def outputs_kernel(
    u, dt, bc, A, D, z, starts, partial, out, order, batches, length, n0, codes, n_slices, z_b, z_t,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
    ADD: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """starts (s c n e) and the scan's inputs -> y (b l e) of one order in token order, in `partial` or, gated by z
    (b l e), in `out`

    ADD: `partial` holds what other orders or state blocks gave. n0: first state entry. Grid: chunks, channel blocks, b.
    """
    ACC: tl.constexpr = starts.dtype.element_ty
    WHOLE: tl.constexpr = CHANNELS % BD == 0
    batch = tl.program_id(2).to(tl.int64)
    sequence = batch + order * batches
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = n0 + tl.arange(0, NB)
    inside = d < CHANNELS
    tile = tile_of(n, d, CHANNELS, 1)
    row = sequence * length + start
    u += row * CHANNELS
    dt += row * CHANNELS
    bc += row * (2 * STATES)
    A += order * (STATES * CHANNELS)
    if z is not None:
        z += batch * z_b
    if partial is not None:
        partial += batch * length * CHANNELS
    if out is not None:
        out += batch * length * CHANNELS

    A2 = load(A + tile, inside[None, :], WHOLE) * LOG2E
    D_d = tl.zeros([BD], ACC)
    if D is not None:
        D_d = parameter(D + order * CHANNELS, d, inside, BD, ACC)
    index = sequence * tl.num_programs(0) + tl.program_id(0)
    h = load(starts + index * (STATES * CHANNELS) + tile, inside[None, :], WHOLE)
    first, direction, slices, per = order_of(codes, order, length, n_slices)
    s, k = place(start, slices)
    whole = count // 4 * 4
    if whole > 0:
        u0, u1, u2, u3 = four_rows(u, 0, d, inside, CHANNELS, WHOLE)
        t0, t1, t2, t3 = four_rows(dt, 0, d, inside, CHANNELS, WHOLE)
        for i in range(0, whole, 4):
            following = tl.minimum(i + 4, whole - 4)
            v0, v1, v2, v3 = four_rows(u, following, d, inside, CHANNELS, WHOLE)
            w0, w1, w2, w3 = four_rows(dt, following, d, inside, CHANNELS, WHOLE)
            p0 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            p1 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            p2 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            p3 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            r0, g0 = _before(partial, z, p0, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            r1, g1 = _before(partial, z, p1, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            r2, g2 = _before(partial, z, p2, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            r3, g3 = _before(partial, z, p3, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            _, h = step(h, u0.to(ACC), t0, A2, states_row(bc, i, n, STATES))
            y0 = tl.sum(h * states_row(bc, i, STATES + n, STATES)[:, None], 0) + D_d * u0.to(ACC) + r0
            _, h = step(h, u1.to(ACC), t1, A2, states_row(bc, i + 1, n, STATES))
            y1 = tl.sum(h * states_row(bc, i + 1, STATES + n, STATES)[:, None], 0) + D_d * u1.to(ACC) + r1
            _, h = step(h, u2.to(ACC), t2, A2, states_row(bc, i + 2, n, STATES))
            y2 = tl.sum(h * states_row(bc, i + 2, STATES + n, STATES)[:, None], 0) + D_d * u2.to(ACC) + r2
            _, h = step(h, u3.to(ACC), t3, A2, states_row(bc, i + 3, n, STATES))
            y3 = tl.sum(h * states_row(bc, i + 3, STATES + n, STATES)[:, None], 0) + D_d * u3.to(ACC) + r3
            _put(y0, g0, partial, out, z, p0, d, inside, CHANNELS, WHOLE, LAST)
            _put(y1, g1, partial, out, z, p1, d, inside, CHANNELS, WHOLE, LAST)
            _put(y2, g2, partial, out, z, p2, d, inside, CHANNELS, WHOLE, LAST)
            _put(y3, g3, partial, out, z, p3, d, inside, CHANNELS, WHOLE, LAST)
            u0, u1, u2, u3 = v0, v1, v2, v3
            t0, t1, t2, t3 = w0, w1, w2, w3
    for i in range(whole, count):
        u_i = one_row(u, i, d, inside, CHANNELS, WHOLE, ACC)
        p = token(s, k, first, direction, per)
        s, k = forth(s, k, slices)
        so_far, gate = _before(partial, z, p, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
        _, h = step(h, u_i, one_row(dt, i, d, inside, CHANNELS, WHOLE, ACC), A2, states_row(bc, i, n, STATES))
        y = tl.sum(h * states_row(bc, i, STATES + n, STATES)[:, None], 0) + D_d * u_i + so_far
        _put(y, gate, partial, out, z, p, d, inside, CHANNELS, WHOLE, LAST)
