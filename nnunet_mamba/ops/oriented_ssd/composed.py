"""The oriented SSD put together from a bare recurrence and a bare convolution, order by order.

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
from nnunet_mamba.ops.oriented_weights import SSDWeights
from nnunet_mamba.ops.ssd.recurrence import Recurrence


@dataclass(frozen=True)
class Composed:
    """An oriented SSD made of a convolution and a scan, order by order."""

    recurrence: Recurrence
    convolution: Convolution

    def forward(
        self, xBC: Tensor, dt: Tensor, weights: SSDWeights, d_state: int, n_groups: int, orders: str, n_slices: int
    ) -> tuple[Tensor, Tensor]:
        """xBC (b l e+2gn), dt (b l h) -> y (b l e) in xBC's dtype, states (o b c h n p)"""
        acc = accumulation_dtype(xBC)
        total, states = None, []
        for k, order in enumerate(orders):
            own = weights.of(k, acc)
            given = permute(xBC.to(acc), order, n_slices), permute(dt.to(acc), order, n_slices)
            _, x, step, B, C = _scan_inputs(self.convolution, *given, own, d_state, n_groups)
            y, order_states = self.recurrence.walk(x, step, own.A, B, C)
            y = restore((y + own.D[:, None] * x).flatten(2), order, n_slices)
            total = y if total is None else total + y
            states.append(order_states)
        assert total is not None  # orders is never empty
        return total.to(xBC.dtype).contiguous(), torch.stack(states)

    def backward(
        self,
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
        grad_xBC, grad_dt = (torch.zeros_like(t, dtype=acc) for t in (xBC, dt))
        per_order = []
        for k, order in enumerate(orders):
            grad, xBC_, dt_ = [permute(t.to(acc), order, n_slices) for t in (grad_y, xBC, dt)]
            grads = self._order_backward(grad, xBC_, dt_, weights.of(k, acc), d_state, n_groups, states[k])
            grad_xBC += restore(grads[0], order, n_slices)
            grad_dt += restore(grads[1], order, n_slices)
            per_order.append(grads[2:])
        return grad_xBC.to(xBC.dtype), grad_dt.to(dt.dtype), *weights.like(per_order)

    def _order_backward(
        self,
        grad_y: Tensor,
        xBC: Tensor,
        dt: Tensor,
        own: SSDWeights,
        d_state: int,
        n_groups: int,
        states: Tensor,
    ) -> tuple[Tensor, ...]:
        """All in scan order -> gradients of xBC, dt and the order's weights"""
        conv, x, step, B, C = _scan_inputs(self.convolution, xBC, dt, own, d_state, n_groups)
        grad = grad_y.unflatten(2, x.shape[2:])
        grad_x, grad_step, grad_A, grad_B, grad_C = self.recurrence.walk_backward(grad, x, step, own.A, B, C, states)
        grad_x = grad_x + own.D[:, None] * grad
        grad_dt = grad_step * -torch.expm1(-step)  # softplus'(a) = sigmoid(a) = 1 - exp(-softplus(a))
        activated = torch.cat([t.flatten(2) for t in (grad_x, grad_B, grad_C)], -1)
        grad_conv = silu_backward(activated, conv).transpose(1, 2)
        grad_xBC, grad_weight = self.convolution.apply_backward(grad_conv, xBC.transpose(1, 2), own.conv_weight)
        grad_D = (grad * x).sum((0, 1, 3))
        return (
            grad_xBC.transpose(1, 2), grad_dt, grad_weight, grad_conv.sum((0, 2)), grad_dt.sum((0, 1)), grad_A, grad_D,
        )  # fmt: skip


def _scan_inputs(
    convolution: Convolution, xBC: Tensor, dt: Tensor, own: SSDWeights, d_state: int, n_groups: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """xBC (b l e+2gn), dt (b l h) in scan order -> conv before SiLU; x (b l h p), step (b l h), B, C (b l g n)"""
    conv = (convolution.apply(xBC.transpose(1, 2), own.conv_weight) + own.conv_bias[:, None]).transpose(1, 2)
    of_groups = n_groups * d_state
    x, B, C = F.silu(conv).split([conv.shape[2] - 2 * of_groups, of_groups, of_groups], -1)
    B, C = (t.unflatten(2, (n_groups, d_state)) for t in (B, C))
    return conv, x.unflatten(2, (dt.shape[2], -1)), F.softplus(dt + own.dt_bias), B, C
