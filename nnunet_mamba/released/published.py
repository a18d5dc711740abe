"""What is recorded of a published network, and what these records are written with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Rename = tuple[tuple[str, str], ...]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Published:
    """One published network.

    plan_keywords: published configuration -> (input channels, outputs, plan keywords). names: own parameter name ->
    published one, as patterns. recognise: keys that only this network has. sizes_of: configuration from a checkpoint's
    shapes. dead: published parameters that its forward never uses.
    """

    kind: str
    network: str
    plan_keywords: Callable[..., tuple[int, int, dict[str, Any]]]
    names: Rename
    recognise: tuple[str, ...]
    sizes_of: Callable[[Weights], dict[str, Any]]
    dead: str | None = None

    def published_name(self, own: str) -> str:
        """How released checkpoints call this parameter."""
        for pattern, replacement in self.names:
            if re.match(pattern, own):
                return re.sub(pattern, replacement, own, count=1)
        return own

    def config_names(self) -> list[str]:
        return list(inspect.signature(self.plan_keywords).parameters)


def isotropic(dim: int, features: Sequence[int], **more: Any) -> dict[str, Any]:
    """Plan keywords of an isotropic topology that halves every axis at every stage."""
    n = len(features)
    return {
        "n_stages": n,
        "features_per_stage": list(features),
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3] * dim for _ in range(n)],
        "strides": [[1] * dim, *([2] * dim for _ in range(n - 1))],
        **more,
    }


def count(weights: Weights, pattern: str) -> int:
    """Different numbers in the pattern's group."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})
