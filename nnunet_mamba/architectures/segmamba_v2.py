"""SegMamba-V2 (Xing et al. 2025), as released, sized by the nnU-Net plan.

Differs from SegMamba in the encoder: it reads the full-resolution features instead of the image, its convolutions have
large kernels and channel attention, and Mamba runs only in the deeper half of the stages, where it scans the volume
along every axis with the same weights. With 5 isotropic stages of 48, 96, 192, 384, 768 it is the released network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.segmamba import SideOutput
from nnunet_mamba.architectures.topology import Topology, per_stage
from nnunet_mamba.blocks.convolutions import Space
from nnunet_mamba.blocks.decoder import ResidualDecoder
from nnunet_mamba.blocks.mamba import normed_mamba, to_tokens, to_volume
from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.blocks.residual import ResidualBlock

REDUCTION = 8


class SegMambaV2(PlannedNetwork):
    """SegMamba-V2.

    Keywords of every network: see PlannedNetwork.
    `depths`: convolution blocks and, in the deeper half, Mamba layers per stage after the first.
    The twin is without its Mamba layers.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        depths: int | Sequence[int] = 2,
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        blocks = per_stage("depths", depths, self.topology.n_stages - 1)
        self.encoder = Encoder(self.topology, input_channels, blocks, self.mixer)
        self.decoder = ResidualDecoder(
            self.topology.space,
            self.topology.features,
            self.topology.kernel_sizes,
            self.topology.strides,
            num_classes,
            self.supervised,
        )


class Encoder(nn.Module):
    """Image -> one skip per plan stage, full resolution first."""

    def __init__(self, plan: Topology, input_channels: int, depths: Sequence[int], mixer: Mixer):
        super().__init__()
        space, features = plan.space, plan.features
        stages = range(1, plan.n_stages)
        widths = [features[0], *features]  # of the encoder's stage i: features[i - 1], the first two alike
        self.downsample = nn.ModuleList(
            _downsample(space, widths[i - 1], widths[i], plan.kernel_sizes[i], plan.strides[i]) for i in stages
        )
        self.convolutions = nn.ModuleList(
            nn.Sequential(*(LargeKernelConv(space, widths[i], plan.kernel_sizes[i]) for _ in range(depths[i - 1])))
            for i in stages
        )
        deeper_half = 1 + len(stages) // 2
        self.scans = nn.ModuleList(
            nn.Sequential(*(AxesMamba(widths[i], mixer) for _ in range(depths[i - 1])))
            if mixer and i >= deeper_half
            else nn.Identity()
            for i in stages
        )
        self.side_outputs = nn.ModuleList(SideOutput(space, widths[i]) for i in stages)
        lifted = [(input_channels, features[0]), *((widths[i], features[i]) for i in stages)]
        self.skips = nn.ModuleList(
            ResidualBlock(space, cin, cout, kernel)
            for (cin, cout), kernel in zip(lifted, plan.kernel_sizes, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c *space) -> skips, full resolution first"""
        x = self.skips[0](x)
        skips = [x]
        parts = zip(self.downsample, self.convolutions, self.scans, self.side_outputs, strict=True)
        for i, (down, convolutions, scans, side) in enumerate(parts, 1):
            x = scans(convolutions(down(x)))
            skips.append(self.skips[i](side(x)))
        return skips


class LargeKernelConv(nn.Module):
    """A deep path (5, 3, dilated 3) and a short one (3, 1) plus the input, weighted per channel by attention."""

    def __init__(self, space: Space, channels: int, kernel: Sequence[int]):
        super().__init__()
        large = tuple(2 * k - 1 for k in kernel)
        self.deep_path = nn.Sequential(
            _conv_block(space, channels, large),
            _conv_block(space, channels, kernel),
            _conv_block(space, channels, kernel, dilation=2),
        )
        self.shortcut_path = nn.Sequential(
            _conv_block(space, channels, kernel), _conv_block(space, channels, (1,) * space.dim)
        )
        hidden = max(1, channels // REDUCTION)
        self.attention = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        y = self.deep_path(x) + self.shortcut_path(x) + x
        weights = torch.sigmoid(self.attention(y.flatten(2).mean(2)))
        return y * weights.view(*weights.shape, *(1,) * (y.dim() - 2))


class AxesMamba(nn.Module):
    """x plus one plain Mamba layer applied along every axis of the volume: as it is, and with the first axis swapped
    with each other one. The weights are the same for all."""

    def __init__(self, channels: int, mixer: Mixer):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = mixer.core(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        with torch.autocast(x.device.type, enabled=False):
            y = x
            for axis in range(2, x.dim()):
                swapped = x.transpose(2, axis)
                scanned = normed_mamba(self.norm, self.mamba, to_tokens(swapped), swapped.shape[2:])
                y = y + to_volume(scanned, swapped.shape[2:]).transpose(2, axis)
            return y


def _downsample(space: Space, cin: int, cout: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    return space.conv(cin, cout, tuple(kernel), tuple(stride), tuple(k // 2 for k in kernel))


class _ConvBlock(nn.Module):
    def __init__(self, conv: nn.Module, norm: nn.Module):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        return F.relu(self.norm(self.conv(x)))


def _conv_block(space: Space, channels: int, kernel: Sequence[int], dilation: int = 1) -> nn.Module:
    padding = tuple(dilation * (k // 2) for k in kernel)
    conv = space.conv(channels, channels, tuple(kernel), padding=padding, dilation=dilation)
    return _ConvBlock(conv, space.norm(channels))
