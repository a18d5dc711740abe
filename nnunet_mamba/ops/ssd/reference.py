"""The definition: one step after the other. Slow, pure torch; every other backend is judged against it."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK
from nnunet_mamba.ops.ssd.recurrence import Recurrence
from nnunet_mamba.ops.ssd.reference_adjoint import recurrence_backward


def why_not(x: Tensor) -> str | None:
    """Runs everywhere."""
    return None


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """x (b l h p); dt (b l h); A (h); B, C (b l g n) -> y (b l h p), states (b c h n p)

        S[t] = exp(dt[t] A) S[t-1] + dt[t] B[t] x[t]^T
        y[t] = C[t] . S[t]

    Source: Dao & Gu 2024, equation 1 with A a multiple of the identity. Kept for the gradient: the state before every
    256th step.
    """
    batch, length, heads, p = x.shape
    B, C = (t.repeat_interleave(heads // t.shape[2], 2) for t in (B, C))  # every head its group's: (b l h n)
    S = x.new_zeros(batch, heads, B.shape[3], p)
    ys, states = [], []
    for t in range(length):
        if t % CHUNK == 0:
            states.append(S)
        decay = torch.exp(dt[:, t] * A)  # (b h)
        given = dt[:, t, :, None] * x[:, t]  # (b h p)
        S = decay[..., None, None] * S + B[:, t, :, :, None] * given[:, :, None]
        ys.append((C[:, t, :, :, None] * S).sum(2))
    return torch.stack(ys, 1), torch.stack(states, 1)


RECURRENCE = Recurrence(recurrence, recurrence_backward)
forward = RECURRENCE.forward
backward = RECURRENCE.backward
