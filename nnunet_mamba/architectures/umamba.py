"""U-Mamba (Ma, Li & Wang 2024, arXiv 2401.04722) as released: a residual U-Net with forward-order Mamba layers.

    Bot   one Mamba layer after the last encoder stage
    Enc   a Mamba layer after every encoder stage (in 2d after every other one, the last included)

Follows any plan, so one form serves both as the released network and as the plan-sized one; module names, aliases
included, are those of released checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.topology import Topology, per_stage
from nnunet_mamba.blocks.convolutions import AFFINE_NORM, LEAKY_RELU, Space, pointwise
from nnunet_mamba.blocks.mamba import normed_mamba
from nnunet_mamba.blocks.mixers import Mixer


class UMamba(PlannedNetwork):
    """Both variants, see UMambaEnc and UMambaBot.

    Keywords of every network: see PlannedNetwork.
    `n_conv_per_stage`, `n_conv_per_stage_decoder`: residual blocks per stage; the deeper half has one, as released.
    `patch_size`: given, stages with no more voxels than channels scan over channels instead of voxels, as released;
    their weights then fit this patch only, and any other raises ValueError. None: all stages scan over voxels.
    The twin is the "No-Mamba Base" of nnU-Net Revisited (Isensee et al. 2024).
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        n_conv_per_stage: int | Sequence[int] = 2,
        n_conv_per_stage_decoder: int | Sequence[int] = 2,
        patch_size: Sequence[int] | None = None,
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        if patch_size is not None:
            self.topology.check_patch(patch_size)
        n_stages = self.topology.n_stages
        half = math.ceil(n_stages / 2)
        blocks = _halved(n_conv_per_stage, n_stages, half, "n_conv_per_stage")
        half_decoder = math.ceil((n_stages - 1) / 2 + 0.5)
        decoder_blocks = _halved(n_conv_per_stage_decoder, n_stages - 1, half_decoder, "n_conv_per_stage_decoder")
        where = self._mamba_stages() if self.mixer else ()
        self.encoder = Encoder(self.topology, input_channels, blocks, where, patch_size, self.mixer)
        self._add_bottleneck()
        self.decoder = Decoder(self.encoder, self.topology, num_classes, decoder_blocks, self.supervised)

    def _mamba_stages(self) -> tuple[int, ...]:
        """Encoder stages followed by a Mamba layer."""
        raise NotImplementedError

    def _add_bottleneck(self) -> None:
        """What comes between encoder and decoder."""

    def _bottleneck(self, x: Tensor) -> Tensor:
        return x

    def _logits(self, x: Tensor) -> Tensor | list[Tensor]:
        skips = self.encoder(x)
        skips[-1] = self._bottleneck(skips[-1])
        return self.decoder(skips)


class UMambaEnc(UMamba):
    """Mamba layers in the encoder. Keywords: see UMamba; `input_channels`, `num_classes` and `conv_op` among them."""

    def _mamba_stages(self) -> tuple[int, ...]:
        n = self.topology.n_stages
        every = 1 if self.topology.space.dim == 3 else 2
        return tuple(range(n - 1, -1, -every))


class UMambaBot(UMamba):
    """One Mamba layer at the bottleneck. `patch_size` makes no difference.

    Keywords: see UMamba; `input_channels`, `num_classes` and `conv_op` among them.
    """

    def _mamba_stages(self) -> tuple[int, ...]:
        return ()

    def _add_bottleneck(self) -> None:
        width = self.topology.features[-1]
        self.mamba_layer = self.mixer.layer(width, "f", residual=False)

    def _bottleneck(self, x: Tensor) -> Tensor:
        return self.mamba_layer(x)


class Encoder(nn.Module):
    """Image -> one skip per stage, full resolution first."""

    def __init__(
        self,
        plan: Topology,
        input_channels: int,
        blocks: Sequence[int],
        mamba_stages: Sequence[int],
        patch_size: Sequence[int] | None,
        mixer: Mixer,
    ):
        super().__init__()
        space, features, kernels = plan.space, plan.features, plan.kernel_sizes
        one = (1,) * space.dim
        self.stem = _stage(space, input_channels, features[0], kernels[0], one, blocks[0])
        widths = [features[0], *features]
        self.stages = nn.ModuleList(
            _stage(space, widths[s], features[s], kernels[s], plan.strides[s], blocks[s]) for s in range(plan.n_stages)
        )
        self.mamba_layers = nn.ModuleList(
            _mamba_layer(plan, s, patch_size, mixer) if s in mamba_stages else nn.Identity()
            for s in range(plan.n_stages)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c *space) -> skips, full resolution first"""
        x = self.stem(x)
        skips = []
        for stage, mamba in zip(self.stages, self.mamba_layers, strict=True):
            x = mamba(stage(x))
            skips.append(x)
        return skips


def _mamba_layer(plan: Topology, stage: int, patch_size: Sequence[int] | None, mixer: Mixer) -> nn.Module:
    width = plan.features[stage]
    if patch_size is not None:
        total = [math.prod(s[axis] for s in plan.strides[: stage + 1]) for axis in range(plan.space.dim)]
        size = tuple(p // t for p, t in zip(patch_size, total, strict=True))
        if math.prod(size) <= width:
            return ChannelTokens(width, size, tuple(patch_size), mixer)
    return mixer.layer(width, "f", residual=False)


class ChannelTokens(nn.Module):
    """Mamba over the sequence of channels, each token a whole feature map: its weights fit one patch size only."""

    def __init__(self, channels: int, size: tuple[int, ...], patch: tuple[int, ...], mixer: Mixer):
        super().__init__()
        voxels = math.prod(size)
        self.norm = nn.LayerNorm(voxels)
        self.mamba = mixer.core(voxels, axes=1)
        self.size, self.patch = size, patch

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space). Raises ValueError for another size than the one it was built for."""
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(
                f"this U-Mamba was built for patches of {self.patch}: a stage that scans over channels has weights for "
                f"maps of {self.size}, got {tuple(x.shape[2:])}. Use that patch, or build with patch_size=None"
            )
        with torch.autocast(x.device.type, enabled=False):
            y = normed_mamba(self.norm, self.mamba, x.flatten(2), (x.shape[1],))
            return y.unflatten(2, self.size)


