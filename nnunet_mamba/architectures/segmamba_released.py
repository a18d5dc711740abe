"""SegMamba exactly as its authors released it: topology, state_dict keys and slice counts.

For loading published checkpoints (`strict=True`) and for parity tests. New trainings use `segmamba.SegMamba`;
`to_plan_sized` carries weights over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from nnunet_mamba.architectures.segmamba import SideOutput
from nnunet_mamba.blocks.convolutions import SPACE_3D, pointwise, under_conv
from nnunet_mamba.blocks.gated_spatial_conv import GatedSpatialConv
from nnunet_mamba.blocks.mamba import MambaLayer
from nnunet_mamba.blocks.residual import ResidualBlock, UpBlock

KERNEL, STRIDE = (3, 3, 3), (2, 2, 2)
RELEASED_SLICES = (64, 32, 16, 8)
N_STAGES = 4


class ReleasedSegMamba(nn.Module):
    """(b c x y z) -> logits (b k x y z); every axis divisible by 16.

    `nslices`: slices of the inter-slice scan per stage. The released numbers equal the volume's slices only for a
    128-deep patch and must divide the token count; "auto" takes the first axis of each stage's feature map, which
    always works and equals the release at depth 128. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        in_chans: int = 1,
        out_chans: int = 13,
        depths: Sequence[int] = (2, 2, 2, 2),
        feat_size: Sequence[int] = (48, 96, 192, 384),
        hidden_size: int = 768,
        nslices: Sequence[int] | str = RELEASED_SLICES,
    ):
        super().__init__()
        if len(depths) != N_STAGES or len(feat_size) != N_STAGES:
            raise ValueError(f"depths={tuple(depths)}, feat_size={tuple(feat_size)}; expected {N_STAGES} numbers each")
        self.nslices = _slices(nslices)
        c0, c1, c2, c3 = feat_size
        self.vit = MambaEncoder(in_chans, depths, feat_size, self.nslices)
        self.encoder1 = _BasicBlock(in_chans, c0)
        self.encoder2 = _BasicBlock(c0, c1)
        self.encoder3 = _BasicBlock(c1, c2)
        self.encoder4 = _BasicBlock(c2, c3)
        self.encoder5 = _BasicBlock(c3, hidden_size)
        self.decoder5 = UpBlock(SPACE_3D, hidden_size, c3, KERNEL, STRIDE)
        self.decoder4 = UpBlock(SPACE_3D, c3, c2, KERNEL, STRIDE)
        self.decoder3 = UpBlock(SPACE_3D, c2, c1, KERNEL, STRIDE)
        self.decoder2 = UpBlock(SPACE_3D, c1, c0, KERNEL, STRIDE)
        self.decoder1 = _BasicBlock(c0, c0)
        # released with a literal width of 48, which is c0 in every published configuration
        self.out = under_conv(under_conv(pointwise(SPACE_3D, c0, out_chans)))

    def forward(self, x: Tensor) -> Tensor:
        """(b c x y z) -> (b k x y z)"""
        self.check_size(x.shape[2:])
        sides = self.vit(x)
        y = self.decoder5(self.encoder5(sides[3]), self.encoder4(sides[2]))
        y = self.decoder4(y, self.encoder3(sides[1]))
        y = self.decoder3(y, self.encoder2(sides[0]))
        y = self.decoder2(y, self.encoder1(x))
        return self.out(self.decoder1(y))

    def check_size(self, size: Sequence[int]) -> None:
        """Raises ValueError for an input size that the fixed topology or the fixed slice counts cannot take."""
        if any(s < 16 or s % 16 for s in size):
            raise ValueError(f"size {tuple(size)}: every axis must be divisible by 16 in the released network")
        for stage, n in enumerate(self.nslices):
            tokens = 1
            for s in size:
                tokens *= s // 2 ** (stage + 1)
            if n is not None and tokens % n:
                raise ValueError(
                    f"size {tuple(size)}: stage {stage} has {tokens} tokens, not divisible by nslices={n}; "
                    'use nslices="auto" (the size of the first axis)'
                )


