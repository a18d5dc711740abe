"""The CPU default: convolution, scan and gate as compiled loops that read tokens by index; matrix products by torch.

One order after the other, so that only one order's activations exist at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.numba import convolve_gradients
from nnunet_mamba.ops.kernels.numba_runtime import (
    ORDER_NUMBER,
    TILE,
    Scan,
    ScanGradients,
    Workspace,
    as_array,
    as_rows,
    block_width,
    call,
    n_segments,
    product,
    scaled_A,
    why_not,
)
from nnunet_mamba.ops.numerics import accumulation_dtype, n_chunks
from nnunet_mamba.ops.oriented_weights import Weights

__all__ = ["backward", "forward", "why_not", "workspace"]


@dataclass(frozen=True)
class _Order:
    """Weights of one order: taps (w e), conv_bias (e), x_proj (r+2n e), dt_proj (r e), dt_bias (e), A2 (n e), D (e)"""

    number: int
    n_slices: int
    taps: np.ndarray
    conv_bias: np.ndarray
    x_proj: Tensor
    dt_proj: np.ndarray
    dt_bias: np.ndarray
    A2: np.ndarray
    D: np.ndarray

    @property
    def rank(self) -> int:
        return self.dt_proj.shape[0]

    def scan(self, x: np.ndarray, x0: int, batch: int, work: Workspace) -> Scan:
        """Convolution and projection, ready to scan. Both lie in the workspace."""
        rows, channels = x.shape[0], self.A2.shape[1]
        u = work.empty("u", (rows, channels), x.dtype)
        proj = work.empty("proj", (rows, self.x_proj.shape[0]), x.dtype)
        call("convolve", x, x0, self.taps, self.conv_bias, self.number, self.n_slices, batch, TILE, True, u)
        torch.mm(torch.from_numpy(u), self.x_proj.T, out=torch.from_numpy(proj))
        return Scan(
            u=u,
            given=np.empty((rows, 0), x.dtype),
            proj=proj,
            dt_proj=self.dt_proj,
            dt_bias=self.dt_bias,
            softplus=True,
            A2=self.A2,
            D=self.D,
            batch=batch,
            order=self.number,
            n_slices=self.n_slices,
            segments=n_segments(batch, channels, rows // max(1, batch)),
        )


def forward(
    x: Tensor,
    z: Tensor,
    weights: Weights,
    orders: str,
    n_slices: int,
) -> tuple[Tensor, Tensor]:
    """x, z (b l e) -> y (b l e) in x's dtype, states (o b c n e)"""
    dtype = accumulation_dtype(x)
    batch, length, channels = x.shape
    x_rows, x0 = as_rows(x, dtype)
    z_rows, z0 = as_rows(z, dtype)
    y = np.zeros((batch * length, channels), x_rows.dtype)
    work = Workspace()
    states = [order.scan(x_rows, x0, batch, work).forward(y) for order in _split(orders, n_slices, dtype, weights)]
    call("gate", y, z_rows, z0, TILE)
    return torch.from_numpy(y).view(x.shape).to(x.dtype), torch.from_numpy(np.stack(states))


def backward(
    grad_y: Tensor,
    x: Tensor,
    z: Tensor,
    weights: Weights,
    orders: str,
    n_slices: int,
    states: Tensor,
) -> tuple[Tensor, ...]:
    """grad_y (b l e) -> gradients of x, z and the seven weights"""
    dtype = accumulation_dtype(x)
    batch = x.shape[0]
    x_rows, x0 = as_rows(x, dtype)
    z_rows, z0 = as_rows(z, dtype)
    grad_rows = as_array(grad_y, dtype).reshape(batch * x.shape[1], x.shape[2])
    ungated, total, grad_x = np.empty_like(grad_rows), np.zeros_like(grad_rows), np.zeros_like(grad_rows)
    call("ungate", grad_rows, z_rows, z0, TILE, ungated)
    per_order, work = [], Workspace()
    for k, order in enumerate(_split(orders, n_slices, dtype, weights)):
        scan = order.scan(x_rows, x0, batch, work)
        grads = scan.backward(ungated, as_array(states[k], dtype), total, work)
        per_order.append(_order_backward(order, scan, grads, x_rows, x0, grad_x, work))
    call("gate_backward", grad_rows, z_rows, z0, TILE, total)
    grad_x_, grad_z = (torch.from_numpy(g).view(x.shape) for g in (grad_x, total))
    return grad_x_.to(x.dtype), grad_z.to(z.dtype), *weights.like(per_order)


def workspace(
    part: str, batch: int, length: int, channels: int, orders: int, states: int, rank: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, in addition to its arguments and results."""
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    rows = batch * length
    projected = rank + 2 * states
    scan = rows * (channels + projected)
    if dtype != acc:  # copies of x and z, and y before it is rounded
        scan += 3 * rows * channels
    kept = orders * batch * n_chunks(length) * states * channels
    if part == "forward":
        return (scan + kept) * acc.itemsize
    blocks = -(-channels // block_width(batch, channels))
    grad_bc = (blocks + (blocks > 1)) * rows * 2 * states
    return (scan + 3 * rows * channels + grad_bc + rows * projected) * acc.itemsize


def _order_backward(
    order: _Order, scan: Scan, grads: ScanGradients, x: np.ndarray, x0: int, grad_x: np.ndarray, work: Workspace
) -> tuple[Tensor, ...]:
    """Adds the order's share to grad_x (rows e); returns the gradients of its weights"""
    grad_u, grad_dt, u = (torch.from_numpy(g) for g in (grads.u, grads.dt, scan.u))
    low = torch.from_numpy(scan.proj)[:, : order.rank]
    grad_proj = torch.from_numpy(work.empty("grad_proj", scan.proj.shape, scan.proj.dtype))
    grad_proj[:, : order.rank] = grad_dt @ torch.from_numpy(order.dt_proj).T
    grad_proj[:, order.rank :] = torch.from_numpy(grads.BC)
    grad_dt_proj = product(low, grad_dt).T
    grad_u.addmm_(grad_proj, order.x_proj)
    walk = (order.number, order.n_slices, scan.batch)
    call("convolve_backward_activation", x, x0, order.taps, order.conv_bias, *walk, TILE, grads.u)
    grad_taps, grad_conv_bias = convolve_gradients(grads.u, x, x0, order.taps, *walk, grad_x)
    return (
        torch.from_numpy(grad_taps.T.copy()),
        torch.from_numpy(grad_conv_bias),
        product(grad_proj, u),
        grad_dt_proj,
        torch.from_numpy(grads.dt_bias),
        torch.from_numpy(grads.A).T,
        torch.from_numpy(grads.D),
    )


def _split(orders: str, n_slices: int, dtype: torch.dtype, weights: Weights) -> list[_Order]:
    return [
        _Order(
            ORDER_NUMBER[letter],
            n_slices,
            as_array(weights.conv_weight[k].T, dtype),
            as_array(weights.conv_bias[k], dtype),
            weights.x_proj_weight[k].to(dtype).contiguous(),
            as_array(weights.dt_proj_weight[k].T, dtype),
            as_array(weights.dt_bias[k], dtype),
            scaled_A(weights.A[k], dtype),
            as_array(weights.D[k], dtype),
        )
        for k, letter in enumerate(orders)
    ]
