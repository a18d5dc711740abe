"""Oriented SSD: what a Mamba-2 mixer computes between its input projection and its gate, along one or more orders.

As the oriented scan does for Mamba-1, with Mamba-2's recurrence (Dao & Gu 2024, section 7): x, B, C and dt come from
the input projection, token by token, so only the convolution, the decays and the order of tokens differ:

    for every order o:  x, B, C = silu(causal_conv1d(xBC in order o))
                        y_o = ssd(x, softplus(dt + dt_bias), A, B, C, D) put back into natural order
    y = sum of y_o

Neither gated nor normalised: the mixer does both once, on the sum. A plain Mamba-2 mixer is the single order "f".

Shapes, everywhere in this folder:
    b  batch        l  tokens        h  heads        p  channels of a head        e  inner channels = h p
    g  groups       n  state size    k  channels of the convolution = e + 2gn
    o  orders       w  taps          c  chunks of l
"""

from nnunet_mamba.ops.oriented_ssd.dispatch import oriented_ssd

__all__ = ["oriented_ssd"]
