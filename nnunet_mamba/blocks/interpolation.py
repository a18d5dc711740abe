"""Linear interpolation of feature maps in 2d and 3d."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """(b c *space) -> (b c *size), bilinear or trilinear, corners not aligned"""
    mode = "bilinear" if x.dim() == 4 else "trilinear"
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False)