class MambaEncoder(nn.Module):
    """The released `vit`: four stages, each with a side output."""

    def __init__(self, in_chans: int, depths: Sequence[int], feat_size: Sequence[int], nslices: Sequence[int | None]):
        super().__init__()
        norm = SPACE_3D.norm
        stem = nn.Sequential(nn.Conv3d(in_chans, feat_size[0], 7, 2, 3))
        downs = [
            nn.Sequential(norm(feat_size[i]), nn.Conv3d(feat_size[i], feat_size[i + 1], 2, 2))
            for i in range(N_STAGES - 1)
        ]
        self.downsample_layers = nn.ModuleList([stem, *downs])
        self.gscs = nn.ModuleList(GatedSpatialConv(SPACE_3D, c, KERNEL) for c in feat_size)
        self.stages = nn.ModuleList(
            nn.Sequential(*(MambaLayer(c, n_slices=n) for _ in range(depth)))
            for c, depth, n in zip(feat_size, depths, nslices, strict=True)
        )
        self.mlps = nn.ModuleList(SideOutput(SPACE_3D, c) for c in feat_size)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b c x y z) -> side outputs at 1/2, 1/4, 1/8, 1/16"""
        sides = []
        for down, gsc, stage, mlp in zip(self.downsample_layers, self.gscs, self.stages, self.mlps, strict=True):
            x = stage(gsc(down(x)))
            sides.append(mlp(x))
        return sides


class _BasicBlock(nn.Module):
    """A residual block whose keys begin with `layer.`."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.layer = ResidualBlock(SPACE_3D, cin, cout, KERNEL)

    def forward(self, x: Tensor) -> Tensor:
        """(b cin x y z) -> (b cout x y z)"""
        return self.layer(x)


def _slices(nslices: Sequence[int] | str) -> tuple[int | None, ...]:
    if isinstance(nslices, str):
        if nslices != "auto":
            raise ValueError(f'nslices={nslices!r}; expected "auto" or {N_STAGES} numbers')
        return (None,) * N_STAGES
    if len(nslices) != N_STAGES or any(n < 1 for n in nslices):
        raise ValueError(f'nslices={tuple(nslices)}; expected "auto" or {N_STAGES} positive numbers')
    return tuple(nslices)


_KEY_MAP = (
    (r"vit\.downsample_layers\.0\.0\.", "encoder.downsample.0.conv."),
    (r"vit\.downsample_layers\.(\d+)\.1\.", r"encoder.downsample.\1.conv."),
    (r"vit\.gscs\.(\d+)\.", r"encoder.stages.\1.gsc."),
    (r"vit\.stages\.(\d+)\.(\d+)\.", r"encoder.stages.\1.layers.\2."),
    (r"vit\.mlps\.(\d+)\.", r"encoder.side_outputs.\1."),
    (r"encoder([1-5])\.layer\.", lambda m: f"encoder.skips.{int(m[1]) - 1}."),
    (r"decoder([2-5])\.", lambda m: f"decoder.stages.{5 - int(m[1])}."),
    (r"decoder1\.layer\.", "decoder.refine."),
    (r"out\.conv\.conv\.", "decoder.seg_layers.3."),
)


def plan_sized_key(key: str) -> str:
    """The name that a released parameter has in a plan-sized SegMamba of 5 stages. Raises ValueError if unknown."""
    for pattern, replacement in _KEY_MAP:
        match = re.match(pattern, key)
        if match:
            return re.sub(pattern, replacement, key, count=1)
    raise ValueError(f"{key!r} is not a parameter of the released SegMamba")


def to_plan_sized(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released weights under plan-sized names. The heads for deep supervision (seg_layers 0-2) are not among them."""
    return {plan_sized_key(key): value for key, value in state_dict.items()}
