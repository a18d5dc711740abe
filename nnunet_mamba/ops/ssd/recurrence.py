"""From a bare recurrence to the whole op: softplus, bias and skip around it, and their gradients.

The pure-torch backends differ only in how they walk the recurrence; this file is the rest, written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.numerics import accumulation_dtype


@dataclass(frozen=True)
class Recurrence:
    """S[t] = exp(dt A) S[t-1] + dt B x^T, y = C . S, and its gradient, in accumulation precision.

    walk(x, dt, A, B, C) -> y, states (b c h n p); walk_backward(grad_y, x, dt, A, B, C, states) -> their gradients
    """

    walk: Callable[..., tuple[Tensor, Tensor]]
    walk_backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        dt_bias: Tensor | None,
        softplus: bool,
    ) -> tuple[Tensor, Tensor]:
        """x (b l h p); dt (b l h); A, D, dt_bias (h); B, C (b l g n) -> y (b l h p), states (b c h n p)"""
        acc = accumulation_dtype(x)
        x_, A_, B_, C_ = (t.to(acc) for t in (x, A, B, C))
        y, states = self.walk(x_, _time_step(dt.to(acc), dt_bias, softplus)[0], A_, B_, C_)
        if D is not None:
            y = y + D.to(acc)[:, None] * x_
        return y.to(x.dtype).contiguous(), states

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        dt_bias: Tensor | None,
        softplus: bool,
        states: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """grad_y (b l h p) -> gradients of x, dt, A, B, C, D, dt_bias; None where the argument was None"""
        acc = accumulation_dtype(x)
        grad, x_, A_, B_, C_ = (t.to(acc) for t in (grad_y, x, A, B, C))
        step, before_softplus = _time_step(dt.to(acc), dt_bias, softplus)
        grad_x, grad_dt, grad_A, grad_B, grad_C = self.walk_backward(grad, x_, step, A_, B_, C_, states)
        grad_D = None
        if D is not None:
            grad_x = grad_x + D.to(acc)[:, None] * grad
            grad_D = (grad * x_).sum((0, 1, 3)).to(D.dtype)
        if softplus:
            grad_dt = grad_dt * torch.sigmoid(before_softplus)
        return (
            grad_x.to(x.dtype),
            grad_dt.to(dt.dtype),
            grad_A.to(A.dtype),
            grad_B.to(B.dtype),
            grad_C.to(C.dtype),
            grad_D,
            None if dt_bias is None else grad_dt.sum((0, 1)).to(dt_bias.dtype),
        )


def _time_step(dt: Tensor, bias: Tensor | None, softplus: bool) -> tuple[Tensor, Tensor]:
    """dt (b l h) -> the step after bias and softplus, and before softplus"""
    before = dt if bias is None else dt + bias.to(dt.dtype)
    return (F.softplus(before) if softplus else before), before
