"""mamba-ssm has no convolution of its own: where its scan is asked for, the convolution runs in plain torch."""

from __future__ import annotations

from nnunet_mamba.ops.causal_conv1d.blocked import backward, forward
from nnunet_mamba.ops.selective_scan.mamba_ssm import why_not

__all__ = ["backward", "forward", "why_not"]
