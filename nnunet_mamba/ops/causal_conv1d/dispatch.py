"""The public function, its checks, and its registration with torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops import backends
from nnunet_mamba.ops.causal_conv1d import blocked
from nnunet_mamba.ops.exporting import is_exporting
from nnunet_mamba.ops.numerics import check_device, check_float, check_shape, without_autocast
from nnunet_mamba.ops.self_test import BACKWARD

OP = "causal_conv1d"
INPUTS = "Tensor x, Tensor weight, Tensor? bias, bool silu"
ACTIVATIONS = (None, "silu", "swish")


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, *, backend: str = "auto"
) -> Tensor:
    """Causal depthwise convolution with the meaning of causal-conv1d's `causal_conv1d_fn`.

    x (b d l), weight (d w), bias (d), activation None or "silu" ("swish") -> (b d l) in x's dtype.
    Once differentiable in every tensor argument. Raises ValueError for shapes, dtypes, devices and activations that do
    not fit, and for a backend that cannot run.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"{OP}: activation {activation!r} is unknown; known: None, 'silu', 'swish'")
    if x.dim() != 3 or x.shape[2] < 1:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}; expected (b d l) with l >= 1")
    if weight.dim() != 2 or weight.shape[1] < 1:
        raise ValueError(f"{OP}: weight has shape {tuple(weight.shape)}; expected (d w) with w >= 1")
    check_float(OP, "x", x)
    d = x.shape[1]
    for name, parameter, shape, letters in (
        ("weight", weight, (d, weight.shape[1]), "d w"),
        ("bias", bias, (d,), "d"),
    ):
        if parameter is not None:
            check_shape(OP, name, parameter, shape, letters)
            check_float(OP, name, parameter)
            check_device(OP, name, parameter, x)
    if is_exporting():  # torch's own operators already
        return blocked.forward(x, weight, bias, activation is not None)
    return _forward(x, weight, bias, activation is not None, backend)


@torch.library.custom_op(f"nnunet_mamba::{OP}", mutates_args=(), schema=f"({INPUTS}, str backend) -> Tensor")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str):
    with without_autocast(x):
        return backends.choose(OP, backend, x).forward(x, weight, bias, silu)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    f"nnunet_mamba::{OP}_backward", mutates_args=(), schema=f"(Tensor grad_y, {INPUTS}, str backend) -> Tensor[]"
)
def _backward(grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str):
    with without_autocast(x):
        grads = backends.choose(OP, backend, x, BACKWARD).backward(grad_y, x, weight, bias, silu)
    return [g.contiguous() for g in grads if g is not None]


@_backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str):
    given = (x, weight, bias)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in given if t is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any):
    x, weight, bias, ctx.silu, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx: Any, grad_y: Tensor):
    tensors = ctx.saved_tensors
    grads = iter(_backward(grad_y, *tensors, ctx.silu, ctx.backend))
    return (*(None if x is None else next(grads) for x in tensors), None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
