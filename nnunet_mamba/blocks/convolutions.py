"""Convolution and norm for 2d and 3d, from the plan's `conv_op` and its kernel sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

LEAKY_SLOPE = 0.01


class _SafeInstanceNorm:
    """InstanceNorm that leaves a map of one voxel alone.

    The mean of one value is the value itself, so there is nothing to normalise; torch raises instead. nnU-Net's
    planner does not make such maps, small hand-written plans do.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:].numel() == 1:
            return x
        return super().forward(x)  # type: ignore[misc]


class InstanceNorm2d(_SafeInstanceNorm, nn.InstanceNorm2d):
    """Without affine parameters, hence without state_dict keys, as the released networks have it."""


class InstanceNorm3d(_SafeInstanceNorm, nn.InstanceNorm3d):
    """Without affine parameters, hence without state_dict keys, as the released networks have it."""


@dataclass(frozen=True)
class Space:
    """The layer classes of one spatial dimension."""

    dim: int
    conv: Callable[..., nn.Module]
    transposed: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]


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
