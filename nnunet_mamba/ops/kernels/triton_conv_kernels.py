"""Triton kernels of the short causal convolution. Imports triton, so import it only where it will be used.

x and its gradient lie in token order and any strides, u and its gradient in scan order; orders as in `triton_forward`.
"""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_pieces import COUNTS, back, order_of, parameter, sigmoid, token, token_of


@triton.jit
def _convolve(x, weight, bias, t, length, codes, order, n_slices, x_t, x_e, d, inside, CHANNELS: tl.constexpr,
              TAPS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """sum_k weight[k] x[t - TAPS + 1 + k] + bias: [BT, BD]; weight (w e)"""
    total = tl.zeros([BT, BD], ACC) + parameter(bias, d, inside, BD, ACC)[None, :]
    first, direction, slices, per = order_of(codes, order, length, n_slices)
    k = t // slices
    s = t - k * slices
    columns = d.to(tl.int64)[None, :] * x_e
    for delay in tl.static_range(TAPS):
        given = ((t >= delay) & (t < length))[:, None] & inside[None, :]
        rows = token(s, k, first, direction, per)[:, None]
        tap = tl.load(x + rows * x_t + columns, mask=given, other=0.0).to(ACC)
        total += tl.load(weight + (TAPS - 1 - delay) * CHANNELS + d, mask=inside, other=0.0).to(ACC)[None, :] * tap
        s, k = back(s, k, slices)
    return total


@triton.jit(do_not_specialize=COUNTS)
def conv_kernel(
    x, weight, bias, u, batches, length, codes, n_slices, x_b, x_t, x_e, u_s, u_t, u_e,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """x (b l e) in token order, weight (o w e), bias (o e) -> u (s l e) in scan order

    Grid: token blocks, channel blocks, s.
    """
    ACC: tl.constexpr = weight.dtype.element_ty
    order = tl.program_id(2) // batches
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = d < CHANNELS
    x += (tl.program_id(2) - order * batches).to(tl.int64) * x_b
    weight += order * (TAPS * CHANNELS)
    if bias is not None:
        bias += order * CHANNELS
    y = _convolve(x, weight, bias, t, length, codes, order, n_slices, x_t, x_e, d, inside, CHANNELS, TAPS, BT, BD, ACC)
    if SILU:
        y *= sigmoid(y)
    where = u + tl.program_id(2).to(tl.int64) * u_s + t.to(tl.int64)[:, None] * u_t + d.to(tl.int64)[None, :] * u_e
    tl.store(where, y.to(u.dtype.element_ty), mask=(t < length)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=COUNTS)
def conv_weights_kernel(
    grad, more, x, weight, bias, before, partial, batches, length, codes, n_slices, grad_s, grad_t, grad_e,
    x_b, x_t, x_e, before_s, before_t, before_e,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """grad (s l e), plus `more` (s l e, contiguous) if given: the gradient of u -> before (s l e), the gradient before
    SiLU (may lie where grad lies), and per block of tokens the sums for the weights and, behind them, the bias:
    partial (s, token blocks, w + 1, e)

    Grid: token blocks, channel blocks, s.
    """
    ACC: tl.constexpr = weight.dtype.element_ty
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    rows = t.to(tl.int64)[:, None]
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = d < CHANNELS
    here = (t < length)[:, None] & inside[None, :]
    x += (tl.program_id(2) - order * batches).to(tl.int64) * x_b
    weight += order * (TAPS * CHANNELS)
    if bias is not None:
        bias += order * CHANNELS
    columns = d.to(tl.int64)[None, :]
    g = tl.load(grad + sequence * grad_s + rows * grad_t + columns * grad_e, mask=here, other=0.0).to(ACC)
    if more is not None:
        g += tl.load(more + (sequence * length + rows) * CHANNELS + columns, mask=here, other=0.0).to(ACC)
    if SILU:
        c = _convolve(
            x, weight, bias, t, length, codes, order, n_slices, x_t, x_e, d, inside, CHANNELS, TAPS, BT, BD, ACC
        )
        s = sigmoid(c)
        g *= s * (1.0 + c * (1.0 - s))
    tl.store(before + sequence * before_s + rows * before_t + columns * before_e, g, mask=here)
    partial += (sequence * tl.num_programs(0) + tl.program_id(0)) * ((TAPS + 1) * CHANNELS)
    first, direction, slices, per = order_of(codes, order, length, n_slices)
    inner = t // slices
    outer = t - inner * slices
    for delay in tl.static_range(TAPS):
        given = ((t >= delay) & (t < length))[:, None] & inside[None, :]
        at = token(outer, inner, first, direction, per)[:, None]
        shifted = tl.load(x + at * x_t + columns * x_e, mask=given, other=0.0).to(ACC)
        tl.store(partial + (TAPS - 1 - delay) * CHANNELS + d, tl.sum(g * shifted, 0), mask=inside)
        outer, inner = back(outer, inner, slices)
    tl.store(partial + TAPS * CHANNELS + d, tl.sum(g, 0), mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def conv_inputs_kernel(
    before, weight, partial, out, order, batches, length, codes, n_slices, before_s, before_t, before_e,
    out_b, out_t, out_e,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, ADD: tl.constexpr, LAST: tl.constexpr, BT: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """before (s l e) of one order, in scan order -> gradient of x (b l e) in token order, summed over orders in
    `partial` as in `outputs_kernel`. Grid: token blocks, channel blocks, b.
    """
    ACC: tl.constexpr = weight.dtype.element_ty
    batch = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = d < CHANNELS
    here = (t < length)[:, None] & inside[None, :]
    columns = d.to(tl.int64)[None, :]
    before += (batch + order * batches) * before_s
    weight += order * (TAPS * CHANNELS)
    total = tl.zeros([BT, BD], ACC)
    for k in tl.static_range(TAPS):
        w = tl.load(weight + k * CHANNELS + d, mask=inside, other=0.0).to(ACC)
        row = t + (TAPS - 1 - k)
        later = (row < length)[:, None] & inside[None, :]
        where = before + row.to(tl.int64)[:, None] * before_t + columns * before_e
        total += w[None, :] * tl.load(where, mask=later, other=0.0)
    at = token_of(t, codes, order, length, n_slices)[:, None]
    if partial is not None:
        partial += (batch * length + at) * CHANNELS + columns
    if ADD:
        total += tl.load(partial, mask=here, other=0.0)
    if LAST:
        tl.store(out + batch * out_b + at * out_t + columns * out_e, total.to(out.dtype.element_ty), mask=here)
    else:
        tl.store(partial, total, mask=here)
