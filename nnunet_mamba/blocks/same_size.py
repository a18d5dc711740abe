"""A control of the same size: convolutions in the place of a mixer, with as many parameters as it has.

Without its Mamba layers a network is smaller too. This one is not, so what is left of the difference is the scan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.volume_conv import TAPS, convolve_tokens, volume_conv


class SameSizeConv(nn.Module):
    """Linear map to w channels, depth-wise convolution of the volume, SiLU, linear map back. Our own definition.

    Every one of the w channels costs the same number of parameters, 2 channels + 3^axes + 1, so w is what `replaced`,
    built with the same `settings`, has parameters, divided by that and rounded, and at least 1.
    """

    def __init__(self, channels: int, orders: str = "f", *, axes: int, replaced: type[nn.Module], **settings: Any):
        super().__init__()
        with torch.device("meta"):  # shapes only
            wanted = sum(p.numel() for p in replaced(channels, orders, **settings).parameters())
        width = max(1, round(wanted / (2 * channels + TAPS**axes + 1)))
        self.in_proj = nn.Linear(channels, width, bias=False)
        self.conv = volume_conv(width, axes)
        self.out_proj = nn.Linear(width, channels, bias=False)

    def forward(self, tokens: Tensor, n_slices: int = 1, space: Sequence[int] = ()) -> Tensor:
        """(b l c) -> (b l c); `space`: sizes of the volume that the tokens fill"""
        x = F.linear(tokens, self.in_proj.weight.to(tokens.dtype))
        x = F.silu(convolve_tokens(self.conv, x, space))
        return F.linear(x, self.out_proj.weight.to(x.dtype))
