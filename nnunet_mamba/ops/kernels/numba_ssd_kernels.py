"""Compiled loops of Mamba-2's scan on a CPU: a walk over tokens with one decay per head.

As in `numba_kernels`: rows = b*l tokens in natural order, a task is one (batch, block of channels, segment) and walks
its steps in order. A block is a range of channels of one group of heads; it may begin and end inside a head. x, B, C
and dt (each with the column where it begins) may be parts of one array.

Shapes: e = h*p channels, h heads, p channels of a head, g groups, n states, c chunks, s segments of chunks.
The innermost loops run over the channels of a block, whatever heads they belong to: decays are spread over them first.
"""

from __future__ import annotations

import numba
import numpy as np

from nnunet_mamba.ops.kernels.numba_kernels import ARRAY, LOG2_E, _exp2, _sigmoid, _softplus, _task, _token


@numba.njit(**ARRAY)
def _channels(block, width, per_group, of_group, p):
    """Number of a block -> its group, first channel, number of channels, first head, number of heads"""
    group = block // per_group
    first = (block % per_group) * width
    size = min(width, of_group - first)
    c0 = group * of_group + first
    h0 = c0 // p
    return group, c0, size, h0, (c0 + size - 1) // p - h0 + 1


@numba.njit(**ARRAY)
def _head_bounds(c0, size, h0, p, bounds):
    """Channel of the block at which each head begins, and the end

    Where loops over them must be fast, they count in unsigned numbers: a signed one could count from an array's end.
    """
    for j in range(bounds.shape[0]):
        bounds[j] = min(size, max(0, (h0 + j) * p - c0))


@numba.njit(**ARRAY)
def _load(states, b, q, c0, h0, p, bounds, h):
    """h (n c) = a block's part of states (b c h n p)"""
    for j in range(bounds.shape[0] - 1):
        for n in range(h.shape[0]):
            for c in range(bounds[j], bounds[j + 1]):
                h[n, c] = states[b, q, h0 + j, n, c0 + c - (h0 + j) * p]


@numba.njit(**ARRAY)
def _store(h, b, q, c0, h0, p, bounds, states):
    """The inverse of `_load`"""
    for j in range(bounds.shape[0] - 1):
        for n in range(h.shape[0]):
            for c in range(bounds[j], bounds[j + 1]):
                states[b, q, h0 + j, n, c0 + c - (h0 + j) * p] = h[n, c]


@numba.njit(**ARRAY)
def _raw_step(dt, d0, dt_bias, row, head):
    return dt[row, d0 + head] + dt_bias[head]


@numba.njit(**ARRAY)
def _gather(x, x0, dt, d0, dt_bias, softplus, A2, D, row, c0, h0, bounds, i, decays, given, acc):
    """What step i needs of one token, channel by channel: decay, dt x and D x"""
    x_begin = np.uintp(x0 + c0)
    for j in range(bounds.shape[0] - 1):
        raw = _raw_step(dt, d0, dt_bias, row, h0 + j)
        step = _softplus(raw) if softplus else raw
        decay = _exp2(step * A2[h0 + j])
        skip = D[h0 + j]
        for c in range(np.uintp(bounds[j]), np.uintp(bounds[j + 1])):
            value = x[row, x_begin + c]
            decays[i, c] = decay
            given[i, c] = step * value
            acc[i, c] = skip * value


@numba.njit(**ARRAY)
def _advance(decays, given, into, i, h):
    """h (n c) = decay h + into given: one step, nothing read"""
    for n in range(h.shape[0]):
        written = into[i, n]
        for c in range(h.shape[1]):
            h[n, c] = decays[i, c] * h[n, c] + written * given[i, c]


