"""Gated spatial convolution of SegMamba (Xing et al. 2024, section 2.3), as released."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.convolutions import Space, pointwise, same_conv

MEETINGS = ("sum", "product")


class GatedSpatialConv(nn.Module):
    """Two 3x3x3 convolutions meet a 1x1x1 convolution, a last 1x1x1 returns to the input as a residual.

    The branches meet in a "sum", as in the released code, or in a "product", as the paper's figure draws it.
    """

    def __init__(self, space: Space, channels: int, kernel: Sequence[int], meet: str = "sum"):
        super().__init__()
        if meet not in MEETINGS:
            raise ValueError(f"gsc={meet!r}; expected one of {', '.join(MEETINGS)}")
        self.multiply = meet == "product"
        self.proj = same_conv(space, channels, channels, kernel)
        self.proj2 = same_conv(space, channels, channels, kernel)
        self.proj3 = pointwise(space, channels, channels)
        self.proj4 = pointwise(space, channels, channels)
        self.norm = space.norm(channels)  # holds no parameters, so one serves all four places

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        spatial = F.relu(self.norm(self.proj(x)))
        spatial = F.relu(self.norm(self.proj2(spatial)))
        direct = F.relu(self.norm(self.proj3(x)))
        met = spatial * direct if self.multiply else spatial + direct
        return x + F.relu(self.norm(self.proj4(met)))
