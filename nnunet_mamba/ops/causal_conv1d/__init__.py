"""Causal depthwise convolution along the last axis, with optional SiLU: the short convolution in front of the scan.

    y[t] = act(sum_k weight[k] * x[t - w + 1 + k] + bias)        missing x are zero

Shapes, everywhere in this folder:
    b  batch        d  channels        l  sequence length        w  taps
"""

from nnunet_mamba.ops.causal_conv1d.dispatch import causal_conv1d

__all__ = ["causal_conv1d"]
