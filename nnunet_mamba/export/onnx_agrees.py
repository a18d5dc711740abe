"""Whether onnxruntime, on a CPU, computes what torch does. The only file that needs onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_mamba.export.write_onnx import INPUT

ALLOWED = 1e-4
"""Largest difference, as a share of the largest logit. float32 rounds to 6e-8; networks without convolutions between
their norms make 1e-5 of that."""
BATCHES = (1, 2)


def check_agreement(network: nn.Module, channels: int, patch: Sequence[int], file: Path) -> float:
    """Run both on random patches, alone and two at a time -> the largest difference, relative to the largest logit.

    Raises ValueError where it is beyond 1e-4, or where onnxruntime cannot load or run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for batch in BATCHES:
            image = torch.randn(batch, channels, *patch, generator=generator)
            (got,) = session.run(None, {INPUT: image.numpy()})
            with torch.no_grad():
                expected = network(image)
            worst = max(worst, _difference(torch.from_numpy(got), expected))
            if not worst <= ALLOWED:
                raise ValueError(_disagreement(network, image, expected, worst))
    except ValueError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for every kind
        raise ValueError(f"onnxruntime cannot run the exported network: {str(error).strip()[:300]}") from None
    return worst


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
