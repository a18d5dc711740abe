"""Triton kernels of the scan and of the short convolution. Imports triton, so import it only where it will be used.

Layout: channel-last. Inside, sequences lie in scan order; only what a caller sees (x, z, y and their gradients) lies in
token order, and `_token` says which token a scan step reads.

The scan is cut into chunks along l, and every chunk is a program of its own:

    chunk_ends     each chunk from a zero state: the state after it, and the sum of its time steps
    carry          composes the chunks: the state at each chunk's start (or, reversed, the adjoint at each chunk's end)
    outputs        each chunk again from its true start: y
    again          backward, first walk: y, grad_C, checkpoints, and what carry needs for the adjoint
    adjoints       backward, second walk from end to start: the other gradients

One program is one warp that holds the states of BD = 32 channels, NB <= 16 state entries each, as a tile [NB, BD]: the
sum over the state entries then needs no other warp. A program sums in a fixed order and writes results of its own;
nothing is added atomically, so results repeat bit for bit.

Forward, steps are taken four at a time, loads first, to have several loads under way. Steps past the end read the last
step again and get a time step of zero: they neither decay nor add anything.

All row numbers are int64; only the token number inside one sequence is int32. Triton's language has no starred tuples,
hence the concatenations.
"""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


# ----------------------------------------------------------------------------------------------------- small pieces


