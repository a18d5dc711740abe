"""The oriented scan with mamba-ssm's CUDA scan inside: three passes over permuted copies, as released code does it."""

from __future__ import annotations

from nnunet_mamba.ops.causal_conv1d.blocked import CONVOLUTION
from nnunet_mamba.ops.oriented_scan.composed import Composed
from nnunet_mamba.ops.selective_scan.mamba_ssm import RECURRENCE, why_not

__all__ = ["backward", "forward", "why_not"]

_COMPOSED = Composed(RECURRENCE, CONVOLUTION)
forward = _COMPOSED.forward
backward = _COMPOSED.backward
