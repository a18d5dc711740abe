"""Launches of the convolution kernels. Imports triton."""

# a launch takes more arguments than its kernel declares
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
from torch import Tensor

from nnunet_mamba.ops import _triton_kernels as kernels
from nnunet_mamba.ops._triton_scan import OPTIONS

BD = 32
"""Channels of one program."""


def token_block(dtype: torch.dtype) -> int:
    """Tokens of one program: as many as its registers hold"""
    return 32 if dtype == torch.float64 else 64


def pack_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """weight (e w) -> (w e), in accumulation precision"""
    return weight.T.to(dtype).contiguous()


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, u: Tensor, silu: bool, order: str = "f", n_slices: int = 1
) -> None:
    """x (b l e) in token order, weight (w e), bias (e) -> fills u (b l e), in scan order"""
    kernels.conv_kernel[_grid(x, weight)](
        x, weight, bias, u, *x.shape[1:], n_slices, *x.stride(), *u.stride(),
        TAPS=weight.shape[0], SILU=silu, ORDER=order, BT=token_block(weight.dtype), BD=BD, num_warps=4, **OPTIONS,
    )  # fmt: skip


def convolve_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor,
    silu: bool,
    partial: Tensor | None,
    out: Tensor | None,
    add: bool,
    order: str = "f",
    n_slices: int = 1,
) -> tuple[Tensor, Tensor]:
    """grad (b l e), gradient of u in scan order -> gradients of weight (w e) and bias (e)

    `before` (b l e), scratch for the gradient before SiLU, may be grad itself. The gradient of x, in token order, goes
    to `out`, or into the running sum `partial` (contiguous) if `out` is None; add: `partial` already holds something.
    """
    taps, channels = weight.shape
    grid = _grid(x, weight)
    sums = weight.new_empty((x.shape[0], grid[0], taps + 1, channels))
    kernels.conv_weights_kernel[grid](
        grad, x, weight, bias, before, sums, *x.shape[1:], n_slices, *grad.stride(), *x.stride(), *before.stride(),
        TAPS=taps, SILU=silu, ORDER=order, BT=token_block(weight.dtype), BD=BD, num_warps=4, **OPTIONS,
    )  # fmt: skip
    out_strides = (0, 0, 0) if out is None else out.stride()
    kernels.conv_inputs_kernel[grid](
        before, weight, partial, out, *x.shape[1:], n_slices, *before.stride(), *out_strides,
        TAPS=taps, ORDER=order, ADD=add, LAST=out is not None, BT=token_block(weight.dtype), BD=BD, num_warps=4,
        **OPTIONS,
    )  # fmt: skip
    total = sums.sum((0, 1))
    return total[:taps], total[taps]


def _grid(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[1], token_block(weight.dtype)), triton.cdiv(x.shape[2], BD), x.shape[0]