@triton.jit
def _token(t, length, n_slices, ORDER: tl.constexpr):
    """The token that scan step t reads, int64"""
    if ORDER == "f":
        p = t
    elif ORDER == "b":
        p = length - 1 - t
    else:
        inside = t // n_slices
        p = (t - inside * n_slices) * (length // n_slices) + inside
    return p.to(tl.int64)


@triton.jit
def _tile(n, d, channels, WIDTH: tl.constexpr):
    """Offsets of a tile of states [NB, BD]; WIDTH: how many adjacent channels a thread takes at a time

    1: a thread has one channel with all its state entries, and sums over the entries need no other thread (forward).
    4: eight threads share the channels, four the entries: sums over channels take fewer shuffles (backward).
    """
    return tl.max_contiguous(n[:, None] * channels + d[None, :], [1, WIDTH])


@triton.jit
def _until(index, size, i, count):
    """index < size if the chunk has a step i, else nothing"""
    return index < tl.where(i < count, size, 0)


@triton.jit
def _at(i, count):
    """Row of step i, int64: a chunk's last row for steps past it. The product with an int32 stride is then one
    widening multiplication."""
    return tl.minimum(i, count - 1).to(tl.int64)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _softplus(x, ACC: tl.constexpr):
    """log(1 + exp(x)), accurate for very negative x too: max(x, 0) + log1p(e) with e = exp(-|x|) <= 1

    log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3, by its series: a rounded 1 + e would lose small time steps.
    """
    TERMS: tl.constexpr = 18 if ACC.primitive_bitwidth == 64 else 7
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    square = s * s
    series = square * 0.0 + 1.0 / (2 * TERMS - 1)
    for k in tl.static_range(TERMS - 2, -1, -1):
        series = series * square + 1.0 / (2 * k + 1)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _inputs(u, delta, bias, i, count, channels, d, d_inside, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """u, the time step, and what the time step was before softplus, of step i: [BD] each"""
    where = _at(i, count) * channels + d
    u_row = tl.load(u + where, mask=d_inside, other=0.0).to(ACC)
    before = tl.load(delta + where, mask=d_inside, other=0.0).to(ACC) + bias
    dt = before
    if SOFTPLUS:
        dt = _softplus(before, ACC)
    return u_row, tl.where(i < count, dt, 0.0), before


@triton.jit
def _row(bc, i, count, n_state, n):
    """B (or C, if n is n_state more) of step i: [NB]"""
    return tl.load(bc + _at(i, count) * (2 * n_state) + n)


@triton.jit
def _parameter(pointer, d, d_inside, BD: tl.constexpr, ACC: tl.constexpr):
    """A vector over channels, zero where it was not given: [BD]"""
    return tl.zeros([BD], ACC) if pointer is None else tl.load(pointer + d, mask=d_inside, other=0.0).to(ACC)


@triton.jit
def _step(h, u, dt, A2, B):
    """One step of the recurrence: decayed state and next state, [NB, BD]; A2 = A / ln 2"""
    decayed = tl.exp2(dt[None, :] * A2) * h
    return decayed, decayed + (dt * u)[None, :] * B[:, None]


@triton.jit
def _gated(grad_y, z, i, count, token, z_t, channels, d, ACC: tl.constexpr):
    """Gradient behind the gate, of step i: [BD], zero past the end; and grad_y and z themselves"""
    inside = _until(d, channels, i, count)
    grad = tl.load(grad_y + token * channels + d, mask=inside, other=0.0).to(ACC)
    gate = grad * 0.0
    behind = grad
    if z is not None:
        gate = tl.load(z + token * z_t + d, mask=inside, other=0.0).to(ACC)
        behind = grad * gate * _sigmoid(gate)
    return behind, grad, gate


@triton.jit
def _compose(decay_1, state_1, decay_2, state_2):
    return decay_1 * decay_2, decay_2 * state_1 + state_2


# ------------------------------------------------------------------------------------------------------ forward scan


@triton.jit
def chunk_ends_kernel(
    u, delta, bias, bc, A, ends, sums,
    length, channels, n_state,
    CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """u, delta (b l e); bias (e); bc (b l 2n) = B|C; A (n e) -> ends (b c n e), sums of time steps (b c e)

    Grid: chunks, channel blocks x state blocks, b.
    """
    ACC: tl.constexpr = ends.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    d_blocks = tl.cdiv(channels, BD)
    d = tl.program_id(1) % d_blocks * BD + tl.arange(0, BD)
    n0 = tl.program_id(1) // d_blocks * NB
    n = n0 + tl.arange(0, NB)
    d_inside = d < channels
    tile = _tile(n, d, channels, 1)
    row = batch * length + start
    u += row * channels
    delta += row * channels
    bc += row * (2 * n_state)

    A2 = tl.load(A + tile, mask=d_inside[None, :], other=0.0) * LOG2E
    bias_d = _parameter(bias, d, d_inside, BD, ACC)
    h = tl.zeros([NB, BD], ACC)
    total = tl.zeros([BD], ACC)
    for i in range(0, count, 4):
        us, dts = (), ()
        for j in tl.static_range(4):
            u_j, dt_j, _ = _inputs(u, delta, bias_d, i + j, count, channels, d, d_inside, SOFTPLUS, ACC)
            us, dts = us + (u_j,), dts + (dt_j,)  # noqa: RUF005
        for j in tl.static_range(4):
            _, h = _step(h, us[j], dts[j], A2, _row(bc, i + j, count, n_state, n))
            total += dts[j]

    index = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(ends + index * n_state * channels + tile, h, mask=d_inside[None, :])
    if n0 == 0:
        tl.store(sums + index * channels + d, total, mask=d_inside)


@triton.jit
def carry_kernel(
    ends, sums, A, starts, n_chunks, channels, tile_size,
    CB: tl.constexpr, BK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """ends (b c n e), sums (b c e), A (n e) -> starts (b c n e): the state that enters each chunk

    REVERSE: the adjoint that enters each chunk from its end. Grid: blocks of n x e, b.
    """
    ACC: tl.constexpr = ends.dtype.element_ty
    batch = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    k_inside = k < tile_size
    ends += batch * n_chunks * tile_size
    starts += batch * n_chunks * tile_size
    sums += batch * n_chunks * channels

    A2 = tl.load(A + k, mask=k_inside, other=0.0) * LOG2E
    state = tl.zeros([BK], ACC)
    first = 0
    if REVERSE:
        first = n_chunks - 1
    tl.store(starts + tl.cast(first, tl.int64) * tile_size + k, state, mask=k_inside)
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
        steps = tl.load(sums + chunk * channels + (k % channels)[None, :], mask=inside, other=0.0)
        end = tl.load(ends + chunk * tile_size + k[None, :], mask=inside, other=0.0)
        decay, own = tl.associative_scan((tl.exp2(steps * A2[None, :]), end), 0, _compose)
        after = decay * state[None, :] + own
        has_next = (c + 1 < n_chunks)[:, None] & k_inside[None, :]
        tl.store(starts + following * tile_size + k[None, :], after, mask=has_next)
        state = tl.sum(tl.where((rows == CB - 1)[:, None], after, 0.0), 0)


@triton.jit
def _put(y, partial, out, z, i, count, token, z_t, channels, d, ADD: tl.constexpr, LAST: tl.constexpr,
         ACC: tl.constexpr):  # fmt: skip
    """Write y of one token: into the running sum, or gated into the result"""
    inside = _until(d, channels, i, count)
    if ADD:
        y += tl.load(partial + token * channels + d, mask=inside, other=0.0)
    if LAST:
        if z is not None:
            gate = tl.load(z + token * z_t + d, mask=inside, other=0.0).to(ACC)
            y *= gate * _sigmoid(gate)
        tl.store(out + token * channels + d, y.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + token * channels + d, y, mask=inside)


@triton.jit
def outputs_kernel(
    u, delta, bias, bc, A, D, z, starts, partial, out,
    length, channels, n_state, n0, n_slices, z_b, z_t,
    CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr, SOFTPLUS: tl.constexpr, ORDER: tl.constexpr,
    ADD: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """starts (b c n e) and the scan's inputs -> y (b l e) in token order, in `partial` or, gated by z, in `out`

    ADD: `partial` holds what other orders or state blocks gave. n0: first state entry. Grid: chunks, channel blocks, b.
    """
    ACC: tl.constexpr = starts.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = n0 + tl.arange(0, NB)
    d_inside = d < channels
    tile = _tile(n, d, channels, 1)
    row = batch * length + start
    u += row * channels
    delta += row * channels
    bc += row * (2 * n_state)
    if z is not None:
        z += batch * z_b
    if partial is not None:
        partial += batch * length * channels
    if out is not None:
        out += batch * length * channels

    A2 = tl.load(A + tile, mask=d_inside[None, :], other=0.0) * LOG2E
    bias_d = _parameter(bias, d, d_inside, BD, ACC)
    D_d = _parameter(D, d, d_inside, BD, ACC)
    index = batch * tl.num_programs(0) + tl.program_id(0)
    h = tl.load(starts + index * n_state * channels + tile, mask=d_inside[None, :], other=0.0)
    for i in range(0, count, 4):
        us, dts, ys = (), (), ()
        for j in tl.static_range(4):
            u_j, dt_j, _ = _inputs(u, delta, bias_d, i + j, count, channels, d, d_inside, SOFTPLUS, ACC)
            us, dts = us + (u_j,), dts + (dt_j,)  # noqa: RUF005
        for j in tl.static_range(4):
            _, h = _step(h, us[j], dts[j], A2, _row(bc, i + j, count, n_state, n))
            y_j = tl.sum(h * _row(bc, i + j, count, n_state, n_state + n)[:, None], 0)
            ys = ys + (y_j + D_d * us[j],)  # noqa: RUF005
        for j in tl.static_range(4):
            p = _token(start + i + j, length, n_slices, ORDER)
            _put(ys[j], partial, out, z, i + j, count, p, z_t, channels, d, ADD, LAST, ACC)


# ----------------------------------------------------------------------------------------------------- backward scan


@triton.jit
def _put_grad_z(y, grad, gate, partial, out, i, count, token, channels, d, ADD: tl.constexpr, LAST: tl.constexpr):
    """As `_put`, but the result is the gradient of z: y times the gradient of silu(z) times grad_y"""
    inside = _until(d, channels, i, count)
    if ADD:
        y += tl.load(partial + token * channels + d, mask=inside, other=0.0)
    if LAST:
        s = _sigmoid(gate)
        y *= grad * s * (1.0 + gate * (1.0 - s))
        tl.store(out + token * channels + d, y.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + token * channels + d, y, mask=inside)


@triton.jit
def again_kernel(
    u, delta, bias, bc, A, D, z, grad_y, starts, checkpoints, ends, sums, grad_bc, grad_D, partial, grad_z,
    batches, length, channels, n_state, n0, n_slices, z_b, z_t,
    CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr, SOFTPLUS: tl.constexpr, ORDER: tl.constexpr,
    ADD: tl.constexpr, LAST: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    """The forward walk once more, with the gradient of y at hand (grad_y, z in token order)

    -> checkpoints (b c*CHUNK/EVERY NB e): a state every few steps
       ends (b c n e): the adjoint that leaves each chunk at its start if none enters at its end; sums (b c e)
       grad_bc (channel blocks, b, l, 2n): grad_C in its second half; grad_D (b c e) if D is given
       grad_z (b l e) if z is given, by way of `partial` as in `outputs_kernel`
    Grid: chunks, channel blocks, b.
    """
    ACC: tl.constexpr = starts.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    block = tl.program_id(1).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = n0 + tl.arange(0, NB)
    d_inside = d < channels
    tile = _tile(n, d, channels, 4)
    row = batch * length + start
    u += row * channels
    delta += row * channels
    bc += row * (2 * n_state)
    grad_y += batch * length * channels
    grad_bc += (block * batches * length + row) * (2 * n_state)
    if z is not None:
        z += batch * z_b
        if partial is not None:
            partial += batch * length * channels
        if grad_z is not None:
            grad_z += batch * length * channels

    A2 = tl.load(A + tile, mask=d_inside[None, :], other=0.0) * LOG2E
    bias_d = _parameter(bias, d, d_inside, BD, ACC)
    D_d = _parameter(D, d, d_inside, BD, ACC)
    index = batch * tl.num_programs(0) + tl.program_id(0)
    h = tl.load(starts + index * n_state * channels + tile, mask=d_inside[None, :], other=0.0)
    checkpoints += tile - n0 * channels
    reach = tl.full([NB, BD], 1.0, ACC)
    entering = tl.zeros([NB, BD], ACC)
    total = tl.zeros([BD], ACC)
    along_u = tl.zeros([BD], ACC)
    for i in range(0, count):
        if i % EVERY == 0:
            at = (index * (CHUNK // EVERY) + i // EVERY) * NB * channels
            tl.store(checkpoints + at, h, mask=d_inside[None, :])
        p = _token(start + i, length, n_slices, ORDER)
        u_i, dt, _ = _inputs(u, delta, bias_d, i, count, channels, d, d_inside, SOFTPLUS, ACC)
        behind, grad, gate = _gated(grad_y, z, i, count, p, z_t, channels, d, ACC)
        decay = tl.exp2(dt[None, :] * A2)
        h = decay * h + (dt * u_i)[None, :] * _row(bc, i, count, n_state, n)[:, None]
        C = _row(bc, i, count, n_state, n_state + n)[:, None]
        reach *= decay
        entering += reach * (C * behind[None, :])
        tl.store(grad_bc + _at(i, count) * (2 * n_state) + n_state + n, tl.sum(h * behind[None, :], 1))
        total += dt
        along_u += behind * u_i
        if z is not None:
            y = tl.sum(h * C, 0) + D_d * u_i
            _put_grad_z(y, grad, gate, partial, grad_z, i, count, p, channels, d, ADD, LAST)

    tl.store(ends + index * n_state * channels + tile, entering, mask=d_inside[None, :])
    if n0 == 0:
        tl.store(sums + index * channels + d, total, mask=d_inside)
        if grad_D is not None:
            tl.store(grad_D + index * channels + d, along_u, mask=d_inside)


@triton.jit
def _adjoint_step(g, decayed, behind, A2, D, bias, grad_A, grad_bias, u, delta, bc, grad_bc, grad_u, grad_delta,
                  i, count, channels, n, n_state, d, d_inside, SOFTPLUS: tl.constexpr, ADD: tl.constexpr,
                  ACC: tl.constexpr):  # fmt: skip
    """One step back: adjoint before it, sums for grad_A and grad_bias; writes the other gradients

    Loads the step's inputs once more: four steps of all that depends on them do not fit the registers.
    """
    inside = _until(d, channels, i, count)
    where = _at(i, count) * channels + d
    u_i, dt, before = _inputs(u, delta, bias, i, count, channels, d, d_inside, SOFTPLUS, ACC)
    B, C = _row(bc, i, count, n_state, n), _row(bc, i, count, n_state, n_state + n)
    g += C[:, None] * behind[None, :]
    tl.store(grad_bc + _at(i, count) * (2 * n_state) + n, tl.sum(g * (dt * u_i)[None, :], 1),
             mask=_until(n, n_state, i, count))  # fmt: skip
    into_B = tl.sum(g * B[:, None], 0)
    into_exponent = g * decayed
    grad_dt = into_B * u_i + tl.sum(into_exponent * A2, 0) * LN2
    grad_A += into_exponent * dt[None, :]
    if SOFTPLUS:
        grad_dt *= _sigmoid(before)
    grad_dt = tl.where(i < count, grad_dt, 0.0)
    grad_input = into_B * dt + D * behind
    if ADD:
        grad_input += tl.load(grad_u + where, mask=inside, other=0.0)
        total = grad_dt + tl.load(grad_delta + where, mask=inside, other=0.0)
        tl.store(grad_delta + where, total, mask=inside)
    else:
        tl.store(grad_delta + where, grad_dt, mask=inside)
    tl.store(grad_u + where, grad_input, mask=inside)
    return tl.exp2(dt[None, :] * A2) * g, grad_A, grad_bias + grad_dt


@triton.jit
def adjoints_kernel(
    u, delta, bias, bc, A, D, z, grad_y, checkpoints, entering, grad_u, grad_delta, grad_bc, grad_A, grad_bias,
    batches, length, channels, n_state, n0, n_slices, z_b, z_t,
    CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr, SOFTPLUS: tl.constexpr, ORDER: tl.constexpr,
    ADD: tl.constexpr, EVERY: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """checkpoints and entering (b c n e), the adjoint at each chunk's end, from `again` and `carry`

    -> grad_u, grad_delta (b l e) in scan order, contiguous (ADD: added to what other state blocks gave);
       grad_bc (channel blocks, b, l, 2n): grad_B in its first half; grad_A (b c n e); grad_bias (b c e)
    grad_delta may lie where delta lies: each value is read for the last time before its gradient is written.
    SUB: steps whose decayed states are held in registers at once, 2 or 4; fewer mean more steps walked again from the
    checkpoint before them.
    Grid: chunks, channel blocks, b.
    """
    ACC: tl.constexpr = entering.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    block = tl.program_id(1).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = n0 + tl.arange(0, NB)
    d_inside = d < channels
    tile = _tile(n, d, channels, 4)
    row = batch * length + start
    u += row * channels
    delta += row * channels
    bc += row * (2 * n_state)
    grad_y += batch * length * channels
    grad_u += row * channels
    grad_delta += row * channels
    grad_bc += (block * batches * length + row) * (2 * n_state)
    if z is not None:
        z += batch * z_b

    A2 = tl.load(A + tile, mask=d_inside[None, :], other=0.0) * LOG2E
    bias_d = _parameter(bias, d, d_inside, BD, ACC)
    D_d = _parameter(D, d, d_inside, BD, ACC)
    index = batch * tl.num_programs(0) + tl.program_id(0)
    g = tl.load(entering + index * n_state * channels + tile, mask=d_inside[None, :], other=0.0)
    checkpoints += tile - n0 * channels
    dA = tl.zeros([NB, BD], ACC)
    db = tl.zeros([BD], ACC)
    subs = tl.cdiv(count, SUB)
    for k in range(0, subs):
        i = (subs - 1 - k) * SUB
        checkpoint = i // EVERY
        at = (index * (CHUNK // EVERY) + checkpoint) * NB * channels
        h = tl.load(checkpoints + at, mask=d_inside[None, :], other=0.0)
        first = checkpoint * EVERY
        for r in range(first, i):
            u_r, dt_r, _ = _inputs(u, delta, bias_d, r, count, channels, d, d_inside, SOFTPLUS, ACC)
            _, h = _step(h, u_r, dt_r, A2, _row(bc, r, count, n_state, n))
        decayed = ()
        for q in tl.static_range(SUB):
            u_q, dt_q, _ = _inputs(u, delta, bias_d, i + q, count, channels, d, d_inside, SOFTPLUS, ACC)
            decayed_q, h = _step(h, u_q, dt_q, A2, _row(bc, i + q, count, n_state, n))
            decayed = decayed + (decayed_q,)  # noqa: RUF005
        for q in tl.static_range(SUB - 1, -1, -1):
            p = _token(start + i + q, length, n_slices, ORDER)
            behind, _, _ = _gated(grad_y, z, i + q, count, p, z_t, channels, d, ACC)
            g, dA, db = _adjoint_step(
                g, decayed[q], behind, A2, D_d, bias_d, dA, db, u, delta, bc, grad_bc, grad_u, grad_delta,
                i + q, count, channels, n, n_state, d, d_inside, SOFTPLUS, ADD, ACC,
            )  # fmt: skip

    tl.store(grad_A + index * n_state * channels + tile, dA, mask=d_inside[None, :])
    if ADD:
        db += tl.load(grad_bias + index * channels + d, mask=d_inside, other=0.0)
    tl.store(grad_bias + index * channels + d, db, mask=d_inside)


# --------------------------------------------------------------------------------------------------- the convolution


@triton.jit
def _tap(x, t, delay, length, n_slices, x_t, x_e, d, d_inside, ORDER: tl.constexpr, ACC: tl.constexpr):
    """x of scan steps t - delay: [BT, BD], zero before the start"""
    source = t - delay
    inside = ((source >= 0) & (t < length))[:, None] & d_inside[None, :]
    rows = _token(source, length, n_slices, ORDER)[:, None]
    return tl.load(x + rows * x_t + d.to(tl.int64)[None, :] * x_e, mask=inside, other=0.0).to(ACC)


@triton.jit
def _convolve(x, weight, bias, t, length, channels, n_slices, x_t, x_e, d, d_inside, TAPS: tl.constexpr,
              ORDER: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """sum_k weight[k] x[t - TAPS + 1 + k] + bias: [BT, BD]; weight (w e)"""
    total = tl.zeros([BT, BD], ACC) + _parameter(bias, d, d_inside, BD, ACC)[None, :]
    for k in tl.static_range(TAPS):
        tap = k * channels
        w = tl.load(weight + tap + d, mask=d_inside, other=0.0).to(ACC)
        total += w[None, :] * _tap(x, t, TAPS - 1 - k, length, n_slices, x_t, x_e, d, d_inside, ORDER, ACC)
    return total


@triton.jit
def conv_kernel(
    x, weight, bias, u, length, channels, n_slices, x_b, x_t, x_e, u_b, u_t, u_e,
    TAPS: tl.constexpr, SILU: tl.constexpr, ORDER: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """x (b l e) in token order, weight (w e), bias (e) -> u (b l e) in scan order

    Grid: token blocks, channel blocks, b.
    """
    ACC: tl.constexpr = weight.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    rows = t.to(tl.int64)[:, None]
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    d_inside = d < channels
    x += batch * x_b
    y = _convolve(x, weight, bias, t, length, channels, n_slices, x_t, x_e, d, d_inside, TAPS, ORDER, BT, BD, ACC)
    if SILU:
        y *= _sigmoid(y)
    where = u + batch * u_b + rows * u_t + d.to(tl.int64)[None, :] * u_e
    tl.store(where, y.to(u.dtype.element_ty), mask=(t < length)[:, None] & d_inside[None, :])


@triton.jit
def conv_weights_kernel(
    grad, x, weight, bias, before, partial, length, channels, n_slices, grad_b, grad_t, grad_e, x_b, x_t, x_e,
    before_b, before_t, before_e,
    TAPS: tl.constexpr, SILU: tl.constexpr, ORDER: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """grad (b l e), gradient of u -> before (b l e), gradient before SiLU (may lie where grad lies), and per block of
    tokens the sums for the weights and, behind them, the bias: partial (b, token blocks, w + 1, e)

    Grid: token blocks, channel blocks, b.
    """
    ACC: tl.constexpr = weight.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    rows = t.to(tl.int64)[:, None]
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    d_inside = d < channels
    inside = (t < length)[:, None] & d_inside[None, :]
    x += batch * x_b
    columns = d.to(tl.int64)[None, :]
    g = tl.load(grad + batch * grad_b + rows * grad_t + columns * grad_e, mask=inside, other=0.0).to(ACC)
    if SILU:
        c = _convolve(x, weight, bias, t, length, channels, n_slices, x_t, x_e, d, d_inside, TAPS, ORDER, BT, BD, ACC)
        s = _sigmoid(c)
        g *= s * (1.0 + c * (1.0 - s))
    tl.store(before + batch * before_b + rows * before_t + columns * before_e, g, mask=inside)
    partial += (batch * tl.num_programs(0) + tl.program_id(0)) * (TAPS + 1) * channels
    for k in tl.static_range(TAPS):
        shifted = _tap(x, t, TAPS - 1 - k, length, n_slices, x_t, x_e, d, d_inside, ORDER, ACC)
        tap = k * channels
        tl.store(partial + tap + d, tl.sum(g * shifted, 0), mask=d_inside)
    tap = TAPS * channels
    tl.store(partial + tap + d, tl.sum(g, 0), mask=d_inside)


@triton.jit
def conv_inputs_kernel(
    before, weight, partial, out, length, channels, n_slices, before_b, before_t, before_e, out_b, out_t, out_e,
    TAPS: tl.constexpr, ORDER: tl.constexpr, ADD: tl.constexpr, LAST: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """before (b l e) in scan order -> gradient of x (b l e) in token order, summed over orders in `partial` as in
    `outputs_kernel`. Grid: token blocks, channel blocks, b.
    """
    ACC: tl.constexpr = weight.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    d_inside = d < channels
    inside = (t < length)[:, None] & d_inside[None, :]
    columns = d.to(tl.int64)[None, :]
    before += batch * before_b
    total = tl.zeros([BT, BD], ACC)
    for k in tl.static_range(TAPS):
        tap = k * channels
        w = tl.load(weight + tap + d, mask=d_inside, other=0.0).to(ACC)
        row = t + (TAPS - 1 - k)
        later = (row < length)[:, None] & d_inside[None, :]
        where = before + row.to(tl.int64)[:, None] * before_t + columns * before_e
        total += w[None, :] * tl.load(where, mask=later, other=0.0)
    token = _token(t, length, n_slices, ORDER)[:, None]
    if partial is not None:
        partial += batch * length * channels + token * channels + columns
    if ADD:
        total += tl.load(partial, mask=inside, other=0.0)
    if LAST:
        where = out + batch * out_b + token * out_t + columns * out_e
        tl.store(where, total.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(partial, total, mask=inside)
