"""Compiled loops of the CPU backend. Everything is channel-last: a row is one token, the inner loop runs over channels.

Shapes: rows = b*l tokens in natural order, e channels, n states, r rank of dt, w taps, c chunks, s segments of chunks.
A task is one (batch, block of channels, segment) and walks its steps in order, so results do not depend on which thread
runs it. `exp` is a polynomial in float32 (relative error 1e-7) because numba's own does not vectorise; float64 uses the
library function. Only 'contract' and, for sums over channels, 'reassoc' are allowed: NaN and inf behave as usual.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

FORWARD, REVERSE, INTER_SLICE = 0, 1, 2
LOG2_E = 1 / math.log(2)
SCALAR = {"forceinline": True, "fastmath": {"contract"}}
# array helpers are inlined by numba, before vectorisation; calls with arrays would prevent it
ARRAY = {"inline": "always"}


def _polynomial(function, degree: int, low: float, high: float) -> list[np.float32]:
    chebyshev = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, [low, high])
    return [np.float32(c) for c in chebyshev.convert(kind=np.polynomial.Polynomial).coef]


# a systematic error of the decay adds up over a scan's memory: degree 5, good to 8e-8, made results 20 times worse
P0, P1, P2, P3, P4, P5, P6 = _polynomial(np.exp2, 6, -0.5, 0.5)
# log1p(v) / v on [0, 1]
Q0, Q1, Q2, Q3, Q4, Q5, Q6, Q7, Q8, Q9 = _polynomial(
    lambda v: np.where(v > 1e-12, np.log1p(v) / np.maximum(v, 1e-12), 1.0), 9, 0.0, 1.0
)
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
def _raw_step(given, proj, dt_proj, dt_bias, row, c0, d):
    """Step size before softplus of one token (d: channels of the block); `given` has no columns if it is computed"""
    if given.shape[1] > 0:
        for c in range(d.shape[0]):
            d[c] = given[row, c0 + c] + dt_bias[c0 + c]
    else:
        for c in range(d.shape[0]):
            d[c] = dt_bias[c0 + c]
        for j in range(dt_proj.shape[0]):
            low = proj[row, j]
            for c in range(d.shape[0]):
                d[c] += dt_proj[j, c0 + c] * low


@numba.njit(**ARRAY)
def _step_size(given, proj, dt_proj, dt_bias, softplus, row, c0, d):
    _raw_step(given, proj, dt_proj, dt_bias, row, c0, d)
    if softplus:
        for c in range(d.shape[0]):
            d[c] = _softplus(d[c])


@numba.njit(**ARRAY)
def _task(k, n_blocks, n_segments):
    """Task number -> batch, block of channels, segment"""
    segment = k % n_segments
    rest = k // n_segments
    return rest // n_blocks, rest % n_blocks, segment


def scan_forward(
    u, given, proj, dt_proj, dt_bias, softplus, A2, D, order, n_slices, chunk, sub, width, n_segments, states, y
):
    """y[row] += scan + D u; states (b c n e) at chunk starts

    u, given, y (rows e); proj (rows r+2n) holds low | B | C; dt_proj (r e); dt_bias, D (e); A2 (n e) = A log2(e).
    With several segments, states already holds each segment's start at its first chunk.
    Tokens are gathered `sub` at a time before they are walked: a walk that waits for memory at every token cannot
    read ahead, and the inter-slice order jumps far from each token to the next.
    """
    batch, chunks, n_state, channels = states.shape
    length = u.shape[0] // max(1, batch)
    rank = proj.shape[1] - 2 * n_state
    n_blocks = (channels + width - 1) // width
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        c0 = block * width
        size = min(width, channels - c0)
        first = segment * chunks // n_segments
        last = (segment + 1) * chunks // n_segments
        h = states[b, first, :, c0 : c0 + size].copy()
        a2 = A2[:, c0 : c0 + size].copy()
        skip = D[c0 : c0 + size].copy()
        rows = np.empty(sub, np.uintp)
        d = np.empty(size, u.dtype)
        ds = np.empty((sub, size), u.dtype)
        dus = np.empty((sub, size), u.dtype)
        accs = np.empty((sub, size), u.dtype)
        into_out = np.empty((sub, 2 * n_state), u.dtype)
        for q in range(first, last):
            for n in range(n_state):
                for c in range(size):
                    states[b, q, n, c0 + c] = h[n, c]
            end = min(length, (q + 1) * chunk)
            for low in range(q * chunk, end, sub):
                steps = min(sub, end - low)
                for i in range(steps):
                    row = _token(b, low + i, length, order, n_slices)
                    rows[i] = row
                    _step_size(given, proj, dt_proj, dt_bias, softplus, row, c0, d)
                    for c in range(size):
                        x = u[row, c0 + c]
                        ds[i, c] = d[c]
                        dus[i, c] = d[c] * x
                        accs[i, c] = skip[c] * x
                    for j in range(2 * n_state):
                        into_out[i, j] = proj[row, rank + j]
                for i in range(steps):
                    for n in range(n_state):
                        into = into_out[i, n]
                        out = into_out[i, n_state + n]
                        for c in range(size):
                            state = _exp2(ds[i, c] * a2[n, c]) * h[n, c] + dus[i, c] * into
                            h[n, c] = state
                            accs[i, c] += out * state
                for i in range(steps):
                    for c in range(size):
                        y[rows[i], c0 + c] += accs[i, c]


def segment_ends(
    u, given, proj, dt_proj, dt_bias, softplus, A2, order, n_slices, chunk, width, n_segments, ends, steps
):
    """State at each segment's end when it starts from zero: ends (b s n e); sum of its steps: steps (b s e)"""
    batch, _, n_state, channels = ends.shape
    length = u.shape[0] // max(1, batch)
    chunks = (length + chunk - 1) // chunk
    rank = proj.shape[1] - 2 * n_state
    n_blocks = (channels + width - 1) // width
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        c0 = block * width
        size = min(width, channels - c0)
        start = (segment * chunks // n_segments) * chunk
        stop = min(length, ((segment + 1) * chunks // n_segments) * chunk)
        h = np.zeros((n_state, size), u.dtype)
        a2 = A2[:, c0 : c0 + size].copy()
        d = np.empty(size, u.dtype)
        du = np.empty(size, u.dtype)
        total = np.zeros(size, u.dtype)
        for t in range(start, stop):
            row = _token(b, t, length, order, n_slices)
            _step_size(given, proj, dt_proj, dt_bias, softplus, row, c0, d)
            for c in range(size):
                du[c] = d[c] * u[row, c0 + c]
                total[c] += d[c]
            for n in range(n_state):
                into = proj[row, rank + n]
                for c in range(size):
                    h[n, c] = _exp2(d[c] * a2[n, c]) * h[n, c] + du[c] * into
        for c in range(size):
            steps[b, segment, c0 + c] = total[c]
            for n in range(n_state):
                ends[b, segment, n, c0 + c] = h[n, c]


def segment_adjoints(
    grad_y, given, proj, dt_proj, dt_bias, softplus, A2, order, n_slices, chunk, width, n_segments, starts, steps
):
    """Decayed adjoint before each segment if nothing follows it: starts (b s n e); sum of its steps: steps (b s e)"""
    batch, _, n_state, channels = starts.shape
    length = grad_y.shape[0] // max(1, batch)
    chunks = (length + chunk - 1) // chunk
    rank = proj.shape[1] - 2 * n_state
    n_blocks = (channels + width - 1) // width
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        c0 = block * width
        size = min(width, channels - c0)
        start = (segment * chunks // n_segments) * chunk
        stop = min(length, ((segment + 1) * chunks // n_segments) * chunk)
        g = np.zeros((n_state, size), grad_y.dtype)
        a2 = A2[:, c0 : c0 + size].copy()
        d = np.empty(size, grad_y.dtype)
        gy = np.empty(size, grad_y.dtype)
        total = np.zeros(size, grad_y.dtype)
        for back in range(stop - start):
            row = _token(b, stop - 1 - back, length, order, n_slices)
            _step_size(given, proj, dt_proj, dt_bias, softplus, row, c0, d)
            for c in range(size):
                gy[c] = grad_y[row, c0 + c]
                total[c] += d[c]
            for n in range(n_state):
                out = proj[row, rank + n_state + n]
                for c in range(size):
                    g[n, c] = _exp2(d[c] * a2[n, c]) * (g[n, c] + out * gy[c])
        for c in range(size):
            steps[b, segment, c0 + c] = total[c]
            for n in range(n_state):
                starts[b, segment, n, c0 + c] = g[n, c]


def scan_backward(
    grad_y, u, given, proj, dt_proj, dt_bias, softplus, A2, D, order, n_slices, chunk, sub, width, n_segments, states,
    after, y, grad_u, grad_dt, grad_BC, grad_A2, grad_D, grad_dt_bias,
):  # fmt: skip
    """Gradients of one scan; y[row] += scan + D u once more

    grad_y, u, y, grad_u, grad_dt (rows e); after (b s n e): decayed adjoint of what follows each segment;
    grad_BC (blocks rows 2n): B | C, one part per channel block; grad_A2 (b s n e), grad_D, grad_dt_bias (b s e): one
    part per task. grad_dt is that of the step before softplus.
    States are recomputed in two levels, from the chunk start to every `sub` steps and from there to every step, so that
    what a task works on stays in the cache.
    """
    batch, chunks, n_state, channels = states.shape
    length = u.shape[0] // max(1, batch)
    rank = proj.shape[1] - 2 * n_state
    n_blocks = (channels + width - 1) // width
    zero = u.dtype.type(0)
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        c0 = block * width
        size = min(width, channels - c0)
        first = segment * chunks // n_segments
        last = (segment + 1) * chunks // n_segments
        a2 = A2[:, c0 : c0 + size].copy()
        skip = D[c0 : c0 + size].copy()
        g = after[b, segment, :, c0 : c0 + size].copy()
        g_A = np.zeros((n_state, size), u.dtype)
        g_D = np.zeros(size, u.dtype)
        g_bias = np.zeros(size, u.dtype)
        marks = np.empty(((chunk + sub - 1) // sub, n_state, size), u.dtype)
        hs = np.empty((sub + 1, n_state, size), u.dtype)
        decays = np.empty((sub, n_state, size), u.dtype)
        rows = np.empty(sub, np.uintp)
        raw = np.empty((sub, size), u.dtype)
        ds = np.empty((sub, size), u.dtype)
        xs = np.empty((sub, size), u.dtype)
        dus = np.empty((sub, size), u.dtype)
        gys = np.empty((sub, size), u.dtype)
        accs = np.empty((sub, size), u.dtype)
        into_out = np.empty((sub, 2 * n_state), u.dtype)
        h = np.empty((n_state, size), u.dtype)
        d = np.empty(size, u.dtype)
        gu = np.empty(size, u.dtype)
        gd = np.empty(size, u.dtype)
        for q in range(last - 1, first - 1, -1):
            begin = q * chunk
            end = min(length, begin + chunk)
            n_sub = (end - begin + sub - 1) // sub
            for n in range(n_state):
                for c in range(size):
                    h[n, c] = states[b, q, n, c0 + c]
            for m in range(n_sub):
                marks[m] = h
                if m == n_sub - 1:
                    break
                for i in range(sub):
                    row = _token(b, begin + m * sub + i, length, order, n_slices)
                    _step_size(given, proj, dt_proj, dt_bias, softplus, row, c0, d)
                    for c in range(size):
                        ds[i, c] = d[c]
                        dus[i, c] = d[c] * u[row, c0 + c]
                    for j in range(n_state):
                        into_out[i, j] = proj[row, rank + j]
                for i in range(sub):
                    for n in range(n_state):
                        into = into_out[i, n]
                        for c in range(size):
                            h[n, c] = _exp2(ds[i, c] * a2[n, c]) * h[n, c] + dus[i, c] * into
            for m in range(n_sub - 1, -1, -1):
                low = begin + m * sub
                steps = min(end, low + sub) - low
                hs[0] = marks[m]
                for i in range(steps):
                    row = _token(b, low + i, length, order, n_slices)
                    rows[i] = row
                    _raw_step(given, proj, dt_proj, dt_bias, row, c0, d)
                    for c in range(size):
                        x = u[row, c0 + c]
                        step = _softplus(d[c]) if softplus else d[c]
                        raw[i, c] = d[c]
                        ds[i, c] = step
                        xs[i, c] = x
                        dus[i, c] = step * x
                        accs[i, c] = skip[c] * x
                        gys[i, c] = grad_y[row, c0 + c]
                    for j in range(2 * n_state):
                        into_out[i, j] = proj[row, rank + j]
                for i in range(steps):
                    for n in range(n_state):
                        into = into_out[i, n]
                        out = into_out[i, n_state + n]
                        for c in range(size):
                            decay = _exp2(ds[i, c] * a2[n, c])
                            state = decay * hs[i, n, c] + dus[i, c] * into
                            decays[i, n, c] = decay
                            hs[i + 1, n, c] = state
                            accs[i, c] += out * state
                for i in range(steps - 1, -1, -1):
                    row = rows[i]
                    for c in range(size):
                        y[row, c0 + c] += accs[i, c]
                        g_D[c] += gys[i, c] * xs[i, c]
                        gu[c] = F_ZERO
                        gd[c] = F_ZERO
                    for n in range(n_state):
                        into = into_out[i, n]
                        out = into_out[i, n_state + n]
                        to_B = zero
                        to_C = zero
                        for c in range(size):
                            adjoint = g[n, c] + out * gys[i, c]
                            decayed = decays[i, n, c] * adjoint
                            into_exponent = decayed * hs[i, n, c]
                            g[n, c] = decayed
                            gd[c] += into_exponent * a2[n, c]
                            g_A[n, c] += into_exponent * ds[i, c]
                            gu[c] += adjoint * into
                            to_B += adjoint * dus[i, c]
                            to_C += gys[i, c] * hs[i + 1, n, c]
                        grad_BC[block, row, n] = to_B
                        grad_BC[block, row, n_state + n] = to_C
                    for c in range(size):
                        step = gd[c] / u.dtype.type(LOG2_E) + gu[c] * xs[i, c]
                        if softplus:
                            step *= _sigmoid(raw[i, c])
                        g_bias[c] += step
                        grad_dt[row, c0 + c] = step
                        grad_u[row, c0 + c] = gu[c] * ds[i, c] + skip[c] * gys[i, c]
        for c in range(size):
            grad_D[b, segment, c0 + c] = g_D[c]
            grad_dt_bias[b, segment, c0 + c] = g_bias[c]
            for n in range(n_state):
                grad_A2[b, segment, n, c0 + c] = g_A[n, c]


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
