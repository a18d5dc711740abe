"""Whether onnxruntime, on a CPU, computes what torch does. The only file that needs onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_mamba.export.write_onnx import INPUT, SHOWN

ALLOWED = 1e-4
"""Largest difference, as a share of the largest logit. float32 rounds to 6e-8; networks without convolutions between
their norms make 1e-5 of that."""
BATCHES = (1, 2)


@dataclass(frozen=True)
class Agreement:
    """difference: the largest, relative to the largest logit. Seconds for a patch on this CPU, once warm."""

    difference: float
    torch_seconds: float
    onnx_seconds: float


def check_agreement(network: nn.Module, channels: int, patch: Sequence[int], file: Path) -> Agreement:
    """Run both on random patches, alone and two at a time.

    Raises ValueError where they differ by more than 1e-4 of the largest logit, or where onnxruntime cannot load or run
    the file.
    """
    generator = torch.Generator().manual_seed(0)
    run, worst, seconds = _session(file), 0.0, (0.0, 0.0)
    for batch in BATCHES:
        image = torch.randn(batch, channels, *patch, generator=generator)
        start = time.perf_counter()
        got = run(image)
        between = time.perf_counter()
        with torch.no_grad():  # one by one: half the memory, and samples must not depend on each other
            expected = torch.cat([network(one[None]) for one in image])
        seconds = (time.perf_counter() - between) / batch, (between - start) / batch
        worst = max(worst, _difference(got, expected))
        if not worst <= ALLOWED:
            raise ValueError(_disagreement(network, image, expected, worst))
    return Agreement(worst, *seconds)


def _session(file: Path) -> Callable[[Tensor], Tensor]:
    """Raises ValueError for a file that cannot be loaded, and its function for one that cannot be run"""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors

    def said(error: Exception) -> ValueError:
        return ValueError(f"onnxruntime cannot run the exported network: {str(error).strip()[:SHOWN]}")

    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every kind
        raise said(error) from None

    def run(image: Tensor) -> Tensor:
        try:
            (logits,) = session.run(None, {INPUT: image.numpy()})
        except Exception as error:
            raise said(error) from None
        return torch.from_numpy(logits)

    return run


def _difference(got: Tensor, expected: Tensor) -> float:
    """NaN where a value is not a number, or shapes differ"""
    if got.shape != expected.shape:
        return float("nan")
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())


def _disagreement(network: nn.Module, image: Tensor, logits: Tensor, worst: float) -> str:
    """With how exact torch itself is: a network that amplifies rounding agrees with nothing"""
    with torch.no_grad():
        own = _difference(logits, network.double()(image.double()))
    network.float()
    told = f"the exported network differs from torch's by {worst:.1e} of the largest logit; {ALLOWED:g} is allowed"
    if own > ALLOWED / 2:
        return f"{told}. This network amplifies rounding: torch's own float32 differs from its float64 by {own:.1e}"
    return told
