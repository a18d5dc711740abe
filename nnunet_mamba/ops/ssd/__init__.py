"""SSD: the recurrence of Mamba-2, a state space with one decay per head (Dao & Gu 2024, state space duality).

    dt   = softplus(dt + dt_bias)                           (softplus and bias on request)
    S[t] = exp(dt[t] * A) * S[t-1] + dt[t] * B[t] x[t]^T    per head
    y[t] = C[t] . S[t] + D * x[t]                           (D on request)

The selective scan has a decay per channel and state entry; here dt, A and D are one number per head, and the p channels
of a head share it. B and C belong to a group of heads: head i reads group i // (h / g).

Shapes, everywhere in this folder:
    b  batch        l  sequence length        h  heads        p  channels of a head
    g  groups of heads        n  state size        c  chunks of l
"""

from nnunet_mamba.ops.ssd.dispatch import ssd

__all__ = ["ssd"]
