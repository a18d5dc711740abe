"""Triton kernels of the scan, backward; see `triton_forward` for the walks, the layout and the rules."""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_forward import four_rows, one_row, states_row
from nnunet_mamba.ops.kernels.triton_pieces import (
    COUNTS,
    LN2,
    LOG2E,
    back,
    forth,
    load,
    order_of,
    parameter,
    place,
    sigmoid,
    softplus_slope,
    step,
    store,
    tile_of,
    token,
)

WIDTH = tl.constexpr(4)
"""Adjacent channels of a thread"""


@triton.jit
def _gate_factor(partial, z, grad_y, p, z_t, d, inside, CHANNELS: tl.constexpr, WHOLE: tl.constexpr,
                 ADD: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Of token p: y so far, and what y is multiplied with to become the gradient of z: grad_y times that of silu"""
    so_far = tl.zeros_like(d).to(ACC)
    if z is not None:
        if ADD:
            so_far = load(partial + p * CHANNELS + d, inside, WHOLE)
    factor = so_far
    if z is not None:
        if LAST:
            gate = load(z + p * z_t + d, inside, WHOLE).to(ACC)
            s = sigmoid(gate)
            factor = load(grad_y + p * CHANNELS + d, inside, WHOLE).to(ACC) * s * (1.0 + gate * (1.0 - s))
    return so_far, factor


@triton.jit
def _put_grad_z(y, factor, partial, grad_z, z, p, d, inside, CHANNELS: tl.constexpr, WHOLE: tl.constexpr,
                LAST: tl.constexpr):  # fmt: skip
    """y of token p into the running sum, or, times `factor`, into the result"""
    if z is not None:
        if LAST:
            store(grad_z + p * CHANNELS + d, (y * factor).to(grad_z.dtype.element_ty), inside, WHOLE)
        else:
            store(partial + p * CHANNELS + d, y, inside, WHOLE)


@triton.jit
def _again_step(h, reach, entering, along_u, u, dt, behind, A2, D, B, C):
    """One step of the forward walk: its state, what the adjoint at the chunk's start becomes, grad_C, and y"""
    decay = tl.exp2(dt[None, :] * A2)
    h = decay * h + (dt * u)[None, :] * B[:, None]
    reach *= decay
    entering += reach * (C[:, None] * behind[None, :])
    y = tl.sum(h * C[:, None], 0) + D * u
    return h, reach, entering, along_u + behind * u, tl.sum(h * behind[None, :], 1), y


@triton.jit(do_not_specialize=COUNTS)
def again_kernel(
    u, dt, bc, A, D, z, grad_y, behind, starts, checkpoints, ends, sums, grad_bc, grad_D, partial, grad_z,
    order, batches, sequences, length, n0, codes, n_slices, z_b, z_t,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
    ADD: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The forward walk of one order once more, with the gradient of y at hand

    behind (b l e): the gradient behind the gate, token order; grad_y and z (b l e) themselves only for grad_z
    -> checkpoints (s c*CHUNK/4 NB e): the state before every fourth step
       ends (s c n e): the adjoint that leaves each chunk at its start if none enters at its end; sums (s c e)
       grad_bc (channel blocks, s, l, 2n): grad_C in its second half; grad_D (s c e) if D is given
       grad_z (b l e) if z is given, by way of `partial` as in `outputs_kernel`
    Grid: chunks, channel blocks, b.
    """
    ACC: tl.constexpr = starts.dtype.element_ty
    WHOLE: tl.constexpr = CHANNELS % BD == 0
    batch = tl.program_id(2).to(tl.int64)
    sequence = batch + order * batches
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    block = tl.program_id(1).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = n0 + tl.arange(0, NB)
    inside = d < CHANNELS
    tile = tile_of(n, d, CHANNELS, WIDTH)
    row = sequence * length + start
    u += row * CHANNELS
    dt += row * CHANNELS
    bc += row * (2 * STATES)
    A += order * (STATES * CHANNELS)
    behind += batch * length * CHANNELS
    grad_bc += (block * sequences * length + row) * (2 * STATES) + STATES + n
    if z is not None:
        z += batch * z_b
        grad_y += batch * length * CHANNELS
        if partial is not None:
            partial += batch * length * CHANNELS
        if grad_z is not None:
            grad_z += batch * length * CHANNELS

    A2 = load(A + tile, inside[None, :], WHOLE) * LOG2E
    D_d = tl.zeros([BD], ACC)
    if D is not None:
        D_d = parameter(D + order * CHANNELS, d, inside, BD, ACC)
    index = sequence * tl.num_programs(0) + tl.program_id(0)
    h = load(starts + index * (STATES * CHANNELS) + tile, inside[None, :], WHOLE)
    checkpoints += index * (CHUNK // 4) * (NB * CHANNELS) + (tile - n0 * CHANNELS)
    reach = tl.full([NB, BD], 1.0, ACC)
    entering = tl.zeros([NB, BD], ACC)
    total = tl.zeros([BD], ACC)
    along = tl.zeros([BD], ACC)
    first, direction, slices, per = order_of(codes, order, length, n_slices)
    s, k = place(start, slices)
    whole = count // 4 * 4
    if whole > 0:
        for i in range(0, whole, 4):
            p0 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            p1 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            p2 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            p3 = token(s, k, first, direction, per)
            s, k = forth(s, k, slices)
            b0 = load(behind + p0 * CHANNELS + d, inside, WHOLE)
            b1 = load(behind + p1 * CHANNELS + d, inside, WHOLE)
            b2 = load(behind + p2 * CHANNELS + d, inside, WHOLE)
            b3 = load(behind + p3 * CHANNELS + d, inside, WHOLE)
            u0, u1, u2, u3 = four_rows(u, i, d, inside, CHANNELS, WHOLE)
            t0, t1, t2, t3 = four_rows(dt, i, d, inside, CHANNELS, WHOLE)
            r0, f0 = _gate_factor(partial, z, grad_y, p0, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            r1, f1 = _gate_factor(partial, z, grad_y, p1, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            r2, f2 = _gate_factor(partial, z, grad_y, p2, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            r3, f3 = _gate_factor(partial, z, grad_y, p3, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
            store(checkpoints + tl.cast(i // 4, tl.int64) * (NB * CHANNELS), h, inside[None, :], WHOLE)
            h, reach, entering, along, c0, y0 = _again_step(
                h, reach, entering, along, u0.to(ACC), t0, b0, A2, D_d,
                states_row(bc, i, n, STATES), states_row(bc, i, STATES + n, STATES),
            )  # fmt: skip
            h, reach, entering, along, c1, y1 = _again_step(
                h, reach, entering, along, u1.to(ACC), t1, b1, A2, D_d,
                states_row(bc, i + 1, n, STATES), states_row(bc, i + 1, STATES + n, STATES),
            )  # fmt: skip
            h, reach, entering, along, c2, y2 = _again_step(
                h, reach, entering, along, u2.to(ACC), t2, b2, A2, D_d,
                states_row(bc, i + 2, n, STATES), states_row(bc, i + 2, STATES + n, STATES),
            )  # fmt: skip
            h, reach, entering, along, c3, y3 = _again_step(
                h, reach, entering, along, u3.to(ACC), t3, b3, A2, D_d,
                states_row(bc, i + 3, n, STATES), states_row(bc, i + 3, STATES + n, STATES),
            )  # fmt: skip
            total += (t0 + t1) + (t2 + t3)
            at = grad_bc + tl.cast(i, tl.int64) * (2 * STATES)
            tl.store(at, c0)
            tl.store(at + 2 * STATES, c1)
            tl.store(at + 4 * STATES, c2)
            tl.store(at + 6 * STATES, c3)
            _put_grad_z(y0 + r0, f0, partial, grad_z, z, p0, d, inside, CHANNELS, WHOLE, LAST)
            _put_grad_z(y1 + r1, f1, partial, grad_z, z, p1, d, inside, CHANNELS, WHOLE, LAST)
            _put_grad_z(y2 + r2, f2, partial, grad_z, z, p2, d, inside, CHANNELS, WHOLE, LAST)
            _put_grad_z(y3 + r3, f3, partial, grad_z, z, p3, d, inside, CHANNELS, WHOLE, LAST)
    if whole < count:
        store(checkpoints + tl.cast(whole // 4, tl.int64) * (NB * CHANNELS), h, inside[None, :], WHOLE)
    for i in range(whole, count):
        p = token(s, k, first, direction, per)
        s, k = forth(s, k, slices)
        t = one_row(dt, i, d, inside, CHANNELS, WHOLE, ACC)
        so_far, factor = _gate_factor(partial, z, grad_y, p, z_t, d, inside, CHANNELS, WHOLE, ADD, LAST, ACC)
        h, reach, entering, along, c, y = _again_step(
            h, reach, entering, along, one_row(u, i, d, inside, CHANNELS, WHOLE, ACC), t,
            load(behind + p * CHANNELS + d, inside, WHOLE), A2, D_d,
            states_row(bc, i, n, STATES), states_row(bc, i, STATES + n, STATES),
        )  # fmt: skip
        total += t
        tl.store(grad_bc + tl.cast(i, tl.int64) * (2 * STATES), c)
        _put_grad_z(y + so_far, factor, partial, grad_z, z, p, d, inside, CHANNELS, WHOLE, LAST)

    store(ends + index * (STATES * CHANNELS) + tile, entering, inside[None, :], WHOLE)
    if n0 == 0:
        store(sums + index * CHANNELS + d, total, inside, WHOLE)
        if grad_D is not None:
            store(grad_D + index * CHANNELS + d, along, inside, WHOLE)


@triton.jit
def _adjoint_step(g, dA, d_bias, decayed, u, dt, behind, A2, D, B, C, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """One step back: the adjoint before it, sums for grad_A and the bias; grad_B, grad_u, grad_delta of the step"""
    g += C[:, None] * behind[None, :]
    grad_B = tl.sum(g * (dt * u)[None, :], 1)
    into_B = tl.sum(g * B[:, None], 0)
    into_exponent = g * decayed
    grad_delta = into_B * u + tl.sum(into_exponent * A2, 0) * LN2
    if SOFTPLUS:
        grad_delta *= softplus_slope(dt, ACC)
    g = tl.exp2(dt[None, :] * A2) * g
    return g, dA + into_exponent * dt[None, :], d_bias + grad_delta, grad_B, into_B * dt + D * behind, grad_delta


@triton.jit
def _put_gradients(grad_u, grad_delta, at_u, at_delta, inside, WHOLE: tl.constexpr, ADD: tl.constexpr):
    """Of one step; ADD: to what other state blocks gave"""
    if ADD:
        grad_u += load(at_u, inside, WHOLE)
        grad_delta += load(at_delta, inside, WHOLE)
    store(at_u, grad_u, inside, WHOLE)
    store(at_delta, grad_delta.to(at_delta.dtype.element_ty), inside, WHOLE)


@triton.jit(do_not_specialize=COUNTS)
def adjoints_kernel(
    u, dt, bc, A, D, behind, checkpoints, entering, grad_u, grad_delta, grad_bc, grad_A, grad_bias,
    batches, sequences, length, n0, codes, n_slices,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr, NB: tl.constexpr, BD: tl.constexpr,
    SOFTPLUS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """checkpoints and entering (s c n e), the adjoint at each chunk's end, from `again` and `carry`

    -> grad_u, grad_delta (s l e) in scan order, grad_delta before softplus if SOFTPLUS, else of the time step
       (ADD: added to what other state blocks gave);
       grad_bc (channel blocks, s, l, 2n): grad_B in its first half; grad_A (s c n e); grad_bias (s c e)
    Grid: chunks, channel blocks, s.
    """
    ACC: tl.constexpr = entering.dtype.element_ty
    WHOLE: tl.constexpr = CHANNELS % BD == 0
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    batch = (tl.program_id(2) - order * batches).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    count = tl.minimum(CHUNK, length - start)
    block = tl.program_id(1).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = n0 + tl.arange(0, NB)
    inside = d < CHANNELS
    tile = tile_of(n, d, CHANNELS, WIDTH)
    row = sequence * length + start
    u += row * CHANNELS
    dt += row * CHANNELS
    bc += row * (2 * STATES)
    A += order * (STATES * CHANNELS)
    behind += batch * length * CHANNELS
    grad_u += row * CHANNELS + d
    grad_delta += row * CHANNELS + d
    grad_bc += (block * sequences * length + row) * (2 * STATES) + n

    A2 = load(A + tile, inside[None, :], WHOLE) * LOG2E
    D_d = tl.zeros([BD], ACC)
    if D is not None:
        D_d = parameter(D + order * CHANNELS, d, inside, BD, ACC)
    index = sequence * tl.num_programs(0) + tl.program_id(0)
    g = load(entering + index * (STATES * CHANNELS) + tile, inside[None, :], WHOLE)
    checkpoints += index * (CHUNK // 4) * (NB * CHANNELS) + (tile - n0 * CHANNELS)
    dA = tl.zeros([NB, BD], ACC)
    db = tl.zeros([BD], ACC)
    first, direction, slices, per = order_of(codes, order, length, n_slices)
    s, k = place(start + count - 1, slices)
    whole = count // 4 * 4
    for j in range(0, count - whole):
        i = count - 1 - j
        p = token(s, k, first, direction, per)
        s, k = back(s, k, slices)
        h = load(checkpoints + tl.cast(whole // 4, tl.int64) * (NB * CHANNELS), inside[None, :], WHOLE)
        for q in range(whole, i):
            _, h = step(h, one_row(u, q, d, inside, CHANNELS, WHOLE, ACC),
                        one_row(dt, q, d, inside, CHANNELS, WHOLE, ACC), A2, states_row(bc, q, n, STATES))  # fmt: skip
        u_i = one_row(u, i, d, inside, CHANNELS, WHOLE, ACC)
        t_i = one_row(dt, i, d, inside, CHANNELS, WHOLE, ACC)
        g, dA, db, grad_B, gu, gd = _adjoint_step(
            g, dA, db, tl.exp2(t_i[None, :] * A2) * h, u_i, t_i, load(behind + p * CHANNELS + d, inside, WHOLE), A2,
            D_d, states_row(bc, i, n, STATES), states_row(bc, i, STATES + n, STATES), SOFTPLUS, ACC,
        )  # fmt: skip
        at = tl.cast(i, tl.int64)
        tl.store(grad_bc + at * (2 * STATES), grad_B)
        _put_gradients(gu, gd, grad_u + at * CHANNELS, grad_delta + at * CHANNELS, inside, WHOLE, ADD)
    if whole > 0:
        u0, u1, u2, u3 = four_rows(u, whole - 4, d, inside, CHANNELS, WHOLE)
        t0, t1, t2, t3 = four_rows(dt, whole - 4, d, inside, CHANNELS, WHOLE)
        for j in range(0, whole // 4):
            i = whole - 4 - 4 * j
            h = load(checkpoints + tl.cast(i // 4, tl.int64) * (NB * CHANNELS), inside[None, :], WHOLE)
            p3 = token(s, k, first, direction, per)
            s, k = back(s, k, slices)
            p2 = token(s, k, first, direction, per)
            s, k = back(s, k, slices)
            p1 = token(s, k, first, direction, per)
            s, k = back(s, k, slices)
            p0 = token(s, k, first, direction, per)
            s, k = back(s, k, slices)
            b0 = load(behind + p0 * CHANNELS + d, inside, WHOLE)
            b1 = load(behind + p1 * CHANNELS + d, inside, WHOLE)
            b2 = load(behind + p2 * CHANNELS + d, inside, WHOLE)
            b3 = load(behind + p3 * CHANNELS + d, inside, WHOLE)
            following = tl.maximum(i - 4, 0)
            v0, v1, v2, v3 = four_rows(u, following, d, inside, CHANNELS, WHOLE)
            w0, w1, w2, w3 = four_rows(dt, following, d, inside, CHANNELS, WHOLE)
            d0, h = step(h, u0.to(ACC), t0, A2, states_row(bc, i, n, STATES))
            d1, h = step(h, u1.to(ACC), t1, A2, states_row(bc, i + 1, n, STATES))
            d2, h = step(h, u2.to(ACC), t2, A2, states_row(bc, i + 2, n, STATES))
            d3 = tl.exp2(t3[None, :] * A2) * h
            g, dA, db, e3, x3, y3 = _adjoint_step(
                g, dA, db, d3, u3.to(ACC), t3, b3, A2, D_d,
                states_row(bc, i + 3, n, STATES), states_row(bc, i + 3, STATES + n, STATES), SOFTPLUS, ACC,
            )  # fmt: skip
            g, dA, db, e2, x2, y2 = _adjoint_step(
                g, dA, db, d2, u2.to(ACC), t2, b2, A2, D_d,
                states_row(bc, i + 2, n, STATES), states_row(bc, i + 2, STATES + n, STATES), SOFTPLUS, ACC,
            )  # fmt: skip
            g, dA, db, e1, x1, y1 = _adjoint_step(
                g, dA, db, d1, u1.to(ACC), t1, b1, A2, D_d,
                states_row(bc, i + 1, n, STATES), states_row(bc, i + 1, STATES + n, STATES), SOFTPLUS, ACC,
            )  # fmt: skip
            g, dA, db, e0, x0, y0 = _adjoint_step(
                g, dA, db, d0, u0.to(ACC), t0, b0, A2, D_d,
                states_row(bc, i, n, STATES), states_row(bc, i, STATES + n, STATES), SOFTPLUS, ACC,
            )  # fmt: skip
            row_i = tl.cast(i, tl.int64)
            at = grad_bc + row_i * (2 * STATES)
            tl.store(at, e0)
            tl.store(at + 2 * STATES, e1)
            tl.store(at + 4 * STATES, e2)
            tl.store(at + 6 * STATES, e3)
            at_u = grad_u + row_i * CHANNELS
            at_d = grad_delta + row_i * CHANNELS
            _put_gradients(x0, y0, at_u, at_d, inside, WHOLE, ADD)
            _put_gradients(x1, y1, at_u + CHANNELS, at_d + CHANNELS, inside, WHOLE, ADD)
            _put_gradients(x2, y2, at_u + 2 * CHANNELS, at_d + 2 * CHANNELS, inside, WHOLE, ADD)
            _put_gradients(x3, y3, at_u + 3 * CHANNELS, at_d + 3 * CHANNELS, inside, WHOLE, ADD)
            u0, u1, u2, u3 = v0, v1, v2, v3
            t0, t1, t2, t3 = w0, w1, w2, w3

    store(grad_A + index * (STATES * CHANNELS) + tile, dA, inside[None, :], WHOLE)
    if ADD:
        db += load(grad_bias + index * CHANNELS + d, inside, WHOLE)
    store(grad_bias + index * CHANNELS + d, db, inside, WHOLE)
