"""The gradient of the reference's loop, written out: inside an operator of torch autograd does not record."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK


def recurrence_backward(
    grad_y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad_y (b l h p) -> gradients of x, dt, A, B, C

    The adjoint g[t] = dL/dS[t] runs backward: g[t] = exp(dt[t+1] * A) * g[t+1] + C[t] grad_y[t]^T.
    """
    length, heads, groups = x.shape[1], x.shape[2], B.shape[2]
    B, C = (t.repeat_interleave(heads // groups, 2) for t in (B, C))  # (b l h n)
    grad_x, grad_dt, grad_B, grad_C = (torch.zeros_like(t) for t in (x, dt, B, C))
    grad_A = torch.zeros_like(A)
    g = torch.zeros_like(states[:, 0])  # (b h n p), holds exp(dt[t+1] * A) * g[t+1]
    for chunk in reversed(range(states.shape[1])):
        start, stop = chunk * CHUNK, min(length, (chunk + 1) * CHUNK)
        kept = [states[:, chunk]]
        for t in range(start, stop):
            decay = torch.exp(dt[:, t] * A)[..., None, None]
            kept.append(decay * kept[-1] + B[:, t, :, :, None] * (dt[:, t, :, None] * x[:, t])[:, :, None])
        for t in reversed(range(start, stop)):
            before, after = kept[t - start], kept[t - start + 1]
            grad_C[:, t] = (grad_y[:, t, :, None] * after).sum(3)
            g = g + C[:, t, :, :, None] * grad_y[:, t, :, None]
            decay = torch.exp(dt[:, t] * A)[..., None, None]
            into_x = (g * B[:, t, :, :, None]).sum(2)  # (b h p)
            into_exponent = (g * decay * before).sum((2, 3))  # (b h)
            grad_B[:, t] = (g * (dt[:, t, :, None] * x[:, t])[:, :, None]).sum(3)
            grad_x[:, t] = into_x * dt[:, t, :, None]
            grad_dt[:, t] = (into_x * x[:, t]).sum(2) + into_exponent * A
            grad_A += (into_exponent * dt[:, t]).sum(0)
            g = decay * g
    grad_B, grad_C = (t.unflatten(2, (groups, heads // groups)).sum(3) for t in (grad_B, grad_C))
    return grad_x, grad_dt, grad_A, grad_B, grad_C
