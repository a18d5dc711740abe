"""The mixer as a Mamba block calls it, at the sizes of SegMamba on 128^3 patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_mamba.ops import oriented_scan, oriented_ssd
from tests.gpu.conftest import DRY

STATES, TAPS = 16, 4
STAGE_2 = (2, 96, 32) if not DRY else (2, 4, 2)
"""Batch, channels of the scan, edge of the map"""


def mixer_inputs(batch: int, channels: int, edge: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """x and z are the halves of one projection; magnitudes of an initialised network"""
    length, rank = edge**3, max(1, math.ceil(channels / 32))
    generator = torch.Generator().manual_seed(0)
    weights = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device, weights)

    xz = torch.randn(batch, length, 2 * channels, generator=generator).to(device, dtype)
    A = -torch.arange(1.0, STATES + 1).repeat(3, channels, 1).to(device, weights)
    tensors = [
        xz[..., :channels], xz[..., channels:], normal(3, channels, TAPS, scale=0.5), normal(3, channels, scale=0.1),
        normal(3, rank + 2 * STATES, channels, scale=channels**-0.5), normal(3, channels, rank, scale=rank**-0.5),
        normal(3, channels, scale=0.5) - 4, A * torch.exp(normal(3, channels, STATES, scale=0.1)), normal(3, channels),
    ]  # fmt: skip
    return [t.detach().requires_grad_() for t in tensors]


def mamba2_inputs(batch: int, channels: int, edge: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """xBC and dt are parts of one projection; heads of 32 channels, magnitudes of an initialised network"""
    length, heads = edge**3, max(1, channels // 32)
    k = channels + 2 * STATES
    generator = torch.Generator().manual_seed(0)
    weights = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device, weights)

    projected = torch.randn(batch, length, channels + k + heads, generator=generator).to(device, dtype)
    A = -torch.arange(1.0, heads + 1).repeat(3, 1).to(device, weights)
    tensors = [
        projected[..., channels:-heads], projected[..., -heads:], normal(3, k, TAPS, scale=0.5),
        normal(3, k, scale=0.1), normal(3, heads, scale=0.5) - 4, A, normal(3, heads),
    ]  # fmt: skip
    return [t.detach().requires_grad_() for t in tensors]


def run(inputs: list[Tensor], edge: int, backend: str = "triton") -> list[Tensor]:
    """The result and all gradients, of the mixer that these inputs are for"""
    if len(inputs) == 7:
        y = oriented_ssd(*inputs, d_state=STATES, n_groups=1, orders="fbs", n_slices=edge, backend=backend)
    else:
        y = oriented_scan(*inputs, orders="fbs", n_slices=edge, backend=backend)
    return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y))]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit for bit"""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
