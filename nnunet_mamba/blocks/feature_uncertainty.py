"""Feature-level uncertainty estimation (FUE), a component of SegMamba's paper that released code does not have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weigh_by_uncertainty(x: Tensor) -> Tensor:
    """Feature-level uncertainty estimation: x + x (1 - u) with u = -m log m and m = sigmoid(channel mean), per voxel.

    After secondary descriptions of the paper's section 2.3, which disagree with each other; unverified.
    """
    mean = x.float().mean(1, keepdim=True)
    uncertainty = -torch.sigmoid(mean) * F.logsigmoid(mean)
    return x + x * (1 - uncertainty).to(x.dtype)
