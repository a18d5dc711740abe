"""Clipping of gradients whose norm is beyond float32 although they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

torch_clip = torch.nn.utils.clip_grad_norm_  # found here even while a trainer guides nnU-Net's call to itself

SAFE = 1e12
"""Gradients up to here, squared, are far from the end of float32, however many there are."""


def clip_large(parameters: Sequence[nn.Parameter], max_norm: float, **options: Any) -> Tensor:
    """torch's `clip_grad_norm_`; where the sum of squares overflows, gradients are scaled down before it is taken.

    Returns the norm before clipping, as a float64 tensor where float32 cannot hold it; not finite only if a gradient
    is not.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch_clip(parameters, max_norm, **options)
    largest = torch.stack([torch.linalg.vector_norm(g, math.inf) for g in gradients]).max()
    if not SAFE < largest < math.inf:  # squares of what is smaller can be summed; NaN and Inf are torch's to report
        return torch_clip(parameters, max_norm, **options)
    for gradient in gradients:
        gradient.div_(largest)
    scaled = torch_clip(parameters, max_norm, **options)  # of elements up to 1: cannot overflow
    if scaled < max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / scaled)
    return scaled.double() * largest.double()
