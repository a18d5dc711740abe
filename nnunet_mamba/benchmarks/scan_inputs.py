"""Random tensors of a trained network's magnitudes, for scans and mixers of Mamba-1 and Mamba-2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STATES, TAPS, HEAD = 16, 4, 32
"""Mamba-1's state entries per channel, taps of the convolution, channels of Mamba-2's heads where that divides"""
Normal = Callable[..., Tensor]


def make_inputs(
    op: str, batch: int, channels: int, length: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Of "scan" or "mixer" of Mamba-1; weights in float32 where activations are half"""
    normal, weights, b, d, n = _normal(device, dtype), _weights(dtype), batch, channels, STATES
    if op == "scan":
        return {
            "u": normal(b, d, length),
            "delta": normal(b, d, length, scale=0.5),
            "A": _decays(d, device, weights),
            "B": normal(b, n, length),
            "C": normal(b, n, length),
            "D": normal(d, kind=weights),
            "z": normal(b, d, length),
            "delta_bias": _small_steps(normal(d, scale=0.5, kind=weights)),
        }
    rank = max(1, d // 32)
    return {
        "x": normal(b, length, d),
        "z": normal(b, length, d),
        "conv_weight": normal(3, d, TAPS, scale=0.5, kind=weights),
        "conv_bias": normal(3, d, scale=0.1, kind=weights),
        "x_proj_weight": normal(3, rank + 2 * n, d, scale=d**-0.5, kind=weights),
        "dt_proj_weight": normal(3, d, rank, scale=rank**-0.5, kind=weights),
        "dt_bias": _small_steps(normal(3, d, scale=0.5, kind=weights)),
        "A": _decays(d, device, weights).detach().expand(3, d, n).clone().requires_grad_(),
        "D": normal(3, d, kind=weights),
    }


def make_mamba2_inputs(
    op: str, batch: int, channels: int, length: int, device: torch.device, dtype: torch.dtype, states: int
) -> dict[str, Tensor]:
    """Of the same size for Mamba-2, with one group"""
    normal, weights, b = _normal(device, dtype), _weights(dtype), batch
    p = HEAD if channels % HEAD == 0 else channels
    h = channels // p
    # Mamba-2's initial A: between -1 and -16, a value per head
    A = -torch.linspace(1, 16, h, device=device, dtype=weights)
    if op == "scan":
        return {
            "x": normal(b, length, h, p),
            "dt": normal(b, length, h, scale=0.5),
            "A": A.requires_grad_(),
            "B": normal(b, length, 1, states),
            "C": normal(b, length, 1, states),
            "D": normal(h, kind=weights),
            "dt_bias": _small_steps(normal(h, scale=0.5, kind=weights)),
        }
    k = channels + 2 * states
    return {
        "xBC": normal(b, length, k),
        "dt": normal(b, length, h, scale=0.5),
        "conv_weight": normal(3, k, TAPS, scale=0.5, kind=weights),
        "conv_bias": normal(3, k, scale=0.1, kind=weights),
        "dt_bias": _small_steps(normal(3, h, scale=0.5, kind=weights)),
        "A": A.expand(3, h).clone().requires_grad_(),
        "D": normal(3, h, kind=weights),
    }


def _normal(device: torch.device, dtype: torch.dtype) -> Normal:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device, kind).requires_grad_()

    return normal


def _weights(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _small_steps(bias: Tensor) -> Tensor:
    """softplus(-4) = 0.018: a step of a fresh network"""
    return (bias - 4).detach().requires_grad_()


def _decays(channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Mamba's initial A: -1, -2, ... -16 in every channel"""
    A = -torch.arange(1, STATES + 1, device=device, dtype=dtype).repeat(channels, 1)
    return A.requires_grad_()
