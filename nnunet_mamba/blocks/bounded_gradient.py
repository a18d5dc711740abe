"""An identity whose gradient cannot overflow.

On a constant image (a patch of zeros outside the body is one) a norm has nothing to normalise, and its gradient is
1/sqrt(eps) = 316 times what comes in. A chain of norms without convolutions between them, which would make the map
uneven at the border, multiplies that until float32 ends. nnU-Net clips the gradient's norm to 12 afterwards; so does
this earlier, where it is still a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGEST = 1e10


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.clamp(-LARGEST, LARGEST)


def bounded_gradient(x: Tensor) -> Tensor:
    """x itself; gradients beyond 1e10 are 1e10. For float32 and float64."""
    return _Bounded.apply(x)  # type: ignore[no-any-return]
