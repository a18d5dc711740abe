"""The oriented scan put together from a bare recurrence and a bare convolution, order by order.

The pure-torch backends differ only in those two parts; the gradient is written out here once, because inside a custom
op autograd does not record.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.convolution import Convolution
from nnunet_mamba.ops.numerics import accumulation_dtype, silu_backward
from nnunet_mamba.ops.oriented_scan.orders import permute, restore
from nnunet_mamba.ops.oriented_weights import Weights
from nnunet_mamba.ops.selective_scan.recurrence import Recurrence


@dataclass(frozen=True)
class Composed:
    """An oriented scan made of a convolution and a scan, order by order."""

    recurrence: Recurrence
    convolution: Convolution

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        weights: Weights,
        orders: str,
        n_slices: int,
    ) -> tuple[Tensor, Tensor]:
        """x, z (b l e) -> y (b l e) in x's dtype, states (o b c n e)"""
        dtype = accumulation_dtype(x)
        total, states = None, []
        for k, order in enumerate(orders):
            own = weights.of(k, dtype)
            _, u, _, dt, B, C = self._scan_inputs(permute(x.to(dtype), order, n_slices), own)
            y, order_states = self.recurrence.walk(u, dt, own.A, B, C)
            y = restore(y + own.D * u, order, n_slices)
            total = y if total is None else total + y
            states.append(order_states)
        assert total is not None  # orders is never empty
        return (total * F.silu(z.to(dtype))).to(x.dtype).contiguous(), torch.stack(states)

    def backward(
        self,
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
        grad, gate = grad_y.to(dtype), z.to(dtype)
        ungated = grad * F.silu(gate)
        grad_x, total = torch.zeros_like(ungated), torch.zeros_like(ungated)
        per_order = []
        for k, order in enumerate(orders):
            given = permute(ungated, order, n_slices), permute(x.to(dtype), order, n_slices)
            grad_x_order, y, grads = self._order_backward(*given, weights.of(k, dtype), states[k])
            grad_x += restore(grad_x_order, order, n_slices)
            total += restore(y, order, n_slices)
            per_order.append(grads)
        return grad_x.to(x.dtype), silu_backward(grad * total, gate).to(z.dtype), *weights.like(per_order)

    def _scan_inputs(self, x: Tensor, own: Weights) -> tuple[Tensor, ...]:
        """x (b l e) in scan order -> conv output before and after SiLU, low-rank dt (b l r), dt, B, C"""
        conv = (self.convolution.apply(x.transpose(1, 2), own.conv_weight) + own.conv_bias[:, None]).transpose(1, 2)
        u = F.silu(conv)
        low, B, C = (u @ own.x_proj_weight.T).split([own.rank, own.states, own.states], -1)
        return conv, u, low, F.softplus(low @ own.dt_proj_weight.T + own.dt_bias), B, C

    def _order_backward(
        self, grad_y: Tensor, x: Tensor, own: Weights, states: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """grad_y, x (b l e) in scan order -> gradient of x, y, gradients of the order's weights"""
        conv, u, low, dt, B, C = self._scan_inputs(x, own)
        grad_u, grad_dt, grad_A, grad_B, grad_C, y = self.recurrence.walk_backward(grad_y, u, dt, own.A, B, C, states)
        grad_D = (grad_y * u).sum((0, 1))
        grad_before = grad_dt * -torch.expm1(-dt)  # softplus'(a) = sigmoid(a) = 1 - exp(-softplus(a))
        grad_dt_proj = torch.einsum("ble,blr->er", grad_before, low)
        grad_projected = torch.cat((grad_before @ own.dt_proj_weight, grad_B, grad_C), -1)
        grad_u = grad_u + grad_y * own.D + grad_projected @ own.x_proj_weight
        grad_conv = silu_backward(grad_u, conv).transpose(1, 2)
        grad_x, grad_conv_weight = self.convolution.apply_backward(grad_conv, x.transpose(1, 2), own.conv_weight)
        grads = (
            grad_conv_weight,
            grad_conv.sum((0, 2)),
            torch.einsum("blk,ble->ke", grad_projected, u),
            grad_dt_proj,
            grad_before.sum((0, 1)),
            grad_A,
            grad_D,
        )
        return grad_x.transpose(1, 2), y + own.D * u, grads
