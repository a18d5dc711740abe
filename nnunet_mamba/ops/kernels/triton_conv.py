"""Launches of the convolution kernels. Imports triton."""

# a launch takes more arguments than its kernel declares
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_conv_kernels as kernels
from nnunet_mamba.ops.kernels.triton_scan import AS_THEY_COME, OPTIONS, Orders

BD = 32
"""Channels of one program."""


def token_block(dtype: torch.dtype) -> int:
    """Tokens of one program: as many as its registers hold"""
    return 32 if dtype == torch.float64 else 64


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, u: Tensor, silu: bool, orders: Orders = AS_THEY_COME
) -> None:
    """x (b l e) in token order, weight (o w e), bias (o e) -> fills u (o*b l e), in scan order"""
    kernels.conv_kernel[_grid(x, weight, len(u))](
        x, weight, bias, u, *x.shape[:2], orders.codes, orders.n_slices, *x.stride(), *u.stride(),
        SILU=silu, **_constants(weight),
    )  # fmt: skip


def convolve_backward(
    grad: Tensor,
    more: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor,
    silu: bool,
    partial: Tensor | None,
    out: Tensor | None,
    add: bool,
    orders: Orders = AS_THEY_COME,
) -> tuple[Tensor, Tensor]:
    """grad (o*b l e), plus `more` if given, gradient of u in scan order -> gradients of weight (o w e) and bias (o e)

    `before` (o*b l e), scratch for the gradient before SiLU, may be grad itself. The gradient of x, in token order,
    goes to `out`, or into the running sum `partial` (contiguous) if `out` is None; add: `partial` holds some already.
    """
    n_orders, taps, channels = weight.shape
    batches, length = x.shape[:2]
    grid = _grid(x, weight, len(grad))
    sums = weight.new_empty((n_orders, batches * grid[0], taps + 1, channels))
    order_arguments = (orders.codes, orders.n_slices)
    kernels.conv_weights_kernel[grid](
        grad, more, x, weight, bias, before, sums, batches, length, *order_arguments, *grad.stride(), *x.stride(),
        *before.stride(), SILU=silu, **_constants(weight),
    )  # fmt: skip
    for k in range(n_orders):
        last = out if k == n_orders - 1 else None
        kernels.conv_inputs_kernel[_grid(x, weight, batches)](
            before, weight, partial, last, k, batches, length, *order_arguments, *before.stride(),
            *((0, 0, 0) if last is None else last.stride()), ADD=add or k > 0, LAST=last is not None,
            **_constants(weight),
        )  # fmt: skip
    total = sums.sum(1)
    return total[:, :taps], total[:, taps]


def _constants(weight: Tensor) -> dict[str, int | bool]:
    return {"CHANNELS": weight.shape[2], "TAPS": weight.shape[1], "BT": token_block(weight.dtype), "BD": BD,
            "num_warps": 4, **OPTIONS}  # fmt: skip


def _grid(x: Tensor, weight: Tensor, sequences: int) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[1], token_block(weight.dtype)), triton.cdiv(x.shape[2], BD), sequences
