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

FORWARD, BACKWARD, SLICES = 0, 1, 2
LOG2_E = 1 / math.log(2)
SCALAR = {"forceinline": True, "fastmath": {"contract"}}
# array helpers are inlined by numba, before vectorisation; calls with arrays would prevent it
ARRAY = {"inline": "always"}


def _polynomial(function, degree: int, low: float, high: float) -> list[np.float32]:
    chebyshev = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, [low, high])
    return [np.float32(c) for c in chebyshev.convert(kind=np.polynomial.Polynomial).coef]


P0, P1, P2, P3, P4, P5, P6 = _polynomial(np.exp2, 6, -0.5, 0.5)
# log1p(v) / v on [0, 1]
Q0, Q1, Q2, Q3, Q4, Q5, Q6, Q7, Q8, Q9 = _polynomial(
    lambda v: np.where(v > 1e-12, np.log1p(v) / np.maximum(v, 1e-12), 1.0), 9, 0.0, 1.0
)
F_LOW, F_HIGH, F_HALF, F_ONE, F_ZERO = (np.float32(v) for v in (-126, 128, 0.5, 1, 0))
F_LOG2_E = np.float32(LOG2_E)


@intrinsic
def _float_of_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


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
            whole = np.floor(x + F_HALF)
            f = x - whole
            p = P0 + f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * P6)))))
            return p * _float_of_bits(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))

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
    if order == BACKWARD:
        return length - 1 - t
    return (t % n_slices) * (length // n_slices) + t // n_slices


@numba.njit(**ARRAY)
def _raw_step(given, proj, dt_proj, dt_bias, row, c0, d):
    """Step size before softplus of one token (d: channels of the block); `given` has no columns if it is computed"""
    if given.shape[1] > 0:
        for c in range(d.shape[0]):
            d[c] = given[row, c0 + c]
    else:
        for c in range(d.shape[0]):
            d[c] = dt_bias[c0 + c]
        for j in range(dt_proj.shape[0]):
            low = proj[row, j]
            for c in range(d.shape[0]):
                d[c] += dt_proj[j, c0 + c] * low


@numba.njit(**ARRAY)
def _step_size(given, proj, dt_proj, dt_bias, row, c0, d):
    _raw_step(given, proj, dt_proj, dt_bias, row, c0, d)
    if given.shape[1] == 0:
        for c in range(d.shape[0]):
            d[c] = _softplus(d[c])


@numba.njit(**ARRAY)
def _task(k, n_blocks, n_segments):
    """Task number -> batch, block of channels, segment"""
    segment = k % n_segments
    rest = k // n_segments
    return rest // n_blocks, rest % n_blocks, segment


def scan_forward(u, given, proj, dt_proj, dt_bias, A2, D, order, n_slices, chunk, width, n_segments, states, y):
    """y[row] += scan + D u; states (b c n e) at chunk starts

    u, given, y (rows e); proj (rows r+2n) holds low | B | C; dt_proj (r e); dt_bias, D (e); A2 (n e) = A log2(e).
    With several segments, states already holds each segment's start at its first chunk.
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
        d = np.empty(size, u.dtype)
        du = np.empty(size, u.dtype)
        acc = np.empty(size, u.dtype)
        for q in range(first, last):
            for n in range(n_state):
                for c in range(size):
                    states[b, q, n, c0 + c] = h[n, c]
            for t in range(q * chunk, min(length, (q + 1) * chunk)):
                row = b * length + _row(t, length, order, n_slices)
                _step_size(given, proj, dt_proj, dt_bias, row, c0, d)
                for c in range(size):
                    x = u[row, c0 + c]
                    du[c] = d[c] * x
                    acc[c] = skip[c] * x
                for n in range(n_state):
                    into = proj[row, rank + n]
                    out = proj[row, rank + n_state + n]
                    for c in range(size):
                        state = _exp2(d[c] * a2[n, c]) * h[n, c] + du[c] * into
                        h[n, c] = state
                        acc[c] += out * state
                for c in range(size):
                    y[row, c0 + c] += acc[c]


def segment_ends(u, given, proj, dt_proj, dt_bias, A2, order, n_slices, chunk, width, n_segments, ends, steps):
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
            row = b * length + _row(t, length, order, n_slices)
            _step_size(given, proj, dt_proj, dt_bias, row, c0, d)
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
    grad_y, given, proj, dt_proj, dt_bias, A2, order, n_slices, chunk, width, n_segments, starts, steps
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
            row = b * length + _row(stop - 1 - back, length, order, n_slices)
            _step_size(given, proj, dt_proj, dt_bias, row, c0, d)
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
    grad_y, u, given, proj, dt_proj, dt_bias, A2, D, order, n_slices, chunk, sub, width, n_segments, states, after,
    y, grad_u, grad_dt, grad_BC, grad_A2, grad_D,
):  # fmt: skip
    """Gradients of one scan; y[row] += scan + D u once more

    grad_y, u, y, grad_u, grad_dt (rows e); after (b s n e): decayed adjoint of what follows each segment;
    grad_BC (blocks rows 2n): B | C, one part per channel block; grad_A2 (b s n e), grad_D (b s e): one part per task.
    grad_dt is that of the step before softplus where dt is computed here, of the given step otherwise.
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
        marks = np.empty(((chunk + sub - 1) // sub, n_state, size), u.dtype)
        hs = np.empty((sub + 1, n_state, size), u.dtype)
        decays = np.empty((sub, n_state, size), u.dtype)
        ds = np.empty((sub, size), u.dtype)
        raw = np.empty((sub, size), u.dtype)
        h = np.empty((n_state, size), u.dtype)
        d = np.empty(size, u.dtype)
        x = np.empty(size, u.dtype)
        du = np.empty(size, u.dtype)
        gy = np.empty(size, u.dtype)
        acc = np.empty(size, u.dtype)
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
                for t in range(begin + m * sub, begin + (m + 1) * sub):
                    row = b * length + _row(t, length, order, n_slices)
                    _step_size(given, proj, dt_proj, dt_bias, row, c0, d)
                    for c in range(size):
                        du[c] = d[c] * u[row, c0 + c]
                    for n in range(n_state):
                        into = proj[row, rank + n]
                        for c in range(size):
                            h[n, c] = _exp2(d[c] * a2[n, c]) * h[n, c] + du[c] * into
            for m in range(n_sub - 1, -1, -1):
                low = begin + m * sub
                high = min(end, low + sub)
                hs[0] = marks[m]
                for i in range(high - low):
                    row = b * length + _row(low + i, length, order, n_slices)
                    _raw_step(given, proj, dt_proj, dt_bias, row, c0, d)
                    for c in range(size):
                        raw[i, c] = d[c]
                        if given.shape[1] == 0:
                            d[c] = _softplus(d[c])
                        ds[i, c] = d[c]
                        x[c] = u[row, c0 + c]
                        du[c] = d[c] * x[c]
                        acc[c] = skip[c] * x[c]
                    for n in range(n_state):
                        into = proj[row, rank + n]
                        out = proj[row, rank + n_state + n]
                        for c in range(size):
                            decay = _exp2(d[c] * a2[n, c])
                            state = decay * hs[i, n, c] + du[c] * into
                            decays[i, n, c] = decay
                            hs[i + 1, n, c] = state
                            acc[c] += out * state
                    for c in range(size):
                        y[row, c0 + c] += acc[c]
                for i in range(high - low - 1, -1, -1):
                    row = b * length + _row(low + i, length, order, n_slices)
                    for c in range(size):
                        x[c] = u[row, c0 + c]
                        gy[c] = grad_y[row, c0 + c]
                        d[c] = ds[i, c]
                        du[c] = d[c] * x[c]
                        g_D[c] += gy[c] * x[c]
                        gu[c] = F_ZERO
                        gd[c] = F_ZERO
                    for n in range(n_state):
                        into = proj[row, rank + n]
                        out = proj[row, rank + n_state + n]
                        to_B = zero
                        to_C = zero
                        for c in range(size):
                            adjoint = g[n, c] + out * gy[c]
                            decayed = decays[i, n, c] * adjoint
                            into_exponent = decayed * hs[i, n, c]
                            g[n, c] = decayed
                            gd[c] += into_exponent * a2[n, c]
                            g_A[n, c] += into_exponent * d[c]
                            gu[c] += adjoint * into
                            to_B += adjoint * du[c]
                            to_C += gy[c] * hs[i + 1, n, c]
                        grad_BC[block, row, n] = to_B
                        grad_BC[block, row, n_state + n] = to_C
                    for c in range(size):
                        step = gd[c] / u.dtype.type(LOG2_E) + gu[c] * x[c]
                        if given.shape[1] == 0:
                            step *= _sigmoid(raw[i, c])
                        grad_dt[row, c0 + c] = step
                        grad_u[row, c0 + c] = gu[c] * d[c] + skip[c] * gy[c]
        for c in range(size):
            grad_D[b, segment, c0 + c] = g_D[c]
            for n in range(n_state):
                grad_A2[b, segment, n, c0 + c] = g_A[n, c]


def convolve(x, x0, weight, bias, order, n_slices, batch, tile, silu, y):
    """y[row] = act(sum of taps back in scan order + bias); x (rows ...) from column x0, weight (w e), bias (e)"""
    channels = weight.shape[1]
    length = y.shape[0] // max(1, batch)
    tiles = (length + tile - 1) // tile
    for k in numba.prange(batch * tiles):
        b = k // tiles
        start = (k % tiles) * tile
        acc = np.empty(channels, y.dtype)
        for t in range(start, min(length, start + tile)):
            _taps(x, x0, weight, bias, order, n_slices, b, length, t, acc)
            row = b * length + _row(t, length, order, n_slices)
            for c in range(channels):
                y[row, c] = acc[c] * _sigmoid(acc[c]) if silu else acc[c]


@numba.njit(**ARRAY)
def _taps(x, x0, weight, bias, order, n_slices, b, length, t, acc):
    """Convolution result of one scan step before the activation"""
    taps, channels = weight.shape
    for c in range(channels):
        acc[c] = bias[c]
    for j in range(taps):
        source = t - taps + 1 + j
        if source >= 0:
            row = b * length + _row(source, length, order, n_slices)
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
        for t in range(start, min(length, start + tile)):
            _taps(x, x0, weight, bias, order, n_slices, b, length, t, acc)
            row = b * length + _row(t, length, order, n_slices)
            for c in range(channels):
                s = _sigmoid(acc[c])
                grad[row, c] *= s + acc[c] * s * (_sigmoid(-acc[c]))


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
        acc = np.empty(channels, grad.dtype)
        for t in range(start, min(length, start + tile)):
            row = b * length + _row(t, length, order, n_slices)
            for c in range(channels):
                acc[c] = F_ZERO
                g_b[c] += grad[row, c]
            for j in range(taps):
                later = t + taps - 1 - j
                if later < length:
                    other = b * length + _row(later, length, order, n_slices)
                    for c in range(channels):
                        acc[c] += weight[j, c] * grad[other, c]
                source = t - taps + 1 + j
                if source >= 0:
                    other = b * length + _row(source, length, order, n_slices)
                    for c in range(channels):
                        g_w[j, c] += grad[row, c] * x[other, x0 + c]
            for c in range(channels):
                grad_x[row, c] += acc[c]
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
                y[row, c] *= grad_y[row, c] * (s + v * s * _sigmoid(-v))
