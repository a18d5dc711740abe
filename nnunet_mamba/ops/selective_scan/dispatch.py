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
from nnunet_mamba.ops.selective_scan import decomposed
from nnunet_mamba.ops.self_test import BACKWARD

OP = "selective_scan"
INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, bool softplus"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """Selective scan with the argument order and meaning of mamba-ssm's `selective_scan_fn`.

    u, delta, z (b d l); A (d n), real and negative; B, C (b n l); D, delta_bias (d) -> y (b d l) in u's dtype.
    State and accumulation are float32, float64 for float64 inputs. Once differentiable in every tensor argument.
    Raises ValueError for shapes, dtypes and devices that do not fit, a positive A, and a backend that cannot run.
    Source: Gu & Dao 2023 (arXiv 2312.00752), Algorithm 2.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    if is_exporting():
        return decomposed.forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return _forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend)[0]


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    if u.dim() != 3 or u.shape[2] < 1:
        raise ValueError(f"{OP}: u has shape {tuple(u.shape)}; expected (b d l) with l >= 1")
    if A.dim() != 2 or A.shape[1] < 1:
        raise ValueError(f"{OP}: A has shape {tuple(A.shape)}; expected (d n) with n >= 1")
    batch, d, length = u.shape
    n = A.shape[1]
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...], str], ...] = (
        ("delta", delta, (batch, d, length), "b d l"),
        ("A", A, (d, n), "d n"),
        ("B", B, (batch, n, length), "b n l"),
        ("C", C, (batch, n, length), "b n l"),
        ("D", D, (d,), "d"),
        ("z", z, (batch, d, length), "b d l"),
        ("delta_bias", delta_bias, (d,), "d"),
    )
    check_float(OP, "u", u)
    for name, x, shape, letters in expected:
        if x is not None:
            check_shape(OP, name, x, shape, letters)
            check_float(OP, name, x)
            check_device(OP, name, x, u)


@torch.library.custom_op(
    f"nnunet_mamba::{OP}", mutates_args=(), schema=f"({INPUTS}, str backend) -> (Tensor y, Tensor states)"
)
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    backend: str,
):
    check_negative(OP, A)
    with without_autocast(u):
        return backends.choose(OP, backend, u).forward(u, delta, A, B, C, D, z, delta_bias, softplus)


@_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    backend: str,
):
    batch, d, length = u.shape
    states = u.new_empty((batch, n_chunks(length), A.shape[1], d), dtype=accumulation_dtype(u))
    return u.new_empty((batch, d, length)), states


@torch.library.custom_op(
    f"nnunet_mamba::{OP}_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, {INPUTS}, Tensor states, str backend) -> Tensor[]",
)
def _backward(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    backend: str,
):
    with without_autocast(u):
        grads = backends.choose(OP, backend, u, BACKWARD).backward(
            grad_y, u, delta, A, B, C, D, z, delta_bias, softplus, states
        )
    return [g.contiguous() for g in grads if g is not None]


@_backward.register_fake
def _(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    backend: str,
):
    given = (u, delta, A, B, C, D, z, delta_bias)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in given if x is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any):
    *tensors, ctx.softplus, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx: Any, grad_y: Tensor, grad_states: Tensor):
    *tensors, states = ctx.saved_tensors
    grads = iter(_backward(grad_y, *tensors, ctx.softplus, states, ctx.backend))
    return (*(None if x is None else next(grads) for x in tensors), None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
