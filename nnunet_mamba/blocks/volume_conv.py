"""Depth-wise convolution of tokens in the volume that they fill: three taps along every axis, zeros outside."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

TAPS = 3
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def volume_conv(channels: int, axes: int) -> nn.Module:
    """Its weights, (channels 1 3 [3 [3]]) and (channels), for `convolve_tokens`"""
    return CONV[axes](channels, channels, TAPS, padding=TAPS // 2, groups=channels)


def convolve_tokens(conv: nn.Module, tokens: Tensor, space: Sequence[int]) -> Tensor:
    """(b l c), row-major tokens of a volume of `space` -> (b l c), in the dtype of the tokens.

    Raises ValueError for a space that the weights or the tokens do not fit.
    """
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    axes = weight.dim() - 2
    if len(space) != axes or math.prod(space) != tokens.shape[1]:
        raise ValueError(
            f"{tokens.shape[1]} tokens in a space of {tuple(space)}; expected the {axes} sizes of the volume that they "
            "fill: call the mixer as mixer(tokens, n_slices, space)"
        )
    volume = tokens.transpose(1, 2).unflatten(2, tuple(space))
    y = CONVOLVE[axes](
        volume, weight.to(tokens.dtype), bias.to(tokens.dtype), padding=TAPS // 2, groups=weight.shape[0]
    )
    return y.flatten(2).transpose(1, 2)