def ssd_forward(
    x, x0, B, b0, C, q0, dt, d0, dt_bias, softplus, A2, D, order, n_slices, chunk, sub, width, n_groups, n_segments,
    states, y,
):  # fmt: skip
    """y[row] += scan + D x; states (b c h n p) at chunk starts

    x (rows ...) from column x0, B, C (rows ...) from b0 and q0, dt (rows ...) from d0; dt_bias, D (h); A2 (h) = A
    log2(e); y (rows e). With several segments, states already holds each segment's start at its first chunk.
    """
    batch, chunks, heads, n_state, p = states.shape
    length = y.shape[0] // max(1, batch)
    of_group = heads // n_groups * p
    per_group = (of_group + width - 1) // width
    n_blocks = n_groups * per_group
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        group, c0, size, h0, n_heads = _channels(block, width, per_group, of_group, p)
        c_begin = np.uintp(c0)
        b_begin = np.uintp(b0 + group * n_state)
        q_begin = np.uintp(q0 + group * n_state)
        bounds = np.empty(n_heads + 1, np.intp)
        _head_bounds(c0, size, h0, p, bounds)
        first = segment * chunks // n_segments
        last = (segment + 1) * chunks // n_segments
        h = np.empty((n_state, size), y.dtype)
        rows = np.empty(sub, np.uintp)
        decays = np.empty((sub, size), y.dtype)
        given = np.empty((sub, size), y.dtype)
        acc = np.empty((sub, size), y.dtype)
        into = np.empty((sub, n_state), y.dtype)
        out = np.empty((sub, n_state), y.dtype)
        _load(states, b, first, c0, h0, p, bounds, h)
        for q in range(first, last):
            _store(h, b, q, c0, h0, p, bounds, states)
            end = min(length, (q + 1) * chunk)
            for low in range(q * chunk, end, sub):
                steps = min(sub, end - low)
                for i in range(steps):
                    row = _token(b, low + i, length, order, n_slices)
                    rows[i] = row
                    _gather(x, x0, dt, d0, dt_bias, softplus, A2, D, row, c0, h0, bounds, i, decays, given, acc)
                    for n in range(n_state):
                        into[i, n] = B[row, b_begin + n]
                        out[i, n] = C[row, q_begin + n]
                for i in range(steps):
                    for n in range(n_state):
                        written = into[i, n]
                        read = out[i, n]
                        for c in range(size):
                            state = decays[i, c] * h[n, c] + written * given[i, c]
                            h[n, c] = state
                            acc[i, c] += read * state
                for i in range(steps):
                    for c in range(size):
                        y[rows[i], c_begin + c] += acc[i, c]


