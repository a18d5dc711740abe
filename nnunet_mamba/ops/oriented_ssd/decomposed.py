"""The oriented SSD written out in torch's own operators, for programs that leave this package; all orders at once.

The heads of an order, and its groups of heads, are further heads and groups of one scan.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.numerics import accumulation_dtype
from nnunet_mamba.ops.oriented_scan.decomposed import convolve_orders, sum_of_orders
from nnunet_mamba.ops.oriented_scan.orders import permute
from nnunet_mamba.ops.oriented_weights import SSDWeights
from nnunet_mamba.ops.ssd.decomposed import walk


def forward(
    xBC: Tensor, dt: Tensor, weights: SSDWeights, d_state: int, n_groups: int, orders: str, n_slices: int
) -> Tensor:
    """xBC (b l e+2gn), dt (b l h) -> y (b l e) in xBC's dtype"""
    acc = accumulation_dtype(xBC)
    own = SSDWeights(*(w.to(acc) for w in weights))
    heads, of_groups = dt.shape[2], n_groups * d_state
    mixed = F.silu(convolve_orders(xBC.to(acc), own.conv_weight, own.conv_bias, orders, n_slices)).transpose(1, 2)
    x, B, C = mixed.split([mixed.shape[3] - 2 * of_groups, of_groups, of_groups], -1)  # (b l o ...)
    x = x.unflatten(3, (heads, -1)).flatten(2, 3)  # (b l oh p)
    B, C = (t.unflatten(3, (n_groups, d_state)).flatten(2, 3) for t in (B, C))
    steps = [F.softplus(permute(dt.to(acc), order, n_slices) + own.dt_bias[k]) for k, order in enumerate(orders)]
    y = walk(x, torch.cat(steps, 2), own.A.flatten(), B, C) + own.D.flatten()[:, None] * x
    y = y.flatten(2).unflatten(2, (len(orders), -1)).transpose(1, 2)
    return sum_of_orders(y, orders, n_slices).to(xBC.dtype)
