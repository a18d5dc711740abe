"""LightM-UNet (Liao et al. 2024, arXiv 2403.05246), sized by the nnU-Net plan: few convolutions, Mamba everywhere.

The skeleton is SegResNet (Myronenko 2018): an encoder of residual blocks, here with Mamba layers for convolutions, and
a light decoder that adds the skips. With 4 isotropic stages of 32, 64, 128, 256 features it is the released network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.topology import Topology, per_stage
from nnunet_mamba.blocks.bounded_gradient import bounded_gradient
from nnunet_mamba.blocks.convolutions import GroupNorm, Space, pointwise
from nnunet_mamba.blocks.interpolation import enlarge
from nnunet_mamba.blocks.mamba import normed_mamba, to_tokens, to_volume
from nnunet_mamba.blocks.mixers import Mixer

GROUPS = 8


class LightMUNet(PlannedNetwork):
    """LightM-UNet.

    Keywords of every network: see PlannedNetwork.
    `blocks_down`: residual Mamba blocks per encoder stage; None: 1, 2, ..., 2, 4 as released.
    `blocks_up`: residual blocks per decoder stage.
    The twin's layers keep their norm and linear map only.
    """

    negative_slope = 0.0

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        blocks_down: Sequence[int] | None = None,
        blocks_up: int | Sequence[int] = 1,
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        n_stages = self.topology.n_stages
        down = per_stage("blocks_down", blocks_down or (1, *[2] * (n_stages - 2), 4), n_stages)
        up = per_stage("blocks_up", blocks_up, n_stages - 1)
        self.encoder = Encoder(self.topology, input_channels, down, self.mixer)
        self.decoder = Decoder(self.topology, num_classes, up, self.supervised)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(b c *space) -> logits (b k *space) or a list of them. In float32 even under autocast.

        Its many norms amplify rounding: under fp16 the logits would be off by a tenth. The release trains without
        autocast too.
        """
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(next(self.parameters()).dtype))


class Encoder(nn.Module):
    """Image -> one skip per stage, full resolution first."""

    def __init__(self, plan: Topology, input_channels: int, blocks: Sequence[int], mixer: Mixer):
        super().__init__()
        space, features = plan.space, plan.features
        self.stem = _separable(space, input_channels, features[0], plan.kernel_sizes[0])
        self.down = nn.ModuleList(
            nn.Sequential(VisionMamba(features[i - 1], features[i], mixer), _pool(space, plan.strides[i]))
            for i in range(1, plan.n_stages)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualMamba(width, mixer) for _ in range(count)))
            for width, count in zip(features, blocks, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c *space) -> skips, full resolution first"""
        skips = [self.stages[0](self.stem(x))]
        for down, stage in zip(self.down, list(self.stages)[1:], strict=True):
            skips.append(stage(down(skips[-1])))
        return skips


class VisionMamba(nn.Module):
    """Residual vision Mamba layer: linear(LayerNorm(Mamba(LayerNorm(t)) + s t)) with one LayerNorm for both places."""

    def __init__(self, cin: int, cout: int, mixer: Mixer):
        super().__init__()
        self.norm = nn.LayerNorm(cin)
        self.proj = nn.Linear(cin, cout)
        self.mamba = mixer.core(cin) if mixer else None
        if self.mamba is not None:
            self.skip_scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *space) -> (b cout *space)"""
        with torch.autocast(x.device.type, enabled=False):
            tokens = to_tokens(x)
            dtype = tokens.dtype
            full = tokens.to(self.norm.weight.dtype)
            if self.mamba is not None:
                scanned = normed_mamba(self.norm, self.mamba, tokens, x.shape[2:])
                full = scanned.to(full.dtype) + self.skip_scale * full
            mixed = self.norm(full)
            y = self.proj(mixed).to(dtype if dtype != torch.float16 else mixed.dtype)
        return to_volume(y, x.shape[2:])


class ResidualMamba(nn.Module):
    """x + layer(relu(norm(layer(relu(norm(x))))))"""

    def __init__(self, channels: int, mixer: Mixer):
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(GROUPS, channels), GroupNorm(GROUPS, channels)
        self.conv1, self.conv2 = VisionMamba(channels, channels, mixer), VisionMamba(channels, channels, mixer)

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        x = bounded_gradient(x)
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Decoder(nn.Module):
    """1x1 convolution and linear upsampling, plus the skip, residual blocks with depthwise convolutions."""

    def __init__(self, plan: Topology, num_classes: int, blocks: Sequence[int], deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision
        levels = range(plan.n_stages - 2, -1, -1)
        self.narrow = nn.ModuleList(
            pointwise(plan.space, plan.features[i + 1], plan.features[i], bias=False) for i in levels
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualUp(plan.space, plan.features[i], plan.kernel_sizes[i]) for _ in range(count)))
            for i, count in zip(levels, blocks, strict=True)
        )
        self.final_norm = GroupNorm(GROUPS, plan.features[0])
        self.seg_layers = nn.ModuleList(_head(plan.space, plan.features[i], num_classes) for i in levels)

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Skips, full resolution first -> logits (b k *space), or a list of them, full resolution first"""
        x, outputs, last = skips[-1], [], len(self.stages) - 1
        for i, (narrow, stage, head) in enumerate(zip(self.narrow, self.stages, self.seg_layers, strict=True)):
            skip = skips[-2 - i]
            x = stage(enlarge(narrow(x), skip.shape[2:]) + skip)
            if i == last:
                x = F.relu(self.final_norm(x))
            if self.deep_supervision or i == last:
                outputs.append(head(x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]


class ResidualUp(nn.Module):
    """relu(norm(separable conv(relu(norm(x))) + s x))"""

    def __init__(self, space: Space, channels: int, kernel: Sequence[int]):
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(GROUPS, channels), GroupNorm(GROUPS, channels)
        self.conv = _separable(space, channels, channels, kernel)
        self.skip_scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        return F.relu(self.norm2(self.conv(F.relu(self.norm1(x))) + self.skip_scale * x))


def _separable(space: Space, cin: int, cout: int, kernel: Sequence[int]) -> nn.Sequential:
    """Depthwise, then pointwise"""
    depthwise = space.conv(cin, cin, tuple(kernel), padding=tuple(k // 2 for k in kernel), groups=cin, bias=False)
    return nn.Sequential(depthwise, pointwise(space, cin, cout, bias=False))


def _head(space: Space, cin: int, num_classes: int) -> nn.Sequential:
    """A 1x1 convolution per channel, then one over channels, both with bias, as released"""
    return nn.Sequential(space.conv(cin, cin, 1, groups=cin), pointwise(space, cin, num_classes))


def _pool(space: Space, stride: Sequence[int]) -> nn.Module:
    return (nn.MaxPool2d if space.dim == 2 else nn.MaxPool3d)(tuple(stride), tuple(stride))