def ssd_segment_ends(
    x, x0, B, b0, dt, d0, dt_bias, softplus, A2, D, order, n_slices, chunk, width, n_groups, n_segments, rows_end, ends,
    steps,
):  # fmt: skip
    """State at each segment's end when it starts from zero: ends (b s h n p); sum of its steps: steps (b s h)

    rows_end: number of rows
    """
    batch, _, heads, n_state, p = ends.shape
    length = rows_end // max(1, batch)
    chunks = (length + chunk - 1) // chunk
    of_group = heads // n_groups * p
    per_group = (of_group + width - 1) // width
    n_blocks = n_groups * per_group
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        group, c0, size, h0, n_heads = _channels(block, width, per_group, of_group, p)
        b_begin = np.uintp(b0 + group * n_state)
        bounds = np.empty(n_heads + 1, np.intp)
        _head_bounds(c0, size, h0, p, bounds)
        start = (segment * chunks // n_segments) * chunk
        stop = min(length, ((segment + 1) * chunks // n_segments) * chunk)
        h = np.zeros((n_state, size), ends.dtype)
        decays = np.empty((1, size), ends.dtype)
        given = np.empty((1, size), ends.dtype)
        acc = np.empty((1, size), ends.dtype)
        into = np.empty((1, n_state), ends.dtype)
        total = np.zeros(n_heads, ends.dtype)
        for t in range(start, stop):
            row = _token(b, t, length, order, n_slices)
            _gather(x, x0, dt, d0, dt_bias, softplus, A2, D, row, c0, h0, bounds, 0, decays, given, acc)
            for j in range(n_heads):
                raw = _raw_step(dt, d0, dt_bias, row, h0 + j)
                total[j] += _softplus(raw) if softplus else raw
            for n in range(n_state):
                into[0, n] = B[row, b_begin + n]
            _advance(decays, given, into, 0, h)
        _store(h, b, segment, c0, h0, p, bounds, ends)
        for j in range(n_heads):
            steps[b, segment, h0 + j] = total[j]  # of a head in two blocks both write the same


def ssd_segment_adjoints(
    grad_y, C, q0, dt, d0, dt_bias, softplus, A2, order, n_slices, chunk, width, n_groups, n_segments, starts, steps
):
    """Decayed adjoint before each segment if nothing follows it: starts (b s h n p); sum of its steps: steps (b s h)"""
    batch, _, heads, n_state, p = starts.shape
    length = grad_y.shape[0] // max(1, batch)
    chunks = (length + chunk - 1) // chunk
    of_group = heads // n_groups * p
    per_group = (of_group + width - 1) // width
    n_blocks = n_groups * per_group
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        group, c0, size, h0, n_heads = _channels(block, width, per_group, of_group, p)
        bounds = np.empty(n_heads + 1, np.intp)
        _head_bounds(c0, size, h0, p, bounds)
        start = (segment * chunks // n_segments) * chunk
        stop = min(length, ((segment + 1) * chunks // n_segments) * chunk)
        g = np.zeros((n_state, size), starts.dtype)
        total = np.zeros(n_heads, starts.dtype)
        decays = np.empty(size, starts.dtype)
        for back in range(stop - start):
            row = _token(b, stop - 1 - back, length, order, n_slices)
            for j in range(n_heads):
                raw = _raw_step(dt, d0, dt_bias, row, h0 + j)
                step = _softplus(raw) if softplus else raw
                total[j] += step
                decay = _exp2(step * A2[h0 + j])
                for c in range(np.uintp(bounds[j]), np.uintp(bounds[j + 1])):
                    decays[c] = decay
            for n in range(n_state):
                out = C[row, q0 + group * n_state + n]
                for c in range(size):
                    g[n, c] = decays[c] * (g[n, c] + out * grad_y[row, c0 + c])
        _store(g, b, segment, c0, h0, p, bounds, starts)
        for j in range(n_heads):
            steps[b, segment, h0 + j] = total[j]


def ssd_backward(
    grad_y, x, x0, B, b0, C, q0, dt, d0, dt_bias, softplus, A2, D, order, n_slices, chunk, sub, width, n_groups,
    n_segments, states, after, grad_x, grad_dt, grad_BC, grad_A, grad_D, grad_dt_bias,
):  # fmt: skip
    """Gradients of one scan

    grad_y (rows e); grad_x (rows ...) from column 0; after (b s h n p): decayed adjoint of what follows each segment;
    grad_BC (blocks rows 2n): B | C, one part per block of channels. A head that lies in several blocks has a part in
    each: grad_dt (parts rows h), of the step before softplus; grad_A, grad_D, grad_dt_bias (b s parts h).
    States are recomputed in two levels, from the chunk start to every `sub` steps and from there to every step, so that
    what a task works on stays in the cache.
    """
    batch, chunks, heads, n_state, p = states.shape
    length = grad_y.shape[0] // max(1, batch)
    of_group = heads // n_groups * p
    per_group = (of_group + width - 1) // width
    n_blocks = n_groups * per_group
    zero = grad_y.dtype.type(0)
    for k in numba.prange(batch * n_blocks * n_segments):
        b, block, segment = _task(k, n_blocks, n_segments)
        group, c0, size, h0, n_heads = _channels(block, width, per_group, of_group, p)
        c_begin = np.uintp(c0)
        b_begin = np.uintp(b0 + group * n_state)
        q_begin = np.uintp(q0 + group * n_state)
        bounds = np.empty(n_heads + 1, np.intp)
        _head_bounds(c0, size, h0, p, bounds)
        first = segment * chunks // n_segments
        last = (segment + 1) * chunks // n_segments
        parts = np.empty(n_heads, np.intp)
        for j in range(n_heads):
            parts[j] = block % per_group - ((h0 + j) * p - group * of_group) // width
        g = np.empty((n_state, size), grad_y.dtype)
        _load(after, b, segment, c0, h0, p, bounds, g)
        g_A = np.zeros(n_heads, grad_y.dtype)
        g_D = np.zeros(n_heads, grad_y.dtype)
        g_bias = np.zeros(n_heads, grad_y.dtype)
        marks = np.empty(((chunk + sub - 1) // sub, n_state, size), grad_y.dtype)
        hs = np.empty((sub + 1, n_state, size), grad_y.dtype)
        rows = np.empty(sub, np.uintp)
        decays = np.empty((sub, size), grad_y.dtype)
        given = np.empty((sub, size), grad_y.dtype)
        acc = np.empty((sub, size), grad_y.dtype)
        gys = np.empty((sub, size), grad_y.dtype)
        into = np.empty((sub, n_state), grad_y.dtype)
        out = np.empty((sub, n_state), grad_y.dtype)
        h = np.empty((n_state, size), grad_y.dtype)
        gu = np.empty(size, grad_y.dtype)
        ga = np.empty(size, grad_y.dtype)
        for q in range(last - 1, first - 1, -1):
            begin = q * chunk
            end = min(length, begin + chunk)
            n_sub = (end - begin + sub - 1) // sub
            _load(states, b, q, c0, h0, p, bounds, h)
            for m in range(n_sub):
                marks[m] = h
                if m == n_sub - 1:
                    break
                for i in range(sub):
                    row = _token(b, begin + m * sub + i, length, order, n_slices)
                    _gather(x, x0, dt, d0, dt_bias, softplus, A2, D, row, c0, h0, bounds, i, decays, given, acc)
                    for n in range(n_state):
                        into[i, n] = B[row, b_begin + n]
                for i in range(sub):
                    _advance(decays, given, into, i, h)
            for m in range(n_sub - 1, -1, -1):
                low = begin + m * sub
                steps = min(end, low + sub) - low
                hs[0] = marks[m]
                for i in range(steps):
                    row = _token(b, low + i, length, order, n_slices)
                    rows[i] = row
                    _gather(x, x0, dt, d0, dt_bias, softplus, A2, D, row, c0, h0, bounds, i, decays, given, acc)
                    for n in range(n_state):
                        into[i, n] = B[row, b_begin + n]
                        out[i, n] = C[row, q_begin + n]
                    for c in range(size):
                        gys[i, c] = grad_y[row, c_begin + c]
                for i in range(steps):
                    for n in range(n_state):
                        written = into[i, n]
                        for c in range(size):
                            hs[i + 1, n, c] = decays[i, c] * hs[i, n, c] + written * given[i, c]
                for i in range(steps - 1, -1, -1):
                    row = rows[i]
                    for c in range(size):
                        gu[c] = zero
                        ga[c] = zero
                    for n in range(n_state):
                        written = into[i, n]
                        read = out[i, n]
                        to_B = zero
                        to_C = zero
                        for c in range(size):
                            adjoint = g[n, c] + read * gys[i, c]
                            decayed = decays[i, c] * adjoint
                            g[n, c] = decayed
                            ga[c] += decayed * hs[i, n, c]
                            gu[c] += adjoint * written
                            to_B += adjoint * given[i, c]
                            to_C += gys[i, c] * hs[i + 1, n, c]
                        grad_BC[block, row, n] = to_B
                        grad_BC[block, row, n_state + n] = to_C
                    for j in range(n_heads):
                        head = h0 + j
                        raw = _raw_step(dt, d0, dt_bias, row, head)
                        step = _softplus(raw) if softplus else raw
                        skip = D[head]
                        into_exponent, into_step, into_skip = zero, zero, zero
                        x_begin = np.uintp(x0 + c0)
                        for c in range(np.uintp(bounds[j]), np.uintp(bounds[j + 1])):
                            value = x[row, x_begin + c]
                            into_exponent += ga[c]
                            into_step += gu[c] * value
                            into_skip += gys[i, c] * value
                            grad_x[row, c_begin + c] = gu[c] * step + skip * gys[i, c]
                        g_A[j] += into_exponent * step
                        g_D[j] += into_skip
                        into_step += into_exponent * (A2[head] / grad_y.dtype.type(LOG2_E))
                        if softplus:
                            into_step *= _sigmoid(raw)
                        g_bias[j] += into_step
                        grad_dt[parts[j], row, head] = into_step
        for j in range(n_heads):
            grad_A[b, segment, parts[j], h0 + j] = g_A[j]
            grad_D[b, segment, parts[j], h0 + j] = g_D[j]
            grad_dt_bias[b, segment, parts[j], h0 + j] = g_bias[j]


def ssd_sum_blocks(parts, n_groups, tile, grad_BC, column):
    """grad_BC (rows ...) from a column: B of every group, then C of every group; parts (blocks rows 2n)"""
    blocks, rows, both = parts.shape
    n_state = both // 2
    per_group = blocks // n_groups
    for k in numba.prange((rows + tile - 1) // tile):
        for row in range(k * tile, min(rows, (k + 1) * tile)):
            for group in range(n_groups):
                for of_C in range(2):
                    first = column + (of_C * n_groups + group) * n_state
                    for n in range(n_state):
                        grad_BC[row, first + n] = parts[group * per_group, row, of_C * n_state + n]
                    for block in range(group * per_group + 1, (group + 1) * per_group):
                        for n in range(n_state):
                            grad_BC[row, first + n] += parts[block, row, of_C * n_state + n]
