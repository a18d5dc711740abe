"""Compiled loops of the CPU backend. Everything is channel-last: a row is one token, the inner loop runs over channels.

Shapes: rows = b*l tokens in natural order, e channels, n states, r rank of dt, w taps, c chunks, s segments of chunks.
A task is one (batch, block of channels, segment) and walks its steps in order, so results do not depend on which thread
runs it. Scans compute with vectors of channels (`numba_vectors.py`); the last vector of a block is filled up with
zeros. Loops over channels are vectorised by the compiler; their `exp` is a polynomial in float32, because numba's own
does not vectorise. Only 'contract' is allowed: NaN and inf behave as usual.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from nnunet_mamba.ops.kernels import numba_vectors as vectors
from nnunet_mamba.ops.kernels.numba_vectors import LANES, LOG2_E, exp2, load, spread, store, totals

FORWARD, REVERSE, INTER_SLICE = 0, 1, 2
SCALAR = {"forceinline": True, "fastmath": {"contract"}}
# array helpers are inlined by numba, before vectorisation; calls with arrays would prevent it
ARRAY = {"inline": "always"}
# those outside the loops over tokens are called: a copy of each in every kernel took a third of their compilation
CALLED = {"error_model": "numpy"}


P0, P1, P2, P3, P4, P5, P6 = (np.float32(c) for c in vectors.EXP2[types.float32])
Q0, Q1, Q2, Q3, Q4, Q5, Q6, Q7, Q8, Q9 = (np.float32(c) for c in vectors.LOG1P[types.float32])
F_LOW, F_HIGH, F_ROUND, F_ONE, F_ZERO = (np.float32(v) for v in (-126, 128, 1.5 * 2**23, 1, 0))
F_LOG2_E = np.float32(LOG2_E)


@intrinsic
def _float_of_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _bits_of_float(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


def _exp2(x):
    """2**x"""
    raise NotImplementedError


def _softplus(x):
    """log(1 + exp(x))"""
    raise NotImplementedError


def _sigmoid(x):
    """1 / (1 + exp(-x))"""
    raise NotImplementedError


@overload(_exp2, jit_options=SCALAR)
def _(x):
    if x == types.float32:

        def single(x):
            # comparisons are false for NaN, which therefore passes through
            x = F_LOW if x < F_LOW else x
            x = F_HIGH if x > F_HIGH else x
            shifted = x + F_ROUND  # rounds x to a whole number and leaves it in the lowest bits
            f = x - (shifted - F_ROUND)
            p = P0 + f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * P6)))))
            return p * _float_of_bits(np.int32((_bits_of_float(shifted) + np.int32(127)) << np.int32(23)))

        return single

    def double(x):
        return math.exp(x / LOG2_E)

    return double


@overload(_softplus, jit_options=SCALAR)
def _(x):
    if x == types.float32:

        def single(x):
            v = _exp2(-abs(x) * F_LOG2_E)
            q = Q5 + v * (Q6 + v * (Q7 + v * (Q8 + v * Q9)))
            tail = v * (Q0 + v * (Q1 + v * (Q2 + v * (Q3 + v * (Q4 + v * q)))))
            return (x if x > F_ZERO else F_ZERO) + tail

        return single

    def double(x):
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    return double


@overload(_sigmoid, jit_options=SCALAR)
def _(x):
    if x == types.float32:

        def single(x):
            return F_ONE / (F_ONE + _exp2(-x * F_LOG2_E))

        return single

    def double(x):
        return 1.0 / (1.0 + math.exp(-x))

    return double


@numba.njit(**ARRAY)
def _row(t, length, order, n_slices):
    """Token that scan step t reads"""
    if order == FORWARD:
        return t
    if order == REVERSE:
        return length - 1 - t
    return (t % n_slices) * (length // n_slices) + t // n_slices


@numba.njit(**ARRAY)
def _step_of(p, length, order, n_slices):
    """Scan step that reads token p: the inverse of `_row`"""
    if order == FORWARD:
        return p
    if order == REVERSE:
        return length - 1 - p
    size = length // n_slices
    return (p % size) * n_slices + p // size


@numba.njit(**ARRAY)
def _token(b, t, length, order, n_slices):
    """Row of scan step t of sample b. Unsigned: a signed index could count from the end, which costs a test per use."""
    return np.uintp(b * length + _row(t, length, order, n_slices))


@numba.njit(**ARRAY)
def _task(k, n_blocks, n_segments):
    """Task number -> batch, block of channels, segment"""
    segment = k % n_segments
    rest = k // n_segments
    return rest // n_blocks, rest % n_blocks, segment


@numba.njit(**CALLED)
def _vectors(values, start, stop, n_vectors):
    """values (k e) -> (n_vectors k LANES), the channels from start to stop and zeros"""
    block = np.zeros((n_vectors, values.shape[0], LANES), values.dtype)
    for j in range(values.shape[0]):
        for c in range(stop - start):
            block[c // LANES, j, c % LANES] = values[j, start + c]
    return block


@numba.njit(**CALLED)
def _channels(block, values, start, stop):
    """values (k e), the channels from start to stop, become those of block (n_vectors k LANES)"""
    for j in range(values.shape[0]):
        for c in range(stop - start):
            values[j, start + c] = block[c // LANES, j, c % LANES]


@numba.njit(**ARRAY)
def _copy(source, at, target, to, count):
    """Neighbours of a contiguous array to another, both by flat index"""
    for j in range(count // LANES):
        store(target, to + j * LANES, load(source, at + j * LANES))
    for j in range(count // LANES * LANES, count):
        target.ravel()[to + j] = source.ravel()[at + j]


@numba.njit(**ARRAY)
def _add(source, at, target, to, count):
    """The same, added to what is there"""
    for j in range(count // LANES):
        store(target, to + j * LANES, load(target, to + j * LANES) + load(source, at + j * LANES))
    for j in range(count // LANES * LANES, count):
        target.ravel()[to + j] += source.ravel()[at + j]


@numba.njit(**ARRAY)
def _gather(b, t, tokens, length, order, n_slices, start, stop, values, given, proj, rows, block, raw, into_out):
    """What a walk reads of `tokens` steps from t on: rows, values and given steps of the block's channels, B | C

    A walk that waits for memory at every token cannot read ahead, and the inter-slice order jumps far from each token
    to the next; and a row's channels lie together in memory.
    """
    channels = np.uintp(values.shape[1])
    columns = np.uintp(proj.shape[1])
    size = into_out.shape[1]
    room = block.shape[1] * LANES
    for i in range(tokens):
        row = _token(b, t + i, length, order, n_slices)
        rows[i] = row
        _copy(proj, row * columns + columns - np.uintp(size), into_out, i * size, size)
        _copy(values, row * channels + np.uintp(start), block, i * room, stop - start)
        if given.shape[1] > 0:
            _copy(given, row * channels + np.uintp(start), raw, i * room, stop - start)


@numba.njit(**ARRAY)
def _raw_step(raw, token, given, proj, row, dt_proj, bias, v):
    """Steps before softplus of one token and vector of channels; dt_proj (vectors r LANES), bias (vectors 1 LANES)"""
    step = load(bias, v * LANES)
    if given.shape[1] > 0:  # gathered
        step = step + load(raw, token)
    else:
        rank = dt_proj.shape[1]
        for j in range(rank):
            step = step + load(dt_proj, (v * rank + j) * LANES) * spread(proj[row, j])
    return step


def scan_forward(
    u, given, proj, dt_proj, dt_bias, softplus, A2, D, order, n_slices, chunk, sub, width, n_segments, states, y
):
    """y[row] += scan + D u; states (b c n e) at chunk starts

    u, given, y (rows e); proj (rows r+2n) holds low | B | C; dt_proj (r e); dt_bias, D (e); A2 (n e) = A log2(e);
    `given` has no columns if the steps are computed. With several segments, states already holds each segment's start
    at its first chunk. Tokens are gathered `sub` at a time.
    """
    batch, chunks, n_state, channels = states.shape
    length = u.shape[0] // max(1, batch)
    n_blocks = (channels + width - 1) // width
    n_vectors = (width + LANES - 1) // LANES
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        start = block * width
        stop = min(channels, start + width)
        first = segment * chunks // n_segments
        last = (segment + 1) * chunks // n_segments
        h = _vectors(states[b, first], start, stop, n_vectors)
        a2 = _vectors(A2, start, stop, n_vectors)
        weight = _vectors(dt_proj, start, stop, n_vectors)
        bias = _vectors(dt_bias.reshape(1, channels), start, stop, n_vectors)
        skip = _vectors(D.reshape(1, channels), start, stop, n_vectors)
        rows = np.empty(sub, np.uintp)
        into_out = np.empty((sub, 2 * n_state), u.dtype)
        xs = np.zeros((sub, n_vectors, LANES), u.dtype)  # results take their places
        raw = np.zeros((sub, n_vectors, LANES), u.dtype)
        ds = np.empty((sub, LANES), u.dtype)
        for q in range(first, last):
            _channels(h, states[b, q], start, stop)
            end = min(length, (q + 1) * chunk)
            for low in range(q * chunk, end, sub):
                steps = min(sub, end - low)
                _gather(b, low, steps, length, order, n_slices, start, stop, u, given, proj, rows, xs, raw, into_out)
                for v in range(n_vectors):
                    for i in range(steps):
                        step = _raw_step(raw, (i * n_vectors + v) * LANES, given, proj, rows[i], weight, bias, v)
                        store(ds, i * LANES, vectors.softplus(step) if softplus else step)
                    for i in range(steps):
                        token = (i * n_vectors + v) * LANES
                        step = load(ds, i * LANES)
                        x = load(xs, token)
                        du = step * x
                        acc = load(skip, v * LANES) * x
                        for n in range(n_state):
                            at = (v * n_state + n) * LANES
                            state = exp2(step * load(a2, at)) * load(h, at) + du * spread(into_out[i, n])
                            store(h, at, state)
                            acc = acc + spread(into_out[i, n_state + n]) * state
                        store(xs, token, acc)
                for i in range(steps):
                    at = rows[i] * np.uintp(channels) + np.uintp(start)
                    _add(xs, i * n_vectors * LANES, y, at, stop - start)


def segment_ends(
    u, given, proj, dt_proj, dt_bias, softplus, A2, order, n_slices, chunk, sub, width, n_segments, ends, sums
):
    """State at each segment's end when it starts from zero: ends (b s n e); sum of its steps: sums (b s e)"""
    batch, _, n_state, channels = ends.shape
    length = u.shape[0] // max(1, batch)
    chunks = (length + chunk - 1) // chunk
    n_blocks = (channels + width - 1) // width
    n_vectors = (width + LANES - 1) // LANES
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        start = block * width
        stop = min(channels, start + width)
        h = np.zeros((n_vectors, n_state, LANES), u.dtype)
        total = np.zeros((n_vectors, 1, LANES), u.dtype)
        a2 = _vectors(A2, start, stop, n_vectors)
        weight = _vectors(dt_proj, start, stop, n_vectors)
        bias = _vectors(dt_bias.reshape(1, channels), start, stop, n_vectors)
        rows = np.empty(sub, np.uintp)
        into_out = np.empty((sub, 2 * n_state), u.dtype)
        xs = np.zeros((sub, n_vectors, LANES), u.dtype)
        raw = np.zeros((sub, n_vectors, LANES), u.dtype)
        end = min(length, ((segment + 1) * chunks // n_segments) * chunk)
        for low in range((segment * chunks // n_segments) * chunk, end, sub):
            steps = min(sub, end - low)
            _gather(b, low, steps, length, order, n_slices, start, stop, u, given, proj, rows, xs, raw, into_out)
            for v in range(n_vectors):
                for i in range(steps):
                    token = (i * n_vectors + v) * LANES
                    step = _raw_step(raw, token, given, proj, rows[i], weight, bias, v)
                    step = vectors.softplus(step) if softplus else step
                    store(total, v * LANES, load(total, v * LANES) + step)
                    du = step * load(xs, token)
                    for n in range(n_state):
                        at = (v * n_state + n) * LANES
                        store(h, at, exp2(step * load(a2, at)) * load(h, at) + du * spread(into_out[i, n]))
        _channels(h, ends[b, segment], start, stop)
        _channels(total, sums[b, segment].reshape(1, channels), start, stop)


def segment_adjoints(
    grad_y, given, proj, dt_proj, dt_bias, softplus, A2, order, n_slices, chunk, sub, width, n_segments, starts, sums
):
    """Decayed adjoint before each segment if nothing follows it: starts (b s n e); sum of its steps: sums (b s e)"""
    batch, _, n_state, channels = starts.shape
    length = grad_y.shape[0] // max(1, batch)
    chunks = (length + chunk - 1) // chunk
    n_blocks = (channels + width - 1) // width
    n_vectors = (width + LANES - 1) // LANES
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        start = block * width
        stop = min(channels, start + width)
        g = np.zeros((n_vectors, n_state, LANES), grad_y.dtype)
        total = np.zeros((n_vectors, 1, LANES), grad_y.dtype)
        a2 = _vectors(A2, start, stop, n_vectors)
        weight = _vectors(dt_proj, start, stop, n_vectors)
        bias = _vectors(dt_bias.reshape(1, channels), start, stop, n_vectors)
        rows = np.empty(sub, np.uintp)
        into_out = np.empty((sub, 2 * n_state), grad_y.dtype)
        gys = np.zeros((sub, n_vectors, LANES), grad_y.dtype)
        raw = np.zeros((sub, n_vectors, LANES), grad_y.dtype)
        begin = (segment * chunks // n_segments) * chunk
        end = min(length, ((segment + 1) * chunks // n_segments) * chunk)
        for m in range((end - begin + sub - 1) // sub - 1, -1, -1):
            low = begin + m * sub
            steps = min(sub, end - low)
            _gather(b, low, steps, length, order, n_slices, start, stop, grad_y, given, proj, rows, gys, raw, into_out)
            for v in range(n_vectors):
                for i in range(steps - 1, -1, -1):
                    token = (i * n_vectors + v) * LANES
                    step = _raw_step(raw, token, given, proj, rows[i], weight, bias, v)
                    step = vectors.softplus(step) if softplus else step
                    store(total, v * LANES, load(total, v * LANES) + step)
                    gy = load(gys, token)
                    for n in range(n_state):
                        at = (v * n_state + n) * LANES
                        adjoint = load(g, at) + spread(into_out[i, n_state + n]) * gy
                        store(g, at, exp2(step * load(a2, at)) * adjoint)
        _channels(g, starts[b, segment], start, stop)
        _channels(total, sums[b, segment].reshape(1, channels), start, stop)


def scan_backward(
    grad_y, u, given, proj, dt_proj, dt_bias, softplus, A2, D, order, n_slices, chunk, sub, width, n_segments, states,
    after, y, grad_u, grad_dt, grad_BC, grad_A2, grad_D, grad_dt_bias,
):  # fmt: skip
    """Gradients of one scan; y[row] += scan + D u once more

    grad_y, u, y, grad_u, grad_dt (rows e); after (b s n e): decayed adjoint of what follows each segment;
    grad_BC (blocks rows 2n): B | C, one part per channel block; grad_A2 (b s n e), grad_D, grad_dt_bias (b s e): one
    part per task. grad_dt is that of the step before softplus.
    A chunk's decays are computed once and kept (they fit the second cache); its states are recomputed in two levels,
    from the chunk start to every `sub` steps and from there to every step (those fit the first).
    """
    batch, chunks, n_state, channels = states.shape
    length = u.shape[0] // max(1, batch)
    n_blocks = (channels + width - 1) // width
    n_vectors = (width + LANES - 1) // LANES
    ln2 = u.dtype.type(1 / LOG2_E)
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        start = block * width
        stop = min(channels, start + width)
        a2 = _vectors(A2, start, stop, n_vectors)
        weight = _vectors(dt_proj, start, stop, n_vectors)
        bias = _vectors(dt_bias.reshape(1, channels), start, stop, n_vectors)
        skip = _vectors(D.reshape(1, channels), start, stop, n_vectors)
        g = _vectors(after[b, segment], start, stop, n_vectors)
        g_A = np.zeros((n_vectors, n_state, LANES), u.dtype)
        g_D = np.zeros((n_vectors, 1, LANES), u.dtype)
        g_bias = np.zeros((n_vectors, 1, LANES), u.dtype)
        rows = np.empty(chunk, np.uintp)
        into_out = np.empty((chunk, 2 * n_state), u.dtype)
        g_BC = np.empty((chunk, 2 * n_state), u.dtype)
        xs = np.zeros((chunk, n_vectors, LANES), u.dtype)  # in the end the gradient of u,
        gys = np.zeros((chunk, n_vectors, LANES), u.dtype)  # y,
        raw = np.zeros((chunk, n_vectors, LANES), u.dtype)  # and the gradient of the step
        ds = np.empty((chunk, LANES), u.dtype)
        decays = np.empty((chunk, n_state, LANES), u.dtype)
        marks = np.empty(((chunk + sub - 1) // sub, n_state, LANES), u.dtype)
        hs = np.empty((sub + 1, n_state, LANES), u.dtype)
        accs = np.empty((sub, LANES), u.dtype)
        zeros = np.zeros(LANES, u.dtype)
        for q in range((segment + 1) * chunks // n_segments - 1, segment * chunks // n_segments - 1, -1):
            begin = q * chunk
            tokens = min(length, begin + chunk) - begin
            _gather(b, begin, tokens, length, order, n_slices, start, stop, u, given, proj, rows, xs, raw, into_out)
            for i in range(tokens):
                at = rows[i] * np.uintp(channels) + np.uintp(start)
                _copy(grad_y, at, gys, i * n_vectors * LANES, stop - start)
            h = _vectors(states[b, q], start, stop, n_vectors)
            g_BC[:] = 0
            for v in range(n_vectors):
                for i in range(tokens):
                    token = (i * n_vectors + v) * LANES
                    step = _raw_step(raw, token, given, proj, rows[i], weight, bias, v)
                    store(raw, token, step)
                    store(ds, i * LANES, vectors.softplus(step) if softplus else step)
                for i in range(tokens):
                    if i % sub == 0:
                        marks[i // sub] = h[v]
                    step = load(ds, i * LANES)
                    du = step * load(xs, (i * n_vectors + v) * LANES)
                    for n in range(n_state):
                        at = (v * n_state + n) * LANES
                        decay = exp2(step * load(a2, at))
                        store(decays, (i * n_state + n) * LANES, decay)
                        store(h, at, decay * load(h, at) + du * spread(into_out[i, n]))
                for m in range((tokens + sub - 1) // sub - 1, -1, -1):
                    low = m * sub
                    steps = min(sub, tokens - low)
                    hs[0] = marks[m]
                    for s in range(steps):
                        i = low + s
                        x = load(xs, (i * n_vectors + v) * LANES)
                        du = load(ds, i * LANES) * x
                        acc = load(skip, v * LANES) * x
                        for n in range(n_state):
                            decay = load(decays, (i * n_state + n) * LANES)
                            state = decay * load(hs, (s * n_state + n) * LANES) + du * spread(into_out[i, n])
                            store(hs, ((s + 1) * n_state + n) * LANES, state)
                            acc = acc + spread(into_out[i, n_state + n]) * state
                        store(accs, s * LANES, acc)
                    for s in range(steps - 1, -1, -1):
                        i = low + s
                        token = (i * n_vectors + v) * LANES
                        step = load(ds, i * LANES)
                        x = load(xs, token)
                        gy = load(gys, token)
                        du = step * x
                        gu = load(zeros, 0)
                        gd = load(zeros, 0)
                        for n in range(n_state):
                            at = (v * n_state + n) * LANES
                            adjoint = load(g, at) + spread(into_out[i, n_state + n]) * gy
                            decayed = load(decays, (i * n_state + n) * LANES) * adjoint
                            into_exponent = decayed * load(hs, (s * n_state + n) * LANES)
                            store(g, at, decayed)
                            gd = gd + into_exponent * load(a2, at)
                            store(g_A, at, load(g_A, at) + into_exponent * step)
                            gu = gu + adjoint * spread(into_out[i, n])
                            to_B, to_C = totals(adjoint * du, gy * load(hs, ((s + 1) * n_state + n) * LANES))
                            g_BC[i, n] += to_B
                            g_BC[i, n_state + n] += to_C
                        to_step = gd * spread(ln2) + gu * x
                        if softplus:
                            to_step = to_step * vectors.sigmoid(load(raw, token))
                        store(g_D, v * LANES, load(g_D, v * LANES) + gy * x)
                        store(g_bias, v * LANES, load(g_bias, v * LANES) + to_step)
                        store(raw, token, to_step)
                        store(xs, token, gu * step + load(skip, v * LANES) * gy)
                        store(gys, token, load(accs, s * LANES))
            for i in range(tokens):
                row = rows[i]
                at = row * np.uintp(channels) + np.uintp(start)
                _copy(raw, i * n_vectors * LANES, grad_dt, at, stop - start)
                _copy(xs, i * n_vectors * LANES, grad_u, at, stop - start)
                _add(gys, i * n_vectors * LANES, y, at, stop - start)
                for j in range(2 * n_state):
                    grad_BC[block, row, j] = g_BC[i, j]
        _channels(g_A, grad_A2[b, segment], start, stop)
        _channels(g_D, grad_D[b, segment].reshape(1, channels), start, stop)
        _channels(g_bias, grad_dt_bias[b, segment].reshape(1, channels), start, stop)


def convolve(x, x0, weight, bias, order, n_slices, batch, tile, silu, y):
    """y[row] = act(sum of taps back in scan order + bias); x (rows ...) from column x0, weight (w e), bias (e)

    Convolutions walk tokens as they lie in memory, whatever the order: the taps then are a few sequential streams.
    """
    channels = weight.shape[1]
    length = y.shape[0] // max(1, batch)
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        acc = np.empty(channels, y.dtype)
        for p in range(start, min(length, start + tile)):
            _taps(x, x0, weight, bias, order, n_slices, b, length, _step_of(p, length, order, n_slices), acc)
            row = np.uintp(b * length + p)
            if silu:
                for c in range(channels):
                    y[row, c] = acc[c] * _sigmoid(acc[c])
            else:
                for c in range(channels):
                    y[row, c] = acc[c]


@numba.njit(**ARRAY)
def _taps(x, x0, weight, bias, order, n_slices, b, length, t, acc):
    """Convolution result of one scan step before the activation"""
    taps, channels = weight.shape
    if taps == 4 and t >= 3:  # the usual width, in one pass
        r0 = _token(b, t - 3, length, order, n_slices)
        r1 = _token(b, t - 2, length, order, n_slices)
        r2 = _token(b, t - 1, length, order, n_slices)
        r3 = _token(b, t, length, order, n_slices)
        for c in range(channels):
            early = weight[0, c] * x[r0, x0 + c] + weight[1, c] * x[r1, x0 + c]
            late = weight[2, c] * x[r2, x0 + c] + weight[3, c] * x[r3, x0 + c]
            acc[c] = bias[c] + early + late
    else:
        for c in range(channels):
            acc[c] = bias[c]
        for j in range(taps):
            source = t - taps + 1 + j
            if source >= 0:
                row = _token(b, source, length, order, n_slices)
                for c in range(channels):
                    acc[c] += weight[j, c] * x[row, x0 + c]


def convolve_backward_activation(x, x0, weight, bias, order, n_slices, batch, tile, grad):
    """grad[row] *= silu'(convolution), recomputing the convolution"""
    channels = weight.shape[1]
    length = grad.shape[0] // max(1, batch)
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        acc = np.empty(channels, grad.dtype)
        for p in range(start, min(length, start + tile)):
            _taps(x, x0, weight, bias, order, n_slices, b, length, _step_of(p, length, order, n_slices), acc)
            row = np.uintp(b * length + p)
            for c in range(channels):
                s = _sigmoid(acc[c])
                grad[row, c] *= s * (1 + acc[c] * (1 - s))


def convolve_backward(grad, x, x0, weight, order, n_slices, batch, tile, grad_x, grad_weight, grad_bias):
    """grad_x[row] += taps of later steps; grad_weight (tasks w e), grad_bias (tasks e): one part per tile"""
    taps, channels = weight.shape
    length = grad.shape[0] // max(1, batch)
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        g_w = np.zeros((taps, channels), grad.dtype)
        g_b = np.zeros(channels, grad.dtype)
        for p in range(start, min(length, start + tile)):
            t = _step_of(p, length, order, n_slices)
            row = np.uintp(b * length + p)
            if taps == 4 and t >= 3 and t + 3 < length:  # the usual width, in one pass
                s0 = _token(b, t - 3, length, order, n_slices)
                s1 = _token(b, t - 2, length, order, n_slices)
                s2 = _token(b, t - 1, length, order, n_slices)
                l0 = _token(b, t + 3, length, order, n_slices)
                l1 = _token(b, t + 2, length, order, n_slices)
                l2 = _token(b, t + 1, length, order, n_slices)
                for c in range(channels):
                    g = grad[row, c]
                    g_b[c] += g
                    g_w[0, c] += g * x[s0, x0 + c]
                    g_w[1, c] += g * x[s1, x0 + c]
                    g_w[2, c] += g * x[s2, x0 + c]
                    g_w[3, c] += g * x[row, x0 + c]
                for c in range(channels):
                    late = weight[0, c] * grad[l0, c] + weight[1, c] * grad[l1, c]
                    grad_x[row, c] += late + weight[2, c] * grad[l2, c] + weight[3, c] * grad[row, c]
                continue
            for c in range(channels):
                g_b[c] += grad[row, c]
            for j in range(taps):
                later = t + taps - 1 - j
                if later < length:
                    other = _token(b, later, length, order, n_slices)
                    for c in range(channels):
                        grad_x[row, c] += weight[j, c] * grad[other, c]
                source = t - taps + 1 + j
                if source >= 0:
                    other = _token(b, source, length, order, n_slices)
                    for c in range(channels):
                        g_w[j, c] += grad[row, c] * x[other, x0 + c]
        grad_weight[k] = g_w
        grad_bias[k] = g_b


def products(a, b, tile, parts):
    """parts (tiles i j) = a^T b over each tile of rows; a (rows i), b (rows j)

    BLAS would be faster but adds rows up in an order that depends on its threads.
    """
    rows, left = a.shape
    right = b.shape[1]
    for k in numba.prange(parts.shape[0]):
        acc = np.zeros((left, right), a.dtype)
        start = k * tile
        stop = min(rows, start + tile)
        for row in range(start, stop - 3, 4):
            for i in range(left):
                a0, a1, a2, a3 = a[row, i], a[row + 1, i], a[row + 2, i], a[row + 3, i]
                for j in range(right):
                    acc[i, j] += (a0 * b[row, j] + a1 * b[row + 1, j]) + (a2 * b[row + 2, j] + a3 * b[row + 3, j])
        for row in range(start + (stop - start) // 4 * 4, stop):
            for i in range(left):
                a0 = a[row, i]
                for j in range(right):
                    acc[i, j] += a0 * b[row, j]
        parts[k] = acc


def gate(y, z, z0, tile):
    """y[row] *= silu(z[row]); z (rows ...) from column z0"""
    rows, channels = y.shape
    for k in numba.prange((rows + tile - 1) // tile):
        for row in range(k * tile, min(rows, (k + 1) * tile)):
            for c in range(channels):
                v = z[row, z0 + c]
                y[row, c] *= v * _sigmoid(v)


def ungate(grad_y, z, z0, tile, ungated):
    """ungated[row] = grad_y[row] * silu(z[row])"""
    rows, channels = ungated.shape
    for k in numba.prange((rows + tile - 1) // tile):
        for row in range(k * tile, min(rows, (k + 1) * tile)):
            for c in range(channels):
                v = z[row, z0 + c]
                ungated[row, c] = grad_y[row, c] * v * _sigmoid(v)


def gate_backward(grad_y, z, z0, tile, y):
    """y[row] = gradient of z: grad_y * y * silu'(z)"""
    rows, channels = y.shape
    for k in numba.prange((rows + tile - 1) // tile):
        for row in range(k * tile, min(rows, (k + 1) * tile)):
            for c in range(channels):
                v = z[row, z0 + c]
                s = _sigmoid(v)
                y[row, c] *= grad_y[row, c] * s * (1 + v * (1 - s))


def to_rows(x, tile, rows):
    """x (b d l) -> rows (b*l d), a tile of both axes at a time"""
    batch, channels, length = x.shape
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        stop = min(length, start + tile)
        for c0 in range(0, channels, 16):
            for t in range(start, stop):
                for c in range(c0, min(channels, c0 + 16)):
                    rows[np.uintp(b * length + t), c] = x[b, c, t]


def to_rows_gated(x, z, tile, rows):
    """x * silu(z) (b d l) -> rows (b*l d)"""
    batch, channels, length = x.shape
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        stop = min(length, start + tile)
        gated = np.empty((16, tile), rows.dtype)
        for c0 in range(0, channels, 16):
            width = min(16, channels - c0)
            for c in range(width):
                for t in range(stop - start):
                    v = z[b, c0 + c, start + t]
                    gated[c, t] = x[b, c0 + c, start + t] * v * _sigmoid(v)
            for t in range(stop - start):
                for c in range(width):
                    rows[np.uintp(b * length + start + t), c0 + c] = gated[c, t]


def to_channels(rows, tile, x):
    """rows (b*l d) -> x (b d l), a tile of both axes at a time"""
    batch, channels, length = x.shape
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        stop = min(length, start + tile)
        for c0 in range(0, channels, 16):
            for c in range(c0, min(channels, c0 + 16)):
                for t in range(start, stop):
                    x[b, c, t] = rows[np.uintp(b * length + t), c]


def to_channels_gated(rows, z, tile, x):
    """rows (b*l d) -> x (b d l) times silu(z)"""
    batch, channels, length = x.shape
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        stop = min(length, start + tile)
        for c0 in range(0, channels, 16):
            for c in range(c0, min(channels, c0 + 16)):
                for t in range(start, stop):
                    x[b, c, t] = rows[np.uintp(b * length + t), c]
                for t in range(start, stop):
                    v = z[b, c, t]
                    x[b, c, t] *= v * _sigmoid(v)


def gate_gradient(rows, grad, z, tile, x):
    """x (b d l) = gradient of the gate: grad * rows * silu'(z)"""
    batch, channels, length = x.shape
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        stop = min(length, start + tile)
        for c0 in range(0, channels, 16):
            for c in range(c0, min(channels, c0 + 16)):
                for t in range(start, stop):
                    x[b, c, t] = rows[np.uintp(b * length + t), c]
                for t in range(start, stop):
                    v = z[b, c, t]
                    s = _sigmoid(v)
                    x[b, c, t] *= grad[b, c, t] * s * (1 + v * (1 - s))
