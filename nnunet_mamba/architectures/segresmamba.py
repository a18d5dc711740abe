"""SegResMamba (Das et al., MIDL 2025, arXiv 2503.07766), sized by the nnU-Net plan.

The encoder's convolutional Mamba blocks halve the feature map once more, scan there, and return; the decoder is
SegResNet's (Myronenko 2018): 1x1 convolution, linear upsampling, skips added, pre-activation residual blocks.

The paper's figure has a tri-orientated Mamba layer inside each block. The released code constructs it and never calls
it: the released network is this one with `mixer="none"`, at 5 isotropic stages of 48, 96, 192, 384 (and one unused).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.segmamba import SideOutput, Stem
from nnunet_mamba.architectures.topology import Topology
from nnunet_mamba.blocks.convolutions import GroupNorm, Space, pointwise, same_conv
from nnunet_mamba.blocks.interpolation import enlarge
from nnunet_mamba.blocks.mixers import Mixer

GROUPS = 8

SKIPS = ("sum", "concat")


class SegResMamba(PlannedNetwork):
    """SegResMamba.

    Keywords of every network: see PlannedNetwork.
    The encoder's stage i has the width of plan stage i-1; the last plan width is not used.
    `skip`: "sum" as published, or "concat" (then a 1x1 convolution), to check the paper's claim for sums.
    `n_slices`: slices of the inter-slice scan, None: the first axis of the scanned map.
    The twin is what the released code computes.
    """

    negative_slope = 0.0

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        n_slices: int | None = None,
        skip: str = "sum",
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        if skip not in SKIPS:
            raise ValueError(f"skip={skip!r}; expected one of {', '.join(SKIPS)}")
        self.encoder = Encoder(self.topology, input_channels, self.mixer, n_slices)
        self.decoder = Decoder(self.topology, num_classes, skip, self.supervised)


class Encoder(nn.Module):
    """Image -> side outputs of all stages after the full resolution, finest first."""

    def __init__(self, plan: Topology, input_channels: int, mixer: Mixer, n_slices: int | None):
        super().__init__()
        space, widths, kernels = plan.space, plan.features[:-1], plan.kernel_sizes[1:]
        stem = Stem(space, input_channels, widths[0], kernels[0], plan.strides[1])
        downs = [
            Downsample(space, widths[i - 1], widths[i], kernels[i], plan.strides[i + 1]) for i in range(1, len(widths))
        ]
        self.downsample = nn.ModuleList([stem, *downs])
        self.blocks = nn.ModuleList(
            ConvMamba(space, w, k, mixer, n_slices) for w, k in zip(widths, kernels, strict=True)
        )
        self.stages = nn.ModuleList(same_conv(space, w, w, k) for w, k in zip(widths, kernels, strict=True))
        self.side_outputs = nn.ModuleList(SideOutput(space, w) for w in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c *space) -> side outputs, finest first"""
        sides = []
        for down, block, stage, side in zip(self.downsample, self.blocks, self.stages, self.side_outputs, strict=True):
            x = stage(block(down(x)))
            sides.append(side(x))
        return sides


class Downsample(nn.Module):
    """norm - conv - norm - conv with kernel = stride"""

    def __init__(self, space: Space, cin: int, cout: int, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        self.norm = space.norm(cin)  # holds no parameters, so one serves both places
        self.mix = same_conv(space, cin, cin, kernel)
        self.conv = space.conv(cin, cout, tuple(stride), tuple(stride))

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *space) -> (b cout *space/stride)"""
        return self.conv(self.norm(self.mix(self.norm(x))))


class ConvMamba(nn.Module):
    """Convolution to half the size, convolution, Mamba, convolution, transposed convolution back, plus the input.

    Axes that the plan does not convolve (kernel 1) are not halved.
    """

    def __init__(self, space: Space, channels: int, kernel: Sequence[int], mixer: Mixer, n_slices: int | None = None):
        super().__init__()
        stride = tuple(2 if k > 1 else 1 for k in kernel)
        large = tuple(5 if k > 1 else 1 for k in kernel)
        padding, restored = tuple(k // 2 for k in large), tuple(s - 1 for s in stride)
        self.proj = space.conv(channels, channels, large, stride, padding)
        self.proj3 = same_conv(space, channels, channels, kernel)
        self.proj4 = same_conv(space, channels, channels, kernel)
        self.proj5 = space.transposed(channels, channels, large, stride, padding, restored)
        self.norm = space.norm(channels)  # holds no parameters, so one serves all four places
        self.mamba_layer = mixer.layer(channels, n_slices=n_slices, residual=False) if mixer else None

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        y = F.relu(self.norm(self.proj(x)))
        y = F.relu(self.norm(self.proj3(y)))
        if self.mamba_layer is not None:
            y = self._scan(self.mamba_layer, y)
        y = F.relu(self.norm(self.proj4(y)))
        y = F.relu(self.norm(self.proj5(y)))
        for axis, size in enumerate(x.shape[2:], 2):
            y = y.narrow(axis, y.shape[axis] - size, size)  # one plane too many on odd axes: the first goes
        return x + y

    @staticmethod
    def _scan(layer: nn.Module, x: Tensor) -> Tensor:
        """Odd axes get a plane of zeros at their end for the scan, as released code prepares its map"""
        size = x.shape[2:]
        odd = [s % 2 for s in size]
        y = layer(F.pad(x, [n for o in reversed(odd) for n in (0, o)])) if any(odd) else layer(x)
        for axis, s in enumerate(size, 2):
            y = y.narrow(axis, 0, s)
        return y


class Decoder(nn.Module):
    """From the coarsest side output to half resolution; a transposed convolution makes the logits from there.

    Under deep supervision the coarser logits come from 1x1 convolutions.
    """

    def __init__(self, plan: Topology, num_classes: int, skip: str, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        space, widths = plan.space, plan.features[:-1]
        levels = range(len(widths) - 2, -1, -1)
        self.narrow = nn.ModuleList(pointwise(space, widths[i + 1], widths[i], bias=False) for i in levels)
        self.merge = nn.ModuleList(
            pointwise(space, 2 * widths[i], widths[i], bias=False) for i in levels if skip == "concat"
        )
        self.stages = nn.ModuleList(PreActivation(space, widths[i], plan.kernel_sizes[i + 1]) for i in levels)
        stem = tuple(plan.strides[1])
        coarser = [pointwise(space, widths[i], num_classes) for i in levels]
        self.seg_layers = nn.ModuleList([*coarser, space.transposed(widths[0], num_classes, stem, stem)])

    def forward(self, sides: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Side outputs, finest first -> logits (b k *space), or a list of them, full resolution first"""
        x, outputs = sides[-1], []
        for i, (narrow, stage) in enumerate(zip(self.narrow, self.stages, strict=True)):
            skip = sides[-2 - i]
            x = enlarge(narrow(x), skip.shape[2:])
            x = stage(self.merge[i](torch.cat((x, skip), 1)) if self.merge else x + skip)
            if self.deep_supervision:
                outputs.append(self.seg_layers[i](x))
        outputs.append(self.seg_layers[-1](x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]


class PreActivation(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x))))))"""

    def __init__(self, space: Space, channels: int, kernel: Sequence[int]):
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(GROUPS, channels), GroupNorm(GROUPS, channels)
        self.conv1 = same_conv(space, channels, channels, kernel, bias=False)
        self.conv2 = same_conv(space, channels, channels, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))
