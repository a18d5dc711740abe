"""The definition: one shifted copy per tap."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.convolution import Convolution


def why_not(x: Tensor) -> str | None:
    """Runs everywhere."""
    return None


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """x (b d l), weight (d w) -> (b d l)"""
    taps = weight.shape[1]
    return torch.stack([_delayed(x, taps - 1 - k) * weight[:, k, None] for k in range(taps)]).sum(0)


def convolve_backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """grad_y (b d l) -> gradients of x (b d l) and weight (d w)"""
    taps, length = weight.shape[1], x.shape[2]
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    for k in range(taps):
        delay = taps - 1 - k
        grad_weight[:, k] = (grad_y * _delayed(x, delay)).sum((0, 2))
        if delay < length:
            grad_x[:, :, : length - delay] += grad_y[:, :, delay:] * weight[:, k, None]
    return grad_x, grad_weight


def _delayed(x: Tensor, delay: int) -> Tensor:
    """x[t - delay], zero where that is before the start"""
    shifted = torch.zeros_like(x)
    if delay < x.shape[2]:
        shifted[:, :, delay:] = x[:, :, : x.shape[2] - delay]
    return shifted


CONVOLUTION = Convolution(convolve, convolve_backward)
forward = CONVOLUTION.forward
backward = CONVOLUTION.backward
