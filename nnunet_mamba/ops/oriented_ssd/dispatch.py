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
from nnunet_mamba.ops.oriented_scan.orders import ORDERS, check_orders
from nnunet_mamba.ops.oriented_ssd import decomposed
from nnunet_mamba.ops.oriented_weights import SSDWeights
from nnunet_mamba.ops.self_test import BACKWARD

OP = "oriented_ssd"
TENSORS = "Tensor xBC, Tensor dt, Tensor conv_weight, Tensor conv_bias, Tensor dt_bias, Tensor A, Tensor D"
SIZES = "SymInt d_state, SymInt n_groups, str orders, SymInt n_slices"


def oriented_ssd(
    xBC: Tensor,
    dt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    d_state: int,
    n_groups: int = 1,
    orders: str = ORDERS,
    n_slices: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Mamba-2's scan of the tokens of a volume along several orders, each with its own weights; their sum.

    xBC (b l e+2gn): x | B | C of the mixer's input projection, before the convolution, tokens in natural (row-major)
    order; dt (b l h) before bias and softplus. conv_weight (o e+2gn w), conv_bias (o e+2gn), dt_bias (o h), A (o h)
    negative, D (o h), one set per letter of `orders` -> y (b l e) in xBC's dtype, without gate and norm.
    `d_state` is n, `n_groups` g; h is dt's, a head has p = e / h channels. `n_slices`: slices of the inter-slice order,
    must divide l. Once differentiable in every tensor argument; arithmetic in float32 (float64 for float64).
    Raises ValueError for arguments that do not fit each other and for a backend that cannot run.
    Source: Dao & Gu 2024 (arXiv 2405.21060), section 7; several orders as in Xing et al. 2024 (SegMamba), section 2.2.
    """
    weights = SSDWeights(conv_weight, conv_bias, dt_bias, A, D)
    _check(xBC, dt, weights, d_state, n_groups, orders, n_slices)
    if is_exporting():
        return decomposed.forward(xBC, dt, weights, d_state, n_groups, orders, n_slices)
    return _forward(xBC, dt, *weights, d_state, n_groups, orders, n_slices, backend)[0]


def _check(
    xBC: Tensor, dt: Tensor, weights: SSDWeights, d_state: int, n_groups: int, orders: str, n_slices: int
) -> None:
    if xBC.dim() != 3 or xBC.shape[1] < 1:
        raise ValueError(f"{OP}: xBC has shape {tuple(xBC.shape)}; expected (b l e+2gn) with l >= 1")
    if dt.dim() != 3 or dt.shape[2] < 1:
        raise ValueError(f"{OP}: dt has shape {tuple(dt.shape)}; expected (b l h) with h >= 1")
    if weights.conv_weight.dim() != 3 or weights.conv_weight.shape[2] < 1:
        raise ValueError(f"{OP}: conv_weight has shape {tuple(weights.conv_weight.shape)}; expected (o e+2gn w)")
    if d_state < 1 or n_groups < 1:
        raise ValueError(f"{OP}: d_state={d_state}, n_groups={n_groups}; expected both at least 1")
    batch, length, k = xBC.shape
    heads, o, e = dt.shape[2], len(orders), k - 2 * n_groups * d_state
    if e < 1 or e % heads:
        raise ValueError(
            f"{OP}: xBC has {k} channels, of which B and C take 2 * n_groups * d_state = {2 * n_groups * d_state}; the "
            f"other {e} are no multiple of dt's {heads} heads: give (b l e+2gn) with e = h * p"
        )
    if heads % n_groups:
        raise ValueError(f"{OP}: n_groups={n_groups} does not divide dt's {heads} heads; give a divisor of {heads}")
    check_orders(OP, orders, n_slices, length)
    check_float(OP, "xBC", xBC)
    expected = {
        "dt": ((batch, length, heads), "b l h"),
        "conv_weight": ((o, k, weights.conv_weight.shape[2]), "o e+2gn w"),
        "conv_bias": ((o, k), "o e+2gn"),
        "dt_bias": ((o, heads), "o h"),
        "A": ((o, heads), "o h"),
        "D": ((o, heads), "o h"),
    }
    for name, (shape, letters) in expected.items():
        tensor = dt if name == "dt" else getattr(weights, name)
        check_shape(OP, name, tensor, shape, letters)
        check_float(OP, name, tensor)
        check_device(OP, name, tensor, xBC)


@torch.library.custom_op(
    f"nnunet_mamba::{OP}",
    mutates_args=(),
    schema=f"({TENSORS}, {SIZES}, str backend) -> (Tensor y, Tensor states)",
)
def _forward(xBC: Tensor, dt: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *weights, d_state, n_groups, orders, n_slices, backend = arguments
    module = backends.choose(OP, backend, xBC)
    with without_autocast(xBC):
        return module.forward(xBC, dt, SSDWeights(*weights), d_state, n_groups, orders, n_slices)


@_forward.register_fake
def _(xBC: Tensor, dt: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *_, d_state, n_groups, orders, _, _ = arguments
    batch, length, k = xBC.shape
    heads, e = dt.shape[2], k - 2 * n_groups * d_state
    states = (len(orders), batch, n_chunks(length), heads, d_state, e // heads)
    return xBC.new_empty((batch, length, e)), xBC.new_empty(states, dtype=accumulation_dtype(xBC))


@torch.library.custom_op(
    f"nnunet_mamba::{OP}_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, {TENSORS}, {SIZES}, Tensor states, str backend) -> Tensor[]",
)
def _backward(grad_y: Tensor, xBC: Tensor, dt: Tensor, *arguments: Any) -> list[Tensor]:
    *weights, d_state, n_groups, orders, n_slices, states, backend = arguments
    module = backends.choose(OP, backend, xBC, BACKWARD)
    with without_autocast(xBC):
        grads = module.backward(grad_y, xBC, dt, SSDWeights(*weights), d_state, n_groups, orders, n_slices, states)
    return [g.contiguous() for g in grads]


@_backward.register_fake
def _(grad_y: Tensor, xBC: Tensor, dt: Tensor, *arguments: Any) -> list[Tensor]:
    given = (xBC, dt, *arguments[: len(SSDWeights._fields)])
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in given]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any):
    *tensors, ctx.d_state, ctx.n_groups, ctx.orders, ctx.n_slices, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx: Any, grad_y: Tensor, grad_states: Tensor):
    *tensors, states = ctx.saved_tensors
    sizes = (ctx.d_state, ctx.n_groups, ctx.orders, ctx.n_slices)
    grads = _backward(grad_y, *tensors, *sizes, states, ctx.backend)
    return (*grads, *(None for _ in sizes), None)


_forward.register_autograd(_differentiate, setup_context=_save)
