"""How wide the heads of a Mamba-2 layer are where nothing says so. Plain numbers: plans are written with it too."""

from __future__ import annotations

WIDEST_HEAD = 64
"""Of class `Mamba2` of mamba-ssm"""
WIDEST_AT_BOTTLENECK = 80
"""Of U-Mamba2"""
STEP = 8
"""Multiples of it suit the matrix units of GPUs"""


def head_width(inner: int, widest: int) -> int:
    """The largest divisor of the inner channels up to `widest` that is a multiple of 8; where none is, the largest.

    So every width has heads: 640 channels and 80 give 80, 1024 and 80 give 64, 62 and 64 give 62.
    """
    divisors = [width for width in range(1, min(widest, inner) + 1) if inner % width == 0]
    return max([width for width in divisors if width % STEP == 0] or divisors)
