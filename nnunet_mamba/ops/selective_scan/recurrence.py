"""From a bare recurrence to the whole op: softplus, bias, skip and gate around it, and their gradients.

The pure-torch backends differ only in how they walk the recurrence; this file is the rest, written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.numerics import accumulation_dtype, silu_backward


@dataclass(frozen=True)
class Recurrence:
    """h[t] = exp(dt A) h[t-1] + dt B u, y = C . h, channel-last, and its gradient."""

    walk: Callable[..., tuple[Tensor, Tensor]]
    walk_backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]

    def forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> tuple[Tensor, Tensor]:
        """u, delta, z (b d l); A (d n); B, C (b n l); D, delta_bias (d) -> y (b d l), states (b c n d)"""
        dtype = accumulation_dtype(u)
        u_, delta_, B_, C_ = (x.transpose(1, 2).to(dtype) for x in (u, delta, B, C))
        y, states = self.walk(u_, _time_step(delta_, delta_bias, delta_softplus)[0], A.to(dtype), B_, C_)
        if D is not None:
            y = y + D.to(dtype) * u_
        if z is not None:
            y = y * F.silu(z.transpose(1, 2).to(dtype))
        return y.to(u.dtype).transpose(1, 2).contiguous(), states

    def backward(
        self,
        grad_y: Tensor,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        states: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """grad_y (b d l) -> gradients of u, delta, A, B, C, D, z, delta_bias; None where the argument was None"""
        dtype = accumulation_dtype(u)
        grad_, u_, delta_, B_, C_ = (x.transpose(1, 2).to(dtype) for x in (grad_y, u, delta, B, C))
        dt, before_softplus = _time_step(delta_, delta_bias, delta_softplus)
        z_ = None if z is None else z.transpose(1, 2).to(dtype)
        ungated = grad_ if z_ is None else grad_ * F.silu(z_)

        grad_u, grad_dt, grad_A, grad_B, grad_C, y = self.walk_backward(ungated, u_, dt, A.to(dtype), B_, C_, states)
        grad_D = grad_z = None
        if D is not None:
            grad_u = grad_u + D.to(dtype) * ungated
            grad_D = (ungated * u_).sum((0, 1)).to(D.dtype)
            y = y + D.to(dtype) * u_
        if z is not None and z_ is not None:
            grad_z = silu_backward(grad_ * y, z_).transpose(1, 2).to(z.dtype)
        if delta_softplus:
            grad_dt = grad_dt * torch.sigmoid(before_softplus)
        grad_bias = None if delta_bias is None else grad_dt.sum((0, 1)).to(delta_bias.dtype)
        return (
            grad_u.transpose(1, 2).to(u.dtype),
            grad_dt.transpose(1, 2).to(delta.dtype),
            grad_A.to(A.dtype),
            grad_B.transpose(1, 2).to(B.dtype),
            grad_C.transpose(1, 2).to(C.dtype),
            grad_D,
            grad_z,
            grad_bias,
        )


def _time_step(delta: Tensor, bias: Tensor | None, softplus: bool) -> tuple[Tensor, Tensor]:
    """delta (b l d) -> the step after bias and softplus, and before softplus"""
    before = delta if bias is None else delta + bias.to(delta.dtype)
    return (F.softplus(before) if softplus else before), before
