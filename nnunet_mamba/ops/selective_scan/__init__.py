"""Selective scan: the recurrence at the heart of Mamba (Gu & Dao 2023, Algorithm 2).

    dt   = softplus(delta + delta_bias)                     (softplus and bias on request)
    h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * B[t] * u[t]
    y[t] = (C[t] . h[t] + D * u[t]) * silu(z[t])            (D and z on request)

Shapes, everywhere in this folder:
    b  batch        d  inner channels        n  state size        l  sequence length        c  chunks of l
"""

from nnunet_mamba.ops.selective_scan.dispatch import selective_scan

__all__ = ["selective_scan"]
