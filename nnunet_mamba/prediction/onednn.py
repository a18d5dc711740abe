"""Convolutions of one image through oneDNN, where torch would compute them with a slower loop.

For a batch of one in float32 torch takes oneDNN only if channels times the two first axes are more than 20480
(`use_mkldnn` in ATen/native/Convolution.cpp), which the deeper stages of a network on a patch never are; else it copies
every neighbourhood and multiplies matrices. That is the faster way for kernels of one voxel only.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn


def through_onednn(network: nn.Module) -> int:
    """Changes how the network's 3d convolutions compute -> how many were changed; results are the same up to rounding.

    Those with groups, which torch gives to oneDNN anyway, kernels of one voxel, and other padding than zeros stay as
    they are. For CPUs and float32. Raises ValueError where torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise ValueError("--onednn: this torch was built without oneDNN; leave it out")
    found = [module for module in network.modules() if isinstance(module, nn.Conv3d) and _gains(module)]
    for module in found:
        module.forward = partial(_convolve, module)
    return len(found)


def _gains(module: nn.Conv3d) -> bool:
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and module.groups == 1 and max(module.kernel_size) > 1


def _convolve(module: nn.Conv3d, input: Tensor) -> Tensor:
    return torch.ops.aten.mkldnn_convolution(
        input, module.weight, module.bias, module.padding, module.stride, module.dilation, module.groups
    )
