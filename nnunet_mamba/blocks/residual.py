"""Residual block and up-sampling block of UNETR-style decoders (Hatamizadeh et al. 2022), as SegMamba uses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_mamba.blocks.convolutions import LEAKY_SLOPE, Space, pointwise, same_conv, under_conv


class ResidualBlock(nn.Module):
    """conv - norm - act - conv - norm, plus the input (1x1 conv - norm if the width changes), act."""

    def __init__(self, space: Space, cin: int, cout: int, kernel: Sequence[int]):
        super().__init__()
        self.conv1 = under_conv(same_conv(space, cin, cout, kernel, bias=False))
        self.conv2 = under_conv(same_conv(space, cout, cout, kernel, bias=False))
        self.conv3 = under_conv(pointwise(space, cin, cout, bias=False)) if cin != cout else None
        self.norm = space.norm(cout)  # holds no parameters, so one serves all three places
        self.act = nn.LeakyReLU(LEAKY_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(b cin *space) -> (b cout *space)"""
        y = self.act(self.norm(self.conv1(x)))
        y = self.norm(self.conv2(y))
        shortcut = x if self.conv3 is None else self.norm(self.conv3(x))
        return self.act(y + shortcut)


class UpBlock(nn.Module):
    """Transposed conv with kernel = stride, concatenate [up-sampled, skip], residual block."""

    def __init__(self, space: Space, cin: int, cout: int, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        self.transp_conv = under_conv(space.transposed(cin, cout, tuple(stride), tuple(stride), bias=False))
        self.conv_block = ResidualBlock(space, 2 * cout, cout, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(b cin *coarse), (b cout *fine) -> (b cout *fine)"""
        return self.conv_block(torch.cat((self.transp_conv(x), skip), dim=1))
