"""The oriented SSD on the `reference` recurrence and convolution."""

from __future__ import annotations

from torch import Tensor

from nnunet_mamba.ops.causal_conv1d.reference import CONVOLUTION
from nnunet_mamba.ops.oriented_ssd.composed import Composed
from nnunet_mamba.ops.ssd.reference import RECURRENCE


def why_not(xBC: Tensor) -> str | None:
    """Runs everywhere."""
    return None


_COMPOSED = Composed(RECURRENCE, CONVOLUTION)
forward = _COMPOSED.forward
backward = _COMPOSED.backward
