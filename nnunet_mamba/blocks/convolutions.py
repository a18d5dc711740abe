"""Convolution and norm for 2d and 3d, from the plan's `conv_op` and its kernel sizes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

LEAKY_SLOPE = 0.01
# keywords as nnU-Net's own blocks take them
AFFINE_NORM = {"eps": 1e-5, "affine": True}
LEAKY_RELU = {"negative_slope": LEAKY_SLOPE, "inplace": True}


def _scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What an affine norm does to a value that needs no normalising"""
    shape = (-1, *(1,) * (x.dim() - 2))
    return x * weight.view(shape) + bias.view(shape)


class _SafeInstanceNorm:
    """InstanceNorm that leaves a map of one voxel alone.

    The mean of one value is the value itself, so there is nothing to normalise; torch raises instead. nnU-Net's
    planner does not make such maps, small hand-written plans do. Scale and shift stay where there are any.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:].numel() > 1:
            return super().forward(x)  # type: ignore[misc]
        if self.weight is None or self.bias is None:
            return x
        return _scale_and_shift(x, self.weight, self.bias)


class InstanceNorm2d(_SafeInstanceNorm, nn.InstanceNorm2d):
    """Torch's, defined for one voxel too. Affine parameters only on request."""


class InstanceNorm3d(_SafeInstanceNorm, nn.InstanceNorm3d):
    """Torch's, defined for one voxel too. Affine parameters only on request."""


class GroupNorm(nn.GroupNorm):
    """Torch's, defined for groups of one value too: nothing to normalise, scale and shift stay.

    `groups` at most: fewer where they do not divide the channels.
    """

    def __init__(self, groups: int, channels: int):
        super().__init__(math.gcd(groups, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        if x[0].numel() > self.num_groups:
            return super().forward(x)
        return _scale_and_shift(x, self.weight, self.bias)


@dataclass(frozen=True)
class Space:
    """The layer classes of one spatial dimension."""

    dim: int
    conv: Any  # classes of modules; torch gives the dimensions no common signature
    transposed: Any
    norm: Any


SPACE_2D = Space(2, nn.Conv2d, nn.ConvTranspose2d, InstanceNorm2d)
SPACE_3D = Space(3, nn.Conv3d, nn.ConvTranspose3d, InstanceNorm3d)


def space_of(conv_op: type[nn.Module]) -> Space:
    """The layer classes that go with a plan's `conv_op`. Raises ValueError for anything but Conv2d and Conv3d."""
    for space in (SPACE_2D, SPACE_3D):
        if conv_op is space.conv:
            return space
    raise ValueError(f"conv_op is {conv_op!r}; expected torch.nn.Conv2d or torch.nn.Conv3d")


def same_conv(space: Space, cin: int, cout: int, kernel: Sequence[int], bias: bool = True) -> nn.Module:
    """Convolution with stride 1 that keeps the size; kernels are odd."""
    return space.conv(cin, cout, tuple(kernel), padding=tuple(k // 2 for k in kernel), bias=bias)


def pointwise(space: Space, cin: int, cout: int, bias: bool = True) -> nn.Module:
    """1x1(x1) convolution."""
    return space.conv(cin, cout, 1, bias=bias)


def under_conv(layer: nn.Module) -> nn.Module:
    """Wrap a layer so that its parameters are named `conv.*`, as in released checkpoints."""
    return nn.Sequential(OrderedDict(conv=layer))
