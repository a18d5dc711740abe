"""Inputs, tolerances and backends for the op tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_mamba.ops import backends

# relative to the largest reference value: rounding of the format for half types, of sums of ~1e3 terms for float32
VALUE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
GRADIENT_TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 8e-3}


def cpu_backends(op: str) -> list[str]:
    """Backends that can run on this machine's CPU."""
    return [name for name, reason in backends.explain(op, torch.zeros(1, 1, 1)).items() if reason == "ok"]


def scan_inputs(b: int, d: int, n: int, length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        "u": torch.randn(b, d, length, dtype=dtype),
        "delta": 0.5 * torch.randn(b, d, length, dtype=dtype),
        "A": -torch.exp(0.3 * torch.randn(d, n, dtype=dtype)),
        "B": torch.randn(b, n, length, dtype=dtype),
        "C": torch.randn(b, n, length, dtype=dtype),
        "D": torch.randn(d, dtype=dtype),
        "z": torch.randn(b, d, length, dtype=dtype),
        "delta_bias": 0.5 * torch.randn(d, dtype=dtype),
    }


def conv_inputs(b: int, d: int, w: int, length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        "x": torch.randn(b, d, length, dtype=dtype),
        "weight": torch.randn(d, w, dtype=dtype),
        "bias": torch.randn(d, dtype=dtype),
    }


def tri_inputs(
    b: int, length: int, e: int, n: int, r: int, w: int, orders: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    def scaled(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype) / shape[-1] ** 0.5

    xz = torch.randn(b, length, 2 * e, dtype=dtype)
    return {
        "x": xz[..., :e],
        "z": xz[..., e:],
        "conv_weight": scaled(orders, e, w),
        "conv_bias": 0.1 * torch.randn(orders, e, dtype=dtype),
        "x_proj_weight": scaled(orders, r + 2 * n, e),
        "dt_proj_weight": scaled(orders, e, r),
        "dt_bias": -2 + 0.5 * torch.randn(orders, e, dtype=dtype),
        "A": -torch.exp(0.3 * torch.randn(orders, e, n, dtype=dtype)),
        "D": torch.randn(orders, e, dtype=dtype),
    }


def ssd_inputs(
    b: int, length: int, h: int, p: int, g: int, n: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    return {
        "x": torch.randn(b, length, h, p, dtype=dtype),
        "dt": 0.5 * torch.randn(b, length, h, dtype=dtype),
        "A": -torch.exp(0.3 * torch.randn(h, dtype=dtype)),
        "B": torch.randn(b, length, g, n, dtype=dtype),
        "C": torch.randn(b, length, g, n, dtype=dtype),
        "D": torch.randn(h, dtype=dtype),
        "dt_bias": 0.5 * torch.randn(h, dtype=dtype),
    }


def oriented_ssd_inputs(
    b: int, length: int, h: int, p: int, g: int, n: int, w: int, orders: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    k = h * p + 2 * g * n
    return {
        "xBC": torch.randn(b, length, k, dtype=dtype),
        "dt": 0.5 * torch.randn(b, length, h, dtype=dtype),
        "conv_weight": torch.randn(orders, k, w, dtype=dtype) / w**0.5,
        "conv_bias": 0.1 * torch.randn(orders, k, dtype=dtype),
        "dt_bias": -2 + 0.5 * torch.randn(orders, h, dtype=dtype),
        "A": -torch.exp(0.3 * torch.randn(orders, h, dtype=dtype)),
        "D": torch.randn(orders, h, dtype=dtype),
    }


def as_leaves(
    tensors: dict[str, Tensor], dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    return {k: v.detach().to(device, dtype or v.dtype).requires_grad_() for k, v in tensors.items()}


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value (at least the format's smallest normal number)."""
    floor = torch.finfo(got.dtype).tiny
    got, expected = got.detach().to(expected.device), expected.detach()
    scale = expected.abs().max().clamp(min=floor) if expected.numel() else torch.ones(())
    difference = (got.to(expected.dtype) - expected).abs()
    return float((difference.max() if difference.numel() else torch.zeros(())) / scale)


def gradients(y: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(y.shape, dtype=torch.float64, generator=generator).to(y.device, y.dtype)
    return dict(zip(inputs, torch.autograd.grad((y * cotangent).sum(), list(inputs.values())), strict=True))


def compare(
    run: Callable[[dict[str, Tensor], str], Tensor], inputs: dict[str, Tensor], dtype: torch.dtype, backend: str,
    device: torch.device | str = "cpu", values: dict[torch.dtype, float] = VALUE_TOLERANCE,
) -> None:  # fmt: skip
    """`run` on the backend in `dtype` against the reference in float64 on the same (rounded) numbers."""
    tested = as_leaves(inputs, dtype, device)
    judge = {k: v.detach().cpu().double().requires_grad_() for k, v in tested.items()}
    y, expected = run(tested, backend), run(judge, "reference")
    assert y.dtype == dtype
    assert y.shape == expected.shape
    assert relative_error(y, expected) <= values[dtype], "y"
    wanted = gradients(expected, judge)
    for name, grad in gradients(y, tested).items():
        assert grad.dtype == dtype, name
        assert relative_error(grad, wanted[name]) <= GRADIENT_TOLERANCE[dtype], name
