"""Mamba encoder: a residual U-Net whose encoder turns from convolutions to Mamba with depth. Our own definition.

Two reports describe such a network without code or details: the coronary replication ("U-Net with Mamba blocks in the
encoder") and a BraTS design document (convolutions first, convolution and Mamba at stage 3, Mamba alone below). Ours:

    stages, finest first       first half: residual convolutions      then: residual convolutions and Mamba
                               last quarter, at least one: strided convolution, then [Mamba, MLP] blocks

Residual blocks and decoder are nnU-Net's own (residual encoder U-Net, Isensee et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, StackedResidualBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.topology import Topology, per_stage
from nnunet_mamba.blocks.convolutions import AFFINE_NORM, LEAKY_RELU, Space
from nnunet_mamba.blocks.mamba import to_tokens, to_volume
from nnunet_mamba.blocks.mixers import Mixer

SCANS = {"forward": "f", "bidirectional": "fb", "tri-orientated": "fbs"}
CONV, CONV_MAMBA, MAMBA = "conv", "conv+mamba", "mamba"
MLP_RATIO = 2


class MambaEncoder(PlannedNetwork):
    """Mamba encoder.

    Keywords of every network: see PlannedNetwork.
    `depths`: blocks per encoder stage. `scan`: "forward", "bidirectional" or "tri-orientated".
    The twin is without its Mamba layers.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        depths: int | Sequence[int] = 2,
        scan: str = "tri-orientated",
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        if scan not in SCANS:
            raise ValueError(f"scan={scan!r}; expected one of {', '.join(SCANS)}")
        blocks = per_stage("depths", depths, self.topology.n_stages)
        self.encoder = Encoder(self.topology, input_channels, blocks, self.mixer, SCANS[scan])
        # nnU-Net's decoder reads its settings from the encoder
        self.decoder = UNetDecoder(self.encoder, num_classes, 1, self.supervised)  # type: ignore[arg-type]


def stage_kinds(n_stages: int) -> tuple[str, ...]:
    """What each stage is made of, full resolution first."""
    convolutions, mambas = math.ceil(n_stages / 2), max(1, n_stages // 4)
    between = max(0, n_stages - convolutions - mambas)
    return (CONV,) * (n_stages - mambas - between) + (CONV_MAMBA,) * between + (MAMBA,) * mambas


class Encoder(nn.Module):
    """Image -> one skip per stage, full resolution first. Carries the attributes that nnU-Net's decoder reads."""

    def __init__(self, plan: Topology, input_channels: int, depths: Sequence[int], mixer: Mixer, orders: str):
        super().__init__()
        self.output_channels = list(plan.features)
        self.strides = [list(s) for s in plan.strides]
        self.kernel_sizes = [list(k) for k in plan.kernel_sizes]
        self.conv_op, self.conv_bias = plan.space.conv, True
        self.norm_op, self.norm_op_kwargs = plan.space.norm, AFFINE_NORM
        self.dropout_op, self.dropout_op_kwargs = None, None
        self.nonlin, self.nonlin_kwargs = nn.LeakyReLU, LEAKY_RELU
        widths = [input_channels, *plan.features]
        self.stages = nn.ModuleList(
            _stage(
                kind,
                plan.space,
                widths[i],
                widths[i + 1],
                plan.kernel_sizes[i],
                plan.strides[i],
                depths[i],
                mixer,
                orders,
            )
            for i, kind in enumerate(stage_kinds(plan.n_stages))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c *space) -> skips, full resolution first"""
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


def _stage(
    kind: str,
    space: Space,
    cin: int,
    cout: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    depth: int,
    mixer: Mixer,
    orders: str,
) -> nn.Module:
    if kind == MAMBA:
        down = nn.Sequential(space.conv(cin, cout, tuple(stride), tuple(stride)), space.norm(cout, **AFFINE_NORM))
        return nn.Sequential(down, *(MambaBlock(cout, mixer, orders) for _ in range(depth)))
    blocks = StackedResidualBlocks(
        depth, space.conv, cin, cout, list(kernel), list(stride), True, space.norm, AFFINE_NORM, None, {}, nn.LeakyReLU,
        LEAKY_RELU, BasicBlockD,
    )  # type: ignore[arg-type]  # fmt: skip
    if kind == CONV or not mixer:
        return blocks
    return nn.Sequential(blocks, mixer.layer(cout, orders))


class MambaBlock(nn.Module):
    """x + Mamba(LayerNorm(x)), then x + MLP(LayerNorm(x))"""

    def __init__(self, channels: int, mixer: Mixer, orders: str):
        super().__init__()
        self.mamba = mixer.layer(channels, orders)
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        x = self.mamba(x)
        with torch.autocast(x.device.type, enabled=False):
            tokens = to_tokens(x).to(self.norm.weight.dtype)
            y = self.fc2(F.gelu(self.fc1(self.norm(tokens))))
            return x + to_volume(y, x.shape[2:])
