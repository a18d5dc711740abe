"""The oriented scan put together from a bare recurrence and a bare convolution, order by order.

The pure-torch backends differ only in those two parts; the gradient is written out here once, because inside a custom
op autograd does not record.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.activation import Convolution
from nnunet_mamba.ops.numerics import accumulation_dtype
from nnunet_mamba.ops.selective_scan.recurrence import Recurrence, silu_backward
from nnunet_mamba.ops.tri_scan.orders import permute, restore


@dataclass(frozen=True)
class _Order:
    """Weights of one order: conv (e w), conv_bias (e), x_proj (r+2n e), dt_proj (e r), dt_bias (e), A (e n), D (e)"""

    letter: str
    conv: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    def sizes(self) -> list[int]:
        n = self.A.shape[1]
        return [self.dt_proj.shape[1], n, n]


@dataclass(frozen=True)
class Composed:
    """An oriented scan made of a convolution and a scan, order by order."""

    recurrence: Recurrence
    convolution: Convolution

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        x_proj_weight: Tensor,
        dt_proj_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        orders: str,
        n_slices: int,
    ) -> tuple[Tensor, Tensor]:
        """x, z (b l e) -> y (b l e) in x's dtype, states (o b c n e)"""
        dtype = accumulation_dtype(x)
        weights = (conv_weight, conv_bias, x_proj_weight, dt_proj_weight, dt_bias, A, D)
        total, states = None, []
        for order in _split(orders, dtype, weights):
            _, u, _, dt, B, C = self._scan_inputs(permute(x.to(dtype), order.letter, n_slices), order)
            y, order_states = self.recurrence.walk(u, dt, order.A, B, C)
            y = restore(y + order.D * u, order.letter, n_slices)
            total = y if total is None else total + y
            states.append(order_states)
        assert total is not None  # orders is never empty
        return (total * F.silu(z.to(dtype))).to(x.dtype).contiguous(), torch.stack(states)

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        z: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        x_proj_weight: Tensor,
        dt_proj_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        orders: str,
        n_slices: int,
        states: Tensor,
    ) -> tuple[Tensor, ...]:
        """grad_y (b l e) -> gradients of x, z and the seven weights"""
        dtype = accumulation_dtype(x)
        weights = (conv_weight, conv_bias, x_proj_weight, dt_proj_weight, dt_bias, A, D)
        grad, gate = grad_y.to(dtype), z.to(dtype)
        ungated = grad * F.silu(gate)
        grad_x, total = torch.zeros_like(ungated), torch.zeros_like(ungated)
        per_order = []
        for k, order in enumerate(_split(orders, dtype, weights)):
            grad_x_order, y, grads = self._order_backward(
                permute(ungated, order.letter, n_slices),
                permute(x.to(dtype), order.letter, n_slices),
                order,
                states[k],
            )
            grad_x += restore(grad_x_order, order.letter, n_slices)
            total += restore(y, order.letter, n_slices)
            per_order.append(grads)
        grad_weights = [torch.stack(g).to(w.dtype) for g, w in zip(zip(*per_order, strict=True), weights, strict=True)]
        return grad_x.to(x.dtype), silu_backward(grad * total, gate).to(z.dtype), *grad_weights

    def _scan_inputs(self, x: Tensor, order: _Order) -> tuple[Tensor, ...]:
        """x (b l e) in scan order -> conv output before and after SiLU, low-rank dt (b l r), dt, B, C"""
        conv = (self.convolution.apply(x.transpose(1, 2), order.conv) + order.conv_bias[:, None]).transpose(1, 2)
        u = F.silu(conv)
        low, B, C = (u @ order.x_proj.T).split(order.sizes(), -1)
        return conv, u, low, F.softplus(low @ order.dt_proj.T + order.dt_bias), B, C

    def _order_backward(
        self, grad_y: Tensor, x: Tensor, order: _Order, states: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """grad_y, x (b l e) in scan order -> gradient of x, y, gradients of the order's weights"""
        conv, u, low, dt, B, C = self._scan_inputs(x, order)
        grad_u, grad_dt, grad_A, grad_B, grad_C, y = self.recurrence.walk_backward(grad_y, u, dt, order.A, B, C, states)
        grad_D = (grad_y * u).sum((0, 1))
        grad_before = grad_dt * -torch.expm1(-dt)  # softplus'(a) = sigmoid(a) = 1 - exp(-softplus(a))
        grad_dt_proj = torch.einsum("ble,blr->er", grad_before, low)
        grad_projected = torch.cat((grad_before @ order.dt_proj, grad_B, grad_C), -1)
        grad_u = grad_u + grad_y * order.D + grad_projected @ order.x_proj
        grad_conv = silu_backward(grad_u, conv).transpose(1, 2)
        grad_x, grad_conv_weight = self.convolution.apply_backward(grad_conv, x.transpose(1, 2), order.conv)
        grads = (
            grad_conv_weight,
            grad_conv.sum((0, 2)),
            torch.einsum("blk,ble->ke", grad_projected, u),
            grad_dt_proj,
            grad_before.sum((0, 1)),
            grad_A,
            grad_D,
        )
        return grad_x.transpose(1, 2), y + order.D * u, grads


def _split(orders: str, dtype: torch.dtype, weights: tuple[Tensor, ...]) -> list[_Order]:
    return [_Order(letter, *(w[k].to(dtype) for w in weights)) for k, letter in enumerate(orders)]
