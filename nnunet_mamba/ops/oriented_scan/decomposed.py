"""The oriented scan written out in torch's own operators, for programs that leave this package; all orders at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.blocked import convolve
from nnunet_mamba.ops.numerics import accumulation_dtype
from nnunet_mamba.ops.oriented_scan.orders import permute, restore
from nnunet_mamba.ops.oriented_weights import Weights
from nnunet_mamba.ops.selective_scan.decomposed import walk


def forward(x: Tensor, z: Tensor, weights: Weights, orders: str, n_slices: int) -> Tensor:
    """x, z (b l e) -> y (b l e) in x's dtype"""
    dtype = accumulation_dtype(x)
    own = Weights(*(w.to(dtype) for w in weights))
    u = F.silu(convolve_orders(x.to(dtype), own.conv_weight, own.conv_bias, orders, n_slices))
    projected = u @ own.x_proj_weight.transpose(1, 2)
    low, B, C = projected.split([own.rank, own.states, own.states], -1)
    dt = F.softplus(low @ own.dt_proj_weight.transpose(1, 2) + own.dt_bias[:, None])
    y = walk(u, dt, own.A, B, C) + own.D[:, None] * u
    return (sum_of_orders(y, orders, n_slices) * F.silu(z.to(dtype))).to(x.dtype)


def convolve_orders(x: Tensor, weight: Tensor, bias: Tensor, orders: str, n_slices: int) -> Tensor:
    """x (b l k) in natural order; weight (o k w), bias (o k) -> causal convolution along every order (b o l k)"""
    permuted = torch.cat([permute(x, order, n_slices) for order in orders], 2).transpose(1, 2)  # (b ok l)
    y = convolve(permuted, weight.flatten(0, 1)) + bias.flatten()[:, None]
    return y.unflatten(1, weight.shape[:2]).transpose(2, 3)


def sum_of_orders(y: Tensor, orders: str, n_slices: int) -> Tensor:
    """(b o l k) in scan order -> (b l k) in natural order"""
    total = restore(y[:, 0], orders[0], n_slices)
    for k, order in enumerate(orders[1:], 1):
        total = total + restore(y[:, k], order, n_slices)
    return total
