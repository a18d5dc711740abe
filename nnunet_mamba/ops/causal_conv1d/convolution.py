"""From a bare convolution to the whole op of the pure-torch backends: precision, bias and SiLU, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.numerics import accumulation_dtype, silu_backward


@dataclass(frozen=True)
class Convolution:
    """A bare causal convolution and its gradient, in accumulation precision."""

    apply: Callable[..., Tensor]
    apply_backward: Callable[..., tuple[Tensor, Tensor]]

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
        """x (b d l), weight (d w), bias (d) -> (b d l) in x's dtype"""
        y = self._linear(x, weight, bias)
        return (F.silu(y) if silu else y).to(x.dtype).contiguous()

    def backward(
        self, grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """grad_y (b d l) -> gradients of x, weight, bias"""
        dtype = accumulation_dtype(x)
        grad = grad_y.to(dtype)
        if silu:
            grad = silu_backward(grad, self._linear(x, weight, bias))
        grad_x, grad_weight = self.apply_backward(grad, x.to(dtype), weight.to(dtype))
        grad_bias = None if bias is None else grad.sum((0, 2)).to(bias.dtype)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = accumulation_dtype(x)
        y = self.apply(x.to(dtype), weight.to(dtype))
        return y if bias is None else y + bias.to(dtype)[:, None]
