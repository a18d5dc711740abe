"""Small functions that the Triton kernels share. Imports triton, so import it only where it will be used.

Triton's language has no starred tuples, and only looks like Python to a type checker.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
COUNTS = ["order", "batches", "sequences", "length", "codes", "n_slices", "n_chunks", "rows_in_all"]
"""Arguments for whose special values (1, multiples of 16) no kernel of its own is worth compiling"""


@triton.jit
def load(pointer, inside, WHOLE: tl.constexpr):
    """Zero where a block reaches beyond the channels; WHOLE: it does not"""
    return tl.load(pointer) if WHOLE else tl.load(pointer, mask=inside, other=0.0)


@triton.jit
def store(pointer, value, inside, WHOLE: tl.constexpr):
    """Only channels that there are; as `load`"""
    if WHOLE:
        tl.store(pointer, value)
    else:
        tl.store(pointer, value, mask=inside)


@triton.jit
def parameter(pointer, d, inside, BD: tl.constexpr, ACC: tl.constexpr):
    """A vector over channels, zero where it was not given: [BD]"""
    return tl.zeros([BD], ACC) if pointer is None else tl.load(pointer + d, mask=inside, other=0.0).to(ACC)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x, ACC: tl.constexpr):
    """log(1 + exp(x)), accurate for very negative x too: max(x, 0) + log1p(e) with e = exp(-|x|) <= 1

    log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3, by its series: a rounded 1 + e would lose small time steps.
    """
    TERMS: tl.constexpr = 18 if ACC == tl.float64 else 7
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    square = s * s
    series = square * 0.0 + 1.0 / (2 * TERMS - 1)
    for k in tl.static_range(TERMS - 2, -1, -1):
        series = series * square + 1.0 / (2 * k + 1)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def softplus_slope(dt, ACC: tl.constexpr):
    """sigmoid(x) where dt = softplus(x): 1 - exp(-dt), for small dt by its series: the difference would be lost"""
    SMALL: tl.constexpr = 1e-3 if ACC == tl.float64 else 0.03
    series = dt * (1.0 - dt * (0.5 - dt * (1.0 / 6.0 - dt * (1.0 / 24.0))))
    return tl.where(dt < SMALL, series, 1.0 - tl.exp(-dt))


# ------------------------------------------------------------------------------------------------------- scan orders
# An order is a walk over tokens: `slices` slices of `per` tokens each, all first tokens, then all second ones, ...
# Forward is that walk with one slice; reverse is the same from the last token on. One kernel thus serves all orders.


@triton.jit
def order_of(codes, order, length, n_slices):
    """first token, direction, slices, tokens a slice; codes: two bits an order, 0 forward, 1 reverse, 2 inter-slice"""
    code = (codes >> (2 * order)) & 3
    slices = tl.where(code == 2, n_slices, 1)
    return tl.where(code == 1, length - 1, 0), tl.where(code == 1, -1, 1), slices, length // slices


@triton.jit
def place(t, slices):
    """slice, and token inside it, of scan step t"""
    inside = t // slices
    before = inside * slices
    return t - before, inside


@triton.jit
def token(slice_, inside, first, direction, per):
    """int64, as rows are what a 64-bit offset is computed from"""
    return (first + direction * (slice_ * per + inside)).to(tl.int64)


@triton.jit
def forth(slice_, inside, slices):
    """The next step's place, without a division"""
    following = slice_ + 1
    wraps = following == slices
    return tl.where(wraps, 0, following), inside + tl.cast(wraps, tl.int32)


@triton.jit
def back(slice_, inside, slices):
    """The step before's place"""
    wraps = slice_ == 0
    return tl.where(wraps, slices - 1, slice_ - 1), inside - tl.cast(wraps, tl.int32)


@triton.jit
def token_of(t, codes, order, length, n_slices):
    """Tokens of scan steps t (a block), int64"""
    first, direction, slices, per = order_of(codes, order, length, n_slices)
    slice_, inside = place(t, slices)
    return token(slice_, inside, first, direction, per)


# ------------------------------------------------------------------------------------------------------ states


@triton.jit
def tile_of(n, d, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets of a tile of states [NB, BD]; WIDTH: how many adjacent channels a thread takes at a time

    1: a thread has one channel with all its state entries, and sums over the entries need no other thread (forward).
    4: eight threads share the channels, four the entries: sums over channels take fewer shuffles (backward).

    The contiguity of 2 only says which axis the threads run along: without it some versions of Triton choose the
    other one. The divisibility keeps one element per thread then.
    """
    offsets = n[:, None] * CHANNELS + d[None, :]
    if WIDTH == 1:
        offsets = tl.multiple_of(tl.max_contiguous(offsets, [1, 2]), [1, 1])
    else:  # not after a return: hints mark the tensor itself, and the later one would hold
        offsets = tl.max_contiguous(offsets, [1, WIDTH])
    return offsets


@triton.jit
def step(h, u, dt, A2, B):
    """One step of the recurrence: decayed state and next state, [NB, BD]; A2 = A / ln 2"""
    decayed = tl.exp2(dt[None, :] * A2) * h
    return decayed, decayed + (dt * u)[None, :] * B[:, None]


@triton.jit
def compose(decay_1, state_1, decay_2, state_2):
    """Two pieces of the recurrence, one after the other, as one"""
    return decay_1 * decay_2, decay_2 * state_1 + state_2
