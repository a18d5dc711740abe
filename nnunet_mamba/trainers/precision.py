"""In which number format a training step runs: bf16 where the GPU has it, else fp16, fp32 on request and on a CPU.

nnU-Net opens autocast without naming a type, so that torch's autocast type decides. Prediction is none of this module's
business: nnU-Net predicts in fp16 whatever a network was trained in, and the networks stay finite there by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from nnunet_mamba.names.suffixes import PRECISIONS

VARIABLE = "nnUNet_mamba_precision"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FULL, HALF = "fp32", "fp16"


def choose(device: torch.device, by_name: str | None) -> str:
    """The precision for this device, from the trainer's name or the environment variable.

    Raises ValueError for an unknown one, two different ones, one that the device lacks, or no such device.
    """
    asked = os.environ.get(VARIABLE) or None
    if asked is not None and asked not in PRECISIONS:
        raise ValueError(f"{VARIABLE}={asked}; expected one of {', '.join(PRECISIONS)}")
    if asked is not None and by_name is not None and asked != by_name:
        raise ValueError(f"{VARIABLE}={asked}, but the trainer's name says _{by_name}; leave one of them out")
    chosen = by_name or asked
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("torch finds no CUDA GPU; to train on the CPU: nnUNetv2_train ... -device cpu")
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if chosen == "bf16" and not has_bf16:
            raise ValueError("bf16 training: this GPU computes no bfloat16; take fp16 or fp32")
        return chosen or ("bf16" if has_bf16 else HALF)
    if device.type != "cpu" and chosen not in (None, FULL):
        raise ValueError(f"{chosen} training on {device.type}: nnU-Net trains in fp32 there; leave the precision out")
    return chosen or FULL


def needs_scaler(precision: str) -> bool:
    """Whether small gradients would be lost without a scaled loss"""
    return precision == HALF


@contextmanager
def training_in(precision: str, device: torch.device) -> Iterator[None]:
    """Around nnU-Net's training or validation step."""
    if device.type == "cuda":  # nnU-Net opens autocast itself and takes the type from here
        before = torch.get_autocast_dtype("cuda")
        torch.set_autocast_dtype("cuda", DTYPES[precision])
        try:
            yield
        finally:
            torch.set_autocast_dtype("cuda", before)
    elif device.type == "cpu" and precision != FULL:  # nnU-Net opens none
        with torch.autocast("cpu", dtype=DTYPES[precision]), _FlatMapsInFull():
            yield
    else:
        yield


class _FlatMapsInFull(TorchFunctionMode):
    """Convolutions over maps with fewer planes than the kernel run in float32.

    The weight gradient of oneDNN's bfloat16 kernels reads beyond them on AVX512 (torch 2.15), and gives anything up to
    1e37.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv3d, F.conv_transpose3d) and args[0].shape[2] < args[1].shape[2]:
            with torch.autocast("cpu", enabled=False):
                args = [a.float() if isinstance(a, torch.Tensor) else a for a in args]
                return func(*args, **(kwargs or {})).to(torch.get_autocast_dtype("cpu"))
        return func(*args, **(kwargs or {}))
