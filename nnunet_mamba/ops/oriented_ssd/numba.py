"""The CPU default: convolution and scan as compiled loops that read tokens by index.

One order after the other, so that only one order's activations exist at a time. The convolved x, B and C stay side by
side as they come from the input projection; nothing is flipped, permuted or split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.numba import convolve_gradients
from nnunet_mamba.ops.kernels.numba_runtime import ORDER_NUMBER, TILE, Workspace, as_array, as_rows, call, why_not
from nnunet_mamba.ops.kernels.numba_ssd import Part, Scan, Sizes, scaled_decays
from nnunet_mamba.ops.numerics import accumulation_dtype, n_chunks
from nnunet_mamba.ops.oriented_weights import SSDWeights

__all__ = ["backward", "forward", "why_not", "workspace"]


@dataclass(frozen=True)
class _Order:
    """Weights of one order: taps (w e+2gn), conv_bias (e+2gn), dt_bias (h), A2 (h), D (h)"""

    number: int
    n_slices: int
    taps: np.ndarray
    conv_bias: np.ndarray
    dt_bias: np.ndarray
    A2: np.ndarray
    D: np.ndarray

    def scan(self, xBC: Part, dt: Part, sizes: Sizes, work: Workspace) -> Scan:
        """The convolution, ready to scan; it lies in the workspace"""
        rows, e = sizes.batch * sizes.length, sizes.channels
        u = work.empty("u", (rows, self.taps.shape[1]), self.A2.dtype)
        call("convolve", *xBC, self.taps, self.conv_bias, self.number, self.n_slices, sizes.batch, TILE, True, u)
        return Scan(
            x=(u, 0),
            B=(u, e),
            C=(u, e + sizes.groups * sizes.n),
            dt=dt,
            dt_bias=self.dt_bias,
            softplus=True,
            A2=self.A2,
            D=self.D,
            sizes=sizes,
            order=self.number,
            n_slices=self.n_slices,
            segments=sizes.segments,
        )


def forward(
    xBC: Tensor, dt: Tensor, weights: SSDWeights, d_state: int, n_groups: int, orders: str, n_slices: int
) -> tuple[Tensor, Tensor]:
    """xBC (b l e+2gn), dt (b l h) -> y (b l e) in xBC's dtype, states (o b c h n p)"""
    acc = accumulation_dtype(xBC)
    sizes = _sizes(xBC, dt, d_state, n_groups)
    xBC_rows, dt_rows = as_rows(xBC, acc), as_rows(dt, acc)
    split = _split(orders, n_slices, acc, weights)
    y = np.zeros((sizes.batch * sizes.length, sizes.channels), split[0].A2.dtype)
    work = Workspace()
    states = [order.scan(xBC_rows, dt_rows, sizes, work).forward(y) for order in split]
    y_ = torch.from_numpy(y).view(sizes.batch, sizes.length, sizes.channels)
    return y_.to(xBC.dtype), torch.from_numpy(np.stack(states))


def backward(
    grad_y: Tensor,
    xBC: Tensor,
    dt: Tensor,
    weights: SSDWeights,
    d_state: int,
    n_groups: int,
    orders: str,
    n_slices: int,
    states: Tensor,
) -> tuple[Tensor, ...]:
    """grad_y (b l e) -> gradients of xBC, dt and the five weights"""
    acc = accumulation_dtype(xBC)
    sizes = _sizes(xBC, dt, d_state, n_groups)
    xBC_rows, dt_rows = as_rows(xBC, acc), as_rows(dt, acc)
    grad_rows = as_array(grad_y, acc).reshape(-1, sizes.channels)
    grad_xBC = np.zeros((len(grad_rows), xBC.shape[2]), grad_rows.dtype)
    grad_dt = np.zeros((len(grad_rows), sizes.heads), grad_rows.dtype)
    per_order, work = [], Workspace()
    for k, order in enumerate(_split(orders, n_slices, acc, weights)):
        scan = order.scan(xBC_rows, dt_rows, sizes, work)
        grad_u = work.empty("grad_u", grad_xBC.shape, grad_xBC.dtype)
        grads = scan.backward(grad_rows, as_array(states[k], acc), grad_u, (grad_u, sizes.channels), work)
        grad_dt += grads.dt
        walk = (order.number, n_slices, sizes.batch)
        call("convolve_backward_activation", *xBC_rows, order.taps, order.conv_bias, *walk, TILE, grad_u)
        grad_taps, grad_bias = convolve_gradients(grad_u, *xBC_rows, order.taps, *walk, grad_xBC)
        found = (grad_taps.T.copy(), grad_bias, grads.dt_bias, grads.A, grads.D)
        per_order.append(tuple(torch.from_numpy(g) for g in found))
    grad_xBC_, grad_dt_ = torch.from_numpy(grad_xBC).view(xBC.shape), torch.from_numpy(grad_dt).view(dt.shape)
    return grad_xBC_.to(xBC.dtype), grad_dt_.to(dt.dtype), *weights.like(per_order)


def workspace(
    part: str, batch: int, length: int, heads: int, p: int, d_state: int, n_groups: int, orders: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, in addition to its arguments and results."""
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    sizes = Sizes(batch, length, heads, p, n_groups, d_state)
    rows, e = batch * length, sizes.channels
    k = e + 2 * n_groups * d_state
    held = rows * k  # the convolution
    if dtype != acc:  # copies of xBC and dt, and y before it is rounded, or its gradient
        held += rows * (k + heads + e)
    if part == "forward":
        return (held + orders * batch * n_chunks(length) * d_state * e) * acc.itemsize
    if dtype != acc:  # gradients of xBC and dt before they are rounded
        held += rows * (k + heads)
    parts = sizes.parts + (sizes.parts > 1)
    return (held + rows * (k + sizes.blocks * 2 * d_state + parts * heads)) * acc.itemsize


def _sizes(xBC: Tensor, dt: Tensor, d_state: int, n_groups: int) -> Sizes:
    e, heads = xBC.shape[2] - 2 * n_groups * d_state, dt.shape[2]
    return Sizes(xBC.shape[0], xBC.shape[1], heads, e // heads, n_groups, d_state)


def _split(orders: str, n_slices: int, dtype: torch.dtype, weights: SSDWeights) -> list[_Order]:
    return [
        _Order(
            ORDER_NUMBER[letter],
            n_slices,
            as_array(weights.conv_weight[k].T, dtype),
            as_array(weights.conv_bias[k], dtype),
            as_array(weights.dt_bias[k], dtype),
            scaled_decays(weights.A[k], dtype),
            as_array(weights.D[k], dtype),
        )
        for k, letter in enumerate(orders)
    ]
