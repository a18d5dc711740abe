"""Tensor functions of Mamba networks, each with several backends that compute the same thing.

    from nnunet_mamba.ops import causal_conv1d, selective_scan, oriented_scan, ssd, oriented_ssd

Every function is a torch custom op with a fake kernel and a registered gradient: it compiles without graph breaks and
can be traced on fake tensors. Which backend runs is decided per call, see `nnunet_mamba.ops.backends`.
"""

from nnunet_mamba.ops.causal_conv1d import causal_conv1d
from nnunet_mamba.ops.oriented_scan import oriented_scan
from nnunet_mamba.ops.oriented_ssd import oriented_ssd
from nnunet_mamba.ops.selective_scan import selective_scan
from nnunet_mamba.ops.ssd import ssd

__all__ = ["causal_conv1d", "oriented_scan", "oriented_ssd", "selective_scan", "ssd"]
