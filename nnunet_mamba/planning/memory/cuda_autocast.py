"""Autocast as CUDA does it, on CPU tensors, so that a plan does not depend on the machine it is made on.

The CPU's autocast casts the same operations to half precision, but leaves out most of those that CUDA casts up to
float32, and casts up some that CUDA leaves alone; a mode puts both right.
Source: PyTorch's table of autocast operations (aten/src/ATen/autocast_mode.h).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

FLOAT32 = frozenset(
    (
        # point by point
        "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt",
        "sinh", "tan", "pow", "softplus", "interpolate",
        # norms, sums and what ends in one
        "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "norm", "prod", "sum", "cumprod", "cumsum",
        "softmax", "log_softmax", "logsumexp", "cosine_similarity",
        # losses
        "nll_loss", "cross_entropy", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss",
        "binary_cross_entropy_with_logits",
    )
)  # fmt: skip


AS_GIVEN = frozenset(("avg_pool3d", "adaptive_avg_pool3d", "max_unpool2d", "max_unpool3d", "pad"))
"""Float32 on a CPU only. The pooling on the residual's way through nnU-Net's encoder is one: its copy would be kept."""


class _Float32Operations(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = tree_map(_to_float32, args)
            kwargs = {name: tree_map(_to_float32, value) for name, value in kwargs.items()}
        if getattr(func, "__name__", "") in AS_GIVEN:
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _to_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


@contextmanager
def cuda_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """`torch.autocast("cuda", dtype)` for CPU tensors; None: no autocast."""
    if dtype is None:
        yield
        return
    with torch.autocast("cpu", dtype), _Float32Operations():
        yield
