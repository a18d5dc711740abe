"""The public function, its checks, and its registration with torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops import backends
from nnunet_mamba.ops.exporting import is_exporting
from nnunet_mamba.ops.numerics import (
    accumulation_dtype,
    check_device,
    check_float,
    check_negative,
    check_shape,
    n_chunks,
    without_autocast,
)
from nnunet_mamba.ops.self_test import BACKWARD
from nnunet_mamba.ops.ssd import decomposed

OP = "ssd"
INPUTS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, bool softplus"


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """Mamba-2's scan: S[t] = exp(dt[t] A) S[t-1] + dt[t] B[t] x[t]^T, y[t] = C[t] . S[t] + D x[t], in every head.

    x (b l h p); dt (b l h); A (h), real and negative; B, C (b l g n), g dividing h; D, dt_bias (h) -> y (b l h p) in
    x's dtype. State and accumulation are float32, float64 for float64 inputs. Once differentiable in every tensor.
    Raises ValueError for shapes, dtypes and devices that do not fit, a positive A, and a backend that cannot run.
    Source: Dao & Gu 2024 (arXiv 2405.21060), section 3 (scalar structure of A) and section 6.
    """
    _check(x, dt, A, B, C, D, dt_bias)
    if is_exporting():
        return decomposed.forward(x, dt, A, B, C, D, dt_bias, dt_softplus)
    return _forward(x, dt, A, B, C, D, dt_bias, dt_softplus, backend)[0]


def _check(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, dt_bias: Tensor | None) -> None:
    if x.dim() != 4 or min(x.shape[1:]) < 1:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}; expected (b l h p) with l, h, p >= 1")
    if B.dim() != 4 or min(B.shape[2:]) < 1:
        raise ValueError(f"{OP}: B has shape {tuple(B.shape)}; expected (b l g n) with g, n >= 1")
    batch, length, heads, _ = x.shape
    groups, n = B.shape[2:]
    if heads % groups:
        raise ValueError(f"{OP}: B has {groups} groups, which do not divide x's {heads} heads; give (b l g n), g | h")
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...], str], ...] = (
        ("dt", dt, (batch, length, heads), "b l h"),
        ("A", A, (heads,), "h"),
        ("B", B, (batch, length, groups, n), "b l g n"),
        ("C", C, (batch, length, groups, n), "b l g n"),
        ("D", D, (heads,), "h"),
        ("dt_bias", dt_bias, (heads,), "h"),
    )
    check_float(OP, "x", x)
    for name, tensor, shape, letters in expected:
        if tensor is not None:
            check_shape(OP, name, tensor, shape, letters)
            check_float(OP, name, tensor)
            check_device(OP, name, tensor, x)


@torch.library.custom_op(
    f"nnunet_mamba::{OP}", mutates_args=(), schema=f"({INPUTS}, str backend) -> (Tensor y, Tensor states)"
)
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    backend: str,
):
    check_negative(OP, A)
    with without_autocast(x):
        return backends.choose(OP, backend, x).forward(x, dt, A, B, C, D, dt_bias, softplus)


@_forward.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    backend: str,
):
    batch, length, heads, p = x.shape
    states = x.new_empty((batch, n_chunks(length), heads, B.shape[3], p), dtype=accumulation_dtype(x))
    return x.new_empty((batch, length, heads, p)), states


@torch.library.custom_op(
    f"nnunet_mamba::{OP}_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, {INPUTS}, Tensor states, str backend) -> Tensor[]",
)
def _backward(
    grad_y: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    backend: str,
):
    with without_autocast(x):
        grads = backends.choose(OP, backend, x, BACKWARD).backward(grad_y, x, dt, A, B, C, D, dt_bias, softplus, states)
    return [g.contiguous() for g in grads if g is not None]


@_backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    backend: str,
):
    given = (x, dt, A, B, C, D, dt_bias)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in given if t is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any):
    *tensors, ctx.softplus, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx: Any, grad_y: Tensor, grad_states: Tensor):
    *tensors, states = ctx.saved_tensors
    grads = iter(_backward(grad_y, *tensors, ctx.softplus, states, ctx.backend))
    return (*(None if t is None else next(grads) for t in tensors), None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
