"""Torch's own grouped convolution, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.convolution import Convolution


def why_not(x: Tensor) -> str | None:
    """Runs everywhere."""
    return None


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """x (b d l), weight (d w) -> (b d l)"""
    channels, taps = weight.shape
    return F.conv1d(F.pad(x, (taps - 1, 0)), weight[:, None], groups=channels)


def convolve_backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """grad_y (b d l) -> gradients of x (b d l) and weight (d w)"""
    channels, taps = weight.shape
    padded = F.pad(x, (taps - 1, 0))
    grad_padded, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad_y, padded, weight[:, None], None, [1], [0], [1], False, [0], channels, [True, True, False]
    )
    return grad_padded[:, :, taps - 1 :], grad_weight[:, 0]


CONVOLUTION = Convolution(convolve, convolve_backward)
forward = CONVOLUTION.forward
backward = CONVOLUTION.backward