class Decoder(nn.Module):
    """Nearest-neighbour upsampling and a 1x1 convolution, concatenation [up-sampled, skip], residual blocks.

    In 2d the last stage does without the full-resolution skip, as released. Keeps the encoder as a child, so that its
    weights appear once more under `decoder.encoder`, as in released checkpoints and in nnU-Net's own U-Nets.
    """

    def __init__(
        self, encoder: Encoder, plan: Topology, num_classes: int, blocks: Sequence[int], deep_supervision: bool
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.encoder = encoder
        self.without_last_skip = plan.space.dim == 2
        levels = range(plan.n_stages - 2, -1, -1)
        self.scales = tuple(plan.strides[i + 1] for i in levels)
        self.upsample_layers = nn.ModuleList(
            _Upsample(plan.space, plan.features[i + 1], plan.features[i], plan.strides[i + 1]) for i in levels
        )
        one = (1,) * plan.space.dim
        self.stages = nn.ModuleList(
            _stage(plan.space, self._inputs(i) * plan.features[i], plan.features[i], plan.kernel_sizes[i], one, count)
            for i, count in zip(levels, blocks, strict=True)
        )
        self.seg_layers = nn.ModuleList(pointwise(plan.space, plan.features[i], num_classes) for i in levels)

    def _inputs(self, level: int) -> int:
        return 1 if level == 0 and self.without_last_skip else 2

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Skips, full resolution first -> logits (b k *space), or a list of them, full resolution first"""
        x, outputs, last = skips[-1], [], len(self.stages) - 1
        for i, (up, stage, head) in enumerate(zip(self.upsample_layers, self.stages, self.seg_layers, strict=True)):
            x = up(x)
            if self._inputs(last - i) == 2:
                x = torch.cat((x, skips[-2 - i]), 1)
            x = stage(x)
            if self.deep_supervision or i == last:
                outputs.append(head(x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]


class _Upsample(nn.Module):
    def __init__(self, space: Space, cin: int, cout: int, scale: Sequence[int]):
        super().__init__()
        self.conv = pointwise(space, cin, cout)
        self.scale = tuple(float(s) for s in scale)

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *coarse) -> (b cout *fine)"""
        return self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class _ResidualBlock(nn.Module):
    """conv - norm - act - conv - norm, plus a 1x1 convolution of the input, act. Norms are affine."""

    def __init__(self, space: Space, cin: int, cout: int, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        padding = tuple(k // 2 for k in kernel)
        self.conv1 = space.conv(cin, cout, tuple(kernel), tuple(stride), padding)
        self.norm1 = space.norm(cout, **AFFINE_NORM)
        self.act1 = nn.LeakyReLU(**LEAKY_RELU)
        self.conv2 = space.conv(cout, cout, tuple(kernel), padding=padding)
        self.norm2 = space.norm(cout, **AFFINE_NORM)
        self.act2 = nn.LeakyReLU(**LEAKY_RELU)
        self.conv3 = pointwise(space, cin, cout)
        # a strided 1x1 convolution is the same; with oneDNN's for AVX512 its gradient writes beyond the end of memory
        # where channels come last and are not a multiple of 16 (torch 2.15)
        self.every = (..., *(slice(None, None, s) for s in stride))

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *space) -> (b cout *space/stride)"""
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.conv3(x[self.every]))


def _stage(
    space: Space, cin: int, cout: int, kernel: Sequence[int], stride: Sequence[int], blocks: int
) -> nn.Sequential:
    first = _ResidualBlock(space, cin, cout, kernel, stride)
    rest = (
        BasicBlockD(
            space.conv, cout, cout, list(kernel), 1, True, space.norm, AFFINE_NORM, None, {}, nn.LeakyReLU, LEAKY_RELU
        )  # type: ignore[arg-type]
        for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *rest)


def _halved(blocks: int | Sequence[int], count: int, half: int, name: str) -> list[int]:
    """One number per stage, those from `half` on replaced by one."""
    return [1 if i >= half else b for i, b in enumerate(per_stage(name, blocks, count))]
