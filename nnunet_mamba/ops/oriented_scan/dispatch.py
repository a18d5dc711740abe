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
    check_shape,
    n_chunks,
    without_autocast,
)
from nnunet_mamba.ops.oriented_scan import decomposed
from nnunet_mamba.ops.oriented_scan.orders import ORDERS, check_orders
from nnunet_mamba.ops.oriented_weights import Weights
from nnunet_mamba.ops.self_test import BACKWARD

OP = "oriented_scan"
REGISTERED = "tri_scan"
"""Under this name torch knows the operator; exported programs hold it"""
TENSORS = (
    "Tensor x, Tensor z, Tensor conv_weight, Tensor conv_bias, Tensor x_proj_weight, Tensor dt_proj_weight, "
    "Tensor dt_bias, Tensor A, Tensor D"
)


def oriented_scan(
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    orders: str = ORDERS,
    n_slices: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Scan the tokens of a volume along several orders, each with its own weights, and gate the sum.

    x, z (b l e): the two halves of a Mamba block's input projection, tokens in natural (row-major) order.
    conv_weight (o e w), conv_bias (o e), x_proj_weight (o r+2n e), dt_proj_weight (o e r), dt_bias (o e),
    A (o e n) negative, D (o e), one set per letter of `orders` (see `orders.py`) -> y (b l e) in x's dtype.
    `n_slices`: slices of the inter-slice order, must divide l; the size of the first spatial axis for a true
    slice-by-slice scan. Once differentiable in every tensor argument; arithmetic in float32 (float64 for float64).
    Raises ValueError for arguments that do not fit each other and for a backend that cannot run.
    Source: Xing et al. 2024 (SegMamba), section 2.2; Gu & Dao 2023, section 3.
    """
    weights = Weights(conv_weight, conv_bias, x_proj_weight, dt_proj_weight, dt_bias, A, D)
    _check(x, z, weights, orders, n_slices)
    if is_exporting():
        return decomposed.forward(x, z, weights, orders, n_slices)
    return _forward(x, z, *weights, orders, n_slices, backend)[0]


def _check(x: Tensor, z: Tensor, weights: Weights, orders: str, n_slices: int) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}; expected (b l e) with l >= 1")
    for name, letters in (("conv_weight", "o e w"), ("dt_proj_weight", "o e r"), ("A", "o e n")):
        weight = getattr(weights, name)
        if weight.dim() != 3 or weight.shape[2] < 1:
            raise ValueError(f"{OP}: {name} has shape {tuple(weight.shape)}; expected ({letters})")
    batch, length, e = x.shape
    check_orders(OP, orders, n_slices, length)
    o, taps, rank, n = len(orders), weights.conv_weight.shape[2], weights.rank, weights.states
    check_float(OP, "x", x)
    expected = {
        "z": ((batch, length, e), "b l e"),
        "conv_weight": ((o, e, taps), "o e w"),
        "conv_bias": ((o, e), "o e"),
        "x_proj_weight": ((o, rank + 2 * n, e), "o r+2n e"),
        "dt_proj_weight": ((o, e, rank), "o e r"),
        "dt_bias": ((o, e), "o e"),
        "A": ((o, e, n), "o e n"),
        "D": ((o, e), "o e"),
    }
    for name, (shape, letters) in expected.items():
        tensor = z if name == "z" else getattr(weights, name)
        check_shape(OP, name, tensor, shape, letters)
        check_float(OP, name, tensor)
        check_device(OP, name, tensor, x)


@torch.library.custom_op(
    f"nnunet_mamba::{REGISTERED}",
    mutates_args=(),
    schema=f"({TENSORS}, str orders, SymInt n_slices, str backend) -> (Tensor y, Tensor states)",
)
def _forward(x: Tensor, z: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *weights, orders, n_slices, backend = arguments
    module = backends.choose(OP, backend, x)
    with without_autocast(x):
        return module.forward(x, z, Weights(*weights), orders, n_slices)


@_forward.register_fake
def _(x: Tensor, z: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *weights, orders, _, _ = arguments
    batch, length, e = x.shape
    states = (len(orders), batch, n_chunks(length), Weights(*weights).states, e)
    return x.new_empty((batch, length, e)), x.new_empty(states, dtype=accumulation_dtype(x))


@torch.library.custom_op(
    f"nnunet_mamba::{REGISTERED}_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, {TENSORS}, str orders, SymInt n_slices, Tensor states, str backend) -> Tensor[]",
)
def _backward(grad_y: Tensor, x: Tensor, z: Tensor, *arguments: Any) -> list[Tensor]:
    *weights, orders, n_slices, states, backend = arguments
    module = backends.choose(OP, backend, x, BACKWARD)
    with without_autocast(x):
        grads = module.backward(grad_y, x, z, Weights(*weights), orders, n_slices, states)
    return [g.contiguous() for g in grads]


@_backward.register_fake
def _(grad_y: Tensor, x: Tensor, z: Tensor, *arguments: Any) -> list[Tensor]:
    given = (x, z, *arguments[: len(Weights._fields)])
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in given]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any):
    *tensors, ctx.orders, ctx.n_slices, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx: Any, grad_y: Tensor, grad_states: Tensor):
    *tensors, states = ctx.saved_tensors
    grads = _backward(grad_y, *tensors, ctx.orders, ctx.n_slices, states, ctx.backend)
    return (*grads, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
