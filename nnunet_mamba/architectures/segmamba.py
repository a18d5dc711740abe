"""SegMamba (Xing et al., MICCAI 2024, arXiv 2401.13560), sized by the nnU-Net plan.

    image ──────── stem ─ stage 1 ─ down ─ stage 2 ─ ... ─ down ─ stage n-1
      │                     │                │                       │
    residual block   norm, MLP, residual block (one each) ...        │
      │                     │                │                       │
    skip 0                skip 1           skip 2      ...       bottleneck ─▶ decoder ─▶ logits

    stage = gated spatial convolution → Mamba layers (tri-orientated)

Plan stage 0 (full resolution) has convolutions only; stage i >= 1 runs Mamba layers with the width of stage i-1 and its
skip is lifted to the width of stage i. With 5 isotropic stages of 48, 96, 192, 384, 768 features this is the released
network, see `nnunet_mamba.released`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.topology import Topology, per_stage
from nnunet_mamba.blocks.convolutions import Space, pointwise
from nnunet_mamba.blocks.decoder import ResidualDecoder
from nnunet_mamba.blocks.feature_uncertainty import weigh_by_uncertainty
from nnunet_mamba.blocks.gated_spatial_conv import GatedSpatialConv
from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.blocks.residual import ResidualBlock


class SegMamba(PlannedNetwork):
    """SegMamba.

    Keywords of every network: see PlannedNetwork.
    `depths`: Mamba layers per stage, one number or one per stage after the first.
    `n_slices`: slices of the inter-slice scan per stage after the first, as released code fixes them; None: the size of
    the map's first axis, which always works.
    `gsc`: how the branches of the gated spatial convolution meet, "sum" as released or "product" as the paper draws it.
    `fue`: feature-level uncertainty estimation on the skips, named in the paper, absent from the released code.
    Product and fue are our reading of the paper, unverified: no code or weights exist to compare with.
    The twin is the same network with its Mamba layers taken out, as the
    "No-Mamba Base" of nnU-Net Revisited (Isensee et al. 2024) is U-Mamba with its Mamba layers taken out.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        depths: int | Sequence[int] = 2,
        n_slices: Sequence[int] | None = None,
        gsc: str = "sum",
        fue: bool = False,
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        count = self.topology.n_stages - 1
        options = Options(
            depths=per_stage("depths", depths, count, least=0) if self.mixer else (0,) * count,
            mixer=self.mixer,
            n_slices=(None,) * count if n_slices is None else per_stage("n_slices", n_slices, count),
            gsc=gsc,
            fue=fue,
        )
        self.n_slices = options.n_slices
        self.encoder = Encoder(self.topology, input_channels, options)
        self.decoder = ResidualDecoder(
            self.topology.space,
            self.topology.features,
            self.topology.kernel_sizes,
            self.topology.strides,
            num_classes,
            self.supervised,
        )

    def check_patch(self, size: Sequence[int]) -> None:
        """Raises ValueError for a patch that the strides cannot divide, or fixed slices cannot cut."""
        self.topology.check_patch(size)
        total = [1] * len(size)
        for stage, (stride, n) in enumerate(zip(self.topology.strides[1:], self.n_slices, strict=True), 1):
            total = [t * s for t, s in zip(total, stride, strict=True)]
            tokens = math.prod([p // t for p, t in zip(size, total, strict=True)])
            if n is not None and tokens % n:
                raise ValueError(
                    f"patch {tuple(size)}: stage {stage} has {tokens} tokens, not divisible by n_slices={n}; leave "
                    'n_slices out (released form: nslices="auto") to take the size of the first axis'
                )


@dataclass(frozen=True)
class Options:
    """What the plan does not say: per stage after the first, the Mamba layers and their slices; and two switches."""

    depths: tuple[int, ...]
    mixer: Mixer
    n_slices: tuple[int | None, ...]
    gsc: str
    fue: bool


class Encoder(nn.Module):
    """Image -> one skip per plan stage, full resolution first."""

    def __init__(self, plan: Topology, input_channels: int, options: Options):
        super().__init__()
        space, features = plan.space, plan.features
        stages = range(1, plan.n_stages)
        stems = [Stem(space, input_channels, features[0], plan.kernel_sizes[1], plan.strides[1])]
        downs = [Downsample(space, features[i - 2], features[i - 1], plan.strides[i]) for i in stages[1:]]
        self.downsample = nn.ModuleList(stems + downs)
        self.stages = nn.ModuleList(Stage(space, features[i - 1], plan.kernel_sizes[i], i - 1, options) for i in stages)
        self.fue = options.fue
        self.side_outputs = nn.ModuleList(SideOutput(space, features[i - 1]) for i in stages)
        lifted = [(input_channels, features[0]), *((features[i - 1], features[i]) for i in stages)]
        self.skips = nn.ModuleList(
            ResidualBlock(space, cin, cout, kernel)
            for (cin, cout), kernel in zip(lifted, plan.kernel_sizes, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c *space) -> skips, full resolution first"""
        skips = [self.skips[0](x)]
        for i, (down, stage, side) in enumerate(zip(self.downsample, self.stages, self.side_outputs, strict=True), 1):
            x = stage(down(x))
            skips.append(self.skips[i](side(x)))
        return [weigh_by_uncertainty(skip) for skip in skips] if self.fue else skips


class Stem(nn.Module):
    """Dense convolution with a large kernel: 7 where the plan's kernel is 3, 1 where the plan does not mix slices."""

    def __init__(self, space: Space, cin: int, cout: int, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        size = tuple(2 * k + 1 if k > 1 else max(1, s) for k, s in zip(kernel, stride, strict=True))
        padding = tuple(k // 2 if k % 2 else 0 for k in size)
        self.conv = space.conv(cin, cout, size, tuple(stride), padding)

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *space) -> (b cout *space/stride)"""
        return self.conv(x)


class Downsample(nn.Module):
    """Norm, then convolution with kernel = stride."""

    def __init__(self, space: Space, cin: int, cout: int, stride: Sequence[int]):
        super().__init__()
        self.norm = space.norm(cin)
        self.conv = space.conv(cin, cout, tuple(stride), tuple(stride))

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *space) -> (b cout *space/stride)"""
        return self.conv(self.norm(x))


class Stage(nn.Module):
    """Gated spatial convolution, then the Mamba layers."""

    def __init__(self, space: Space, channels: int, kernel: Sequence[int], index: int, options: Options):
        super().__init__()
        self.gsc = GatedSpatialConv(space, channels, kernel, options.gsc)
        n_slices = options.n_slices[index]
        self.layers = nn.ModuleList(
            options.mixer.layer(channels, n_slices=n_slices) for _ in range(options.depths[index])
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        x = self.gsc(x)
        for layer in self.layers:
            x = layer(x)
        return x


class SideOutput(nn.Module):
    """Norm and a two-layer perceptron per voxel, on the way to the skip; the trunk goes on without it."""

    def __init__(self, space: Space, channels: int):
        super().__init__()
        self.norm = space.norm(channels)
        self.fc1 = pointwise(space, channels, 2 * channels)
        self.fc2 = pointwise(space, 2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))
