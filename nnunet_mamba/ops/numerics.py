"""What all backends agree on: accumulation precision and the chunks whose start states are kept for the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256
"""Scan steps between two saved states. The gradient recomputes the steps in between."""

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything smaller."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(x: Tensor) -> torch.autocast:
    """The ops decide their precision themselves: autocast would round the projections inside them to half."""
    return torch.autocast(x.device.type, enabled=False)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of silu(x) times grad"""
    s = torch.sigmoid(x)
    return grad * s * (1 + x * (1 - s))


def n_chunks(length: int) -> int:
    """Number of saved states for a sequence of this length."""
    return (length + CHUNK - 1) // CHUNK


def check_float(op: str, name: str, x: Tensor) -> None:
    """Refuse integer and complex tensors by name."""
    if x.dtype not in FLOAT_TYPES:
        raise ValueError(f"{op}: {name} has dtype {x.dtype}; expected one of float16, bfloat16, float32, float64")


def check_shape(op: str, name: str, x: Tensor, shape: tuple[int, ...], letters: str) -> None:
    """Refuse a tensor whose shape does not fit the others, saying what was expected."""
    if tuple(x.shape) != shape:
        raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}; expected ({letters}) = {shape}")


def check_device(op: str, name: str, x: Tensor, like: Tensor) -> None:
    """Refuse tensors spread over devices."""
    if x.device != like.device:
        raise ValueError(f"{op}: {name} is on {x.device}, the other tensors are on {like.device}")


def check_negative(op: str, A: Tensor) -> None:
    """Refuse growth: exp(dt A) must not exceed 1."""
    # reading A waits for the device, which a stream capture forbids
    if A.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    if A.numel() and bool((A > 0).any()):
        raise ValueError(f"{op}: A has positive entries (largest {A.max().item():.3g}); expected A = -exp(A_log) < 0")
