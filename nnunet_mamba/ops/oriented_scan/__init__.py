"""Oriented scan: everything of a Mamba block between its two linear projections, along one or more token orders.

SegMamba's tri-orientated block (Xing et al. 2024, section 2.2) scans the tokens of a volume forward, in reverse and
slice by slice, each order with its own weights, and gates the sum:

    for every order o:  u  = silu(causal_conv1d(x in order o))
                        dt, B, C from u by linear maps (x_proj, dt_proj)
                        y_o = selective_scan(u, dt, A, B, C, D) put back into natural order
    y = (sum of y_o) * silu(z)

Gating the sum once equals gating every order by itself, because the gate commutes with putting tokens back. A plain
Mamba block is the single order "f".

Shapes, everywhere in this folder:
    b  batch        l  tokens        e  inner channels        n  state size
    o  orders       w  taps          r  rank of dt            c  chunks of l
"""

from nnunet_mamba.ops.oriented_scan.dispatch import oriented_scan

__all__ = ["oriented_scan"]
