"""The gradient of the reference's loop, written out: inside an operator of torch autograd does not record."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK


def recurrence_backward(
    grad_y: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad_y (b l d) -> gradients of u, dt, A, B, C, and y (b l d) once more

    The adjoint g[t] = dL/dh[t] runs backward: g[t] = exp(dt[t+1] * A) * g[t+1] + C[t] * grad_y[t].
    """
    length = u.shape[1]
    grad_u, grad_dt, grad_B, grad_C = (torch.zeros_like(x) for x in (u, dt, B, C))
    grad_A, y = torch.zeros_like(A), torch.zeros_like(u)
    g = torch.zeros_like(states[:, 0])  # (b n d), holds exp(dt[t+1] * A) * g[t+1]
    for chunk in reversed(range(states.shape[1])):
        start, stop = chunk * CHUNK, min(length, (chunk + 1) * CHUNK)
        hs = [states[:, chunk]]
        for t in range(start, stop):
            hs.append(_step(hs[-1], u[:, t], dt[:, t], A, B[:, t]))
        for t in reversed(range(start, stop)):
            before, after = hs[t - start], hs[t - start + 1]
            y[:, t] = (C[:, t, :, None] * after).sum(1)
            grad_C[:, t] = (grad_y[:, t, None, :] * after).sum(2)
            g = g + C[:, t, :, None] * grad_y[:, t, None, :]
            decay = torch.exp(dt[:, t, None, :] * A.T)  # (b n d)
            into_B = (g * B[:, t, :, None]).sum(1)  # (b d)
            into_exponent = g * decay * before  # (b n d)
            grad_B[:, t] = (g * (dt[:, t] * u[:, t])[:, None, :]).sum(2)
            grad_u[:, t] = into_B * dt[:, t]
            grad_dt[:, t] = into_B * u[:, t] + (into_exponent * A.T).sum(1)
            grad_A += (into_exponent * dt[:, t, None, :]).sum(0).T
            g = decay * g
    return grad_u, grad_dt, grad_A, grad_B, grad_C, y


def _step(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """h (b n d); u, dt (b d); A (d n); B (b n) -> next h (b n d)"""
    return torch.exp(dt[:, None, :] * A.T) * h + B[:, :, None] * (dt * u)[:, None, :]
