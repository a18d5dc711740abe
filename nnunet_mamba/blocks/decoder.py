"""Decoder with deep supervision, speaking nnU-Net's language.

All heads live under `seg_layers`, the coarsest first and the full resolution last: nnU-Net's loader of pretrained
weights skips exactly the keys that contain `.seg_layers.`. The heads exist whether deep supervision is on or off, so a
checkpoint trained with it loads strictly without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnunet_mamba.blocks.convolutions import Space, pointwise
from nnunet_mamba.blocks.residual import ResidualBlock, UpBlock


class ResidualDecoder(nn.Module):
    """Up blocks from the bottleneck to full resolution, a residual block there, one head per level.

    features, kernel_sizes: per level, full resolution first, bottleneck last; strides[i] leads from level i-1 to i.
    """

    def __init__(
        self,
        space: Space,
        features: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        num_classes: int,
        deep_supervision: bool,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        levels = range(len(features) - 2, -1, -1)
        self.stages = nn.ModuleList(
            UpBlock(space, features[i + 1], features[i], kernel_sizes[i], strides[i + 1]) for i in levels
        )
        self.refine = ResidualBlock(space, features[0], features[0], kernel_sizes[0])
        self.seg_layers = nn.ModuleList(pointwise(space, features[i], num_classes) for i in levels)

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Skips, full resolution first -> logits (b k *space), or a list of them, full resolution first"""
        x = skips[-1]
        outputs = []
        last = len(self.stages) - 1
        for i, (stage, head) in enumerate(zip(self.stages, self.seg_layers, strict=True)):
            x = stage(x, skips[-2 - i])
            if i == last:
                x = self.refine(x)
            if self.deep_supervision or i == last:
                outputs.append(head(x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]
