"""The convolution on a GPU by Triton. Reads and writes any strides: no copy of a transposed tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_support as support
from nnunet_mamba.ops.numerics import accumulation_dtype


def why_not(x: Tensor) -> str | None:
    """None when Triton kernels can run for x (b d l), otherwise the reason in one sentence."""
    return support.why_not(x, length_axis=2)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """x (b d l), weight (d w), bias (d) -> (b d l) in x's dtype"""
    from nnunet_mamba.ops.kernels import triton_conv as conv

    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel():
        with support.launching(x):
            conv.convolve(x.transpose(1, 2), _packed(weight, accumulation_dtype(x)), bias, y.transpose(1, 2), silu)
    return y


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """grad_y (b d l) -> gradients of x, weight, bias"""
    from nnunet_mamba.ops.kernels import triton_conv as conv

    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not x.numel():
        return grad_x, torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    dtype = accumulation_dtype(x)
    with support.launching(x):
        before = torch.empty_like(grad_x, dtype=dtype)
        grad_weight, grad_bias = conv.convolve_backward(
            grad_y.transpose(1, 2), None, x.transpose(1, 2), _packed(weight, dtype), bias, before.transpose(1, 2), silu,
            partial=None, out=grad_x.transpose(1, 2), add=False,
        )  # fmt: skip
    # a copy in any case: of one tap or channel both are slices of one tensor, and gradients must not share their memory
    grad_weight = grad_weight[0].T.to(weight.dtype).clone(memory_format=torch.contiguous_format)
    return grad_x, grad_weight, None if bias is None else grad_bias[0].to(bias.dtype)


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """weight (d w) -> (1 w d), in accumulation precision"""
    return weight.T[None].to(dtype).contiguous()
