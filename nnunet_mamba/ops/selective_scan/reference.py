"""The definition: one step after the other. Slow, pure torch; every other backend is judged against it."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK
from nnunet_mamba.ops.selective_scan.recurrence import Recurrence
from nnunet_mamba.ops.selective_scan.reference_adjoint import recurrence_backward


def why_not(u: Tensor) -> str | None:
    """Runs everywhere."""
    return None


def recurrence(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """u, dt (b l d); A (d n); B, C (b l n) -> y (b l d), states (b c n d)

        h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]
        y[t] = C[t] . h[t]

    Source: Gu & Dao 2023, equations 2 and 4, with the input discretised as in their code. Kept for the gradient: the
    state before every 256th step.
    """
    h = u.new_zeros(u.shape[0], A.shape[1], u.shape[2])  # (b n d)
    ys, states = [], []
    for t in range(u.shape[1]):
        if t % CHUNK == 0:
            states.append(h)
        h = torch.exp(dt[:, t, None] * A.T) * h + B[:, t, :, None] * (dt[:, t] * u[:, t])[:, None]
        ys.append((C[:, t, :, None] * h).sum(1))
    return torch.stack(ys, 1), torch.stack(states, 1)


RECURRENCE = Recurrence(recurrence, recurrence_backward)
forward = RECURRENCE.forward
backward = RECURRENCE.backward
