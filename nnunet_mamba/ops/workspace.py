"""Memory that an op's preferred backend holds while it runs, in addition to what goes in and comes out.

Of the ops only `oriented_scan` is called by the networks. Nothing here runs a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from nnunet_mamba.ops import backends
from nnunet_mamba.ops.oriented_weights import Weights
from nnunet_mamba.ops.self_test import BACKWARD, FORWARD

OPERATORS = {"nnunet_mamba::tri_scan": FORWARD, "nnunet_mamba::tri_scan_backward": BACKWARD}


@dataclass(frozen=True)
class Workspace:
    """One call's: `bytes(batch, length)` for any number of samples and tokens; those of the call."""

    bytes: Callable[[int, int], int]
    batch: int
    length: int


def of_call(operator: str, arguments: tuple, device: str) -> Workspace | None:
    """For a call of an operator ("namespace::name") on a device; None for operators that are not ours."""
    part = OPERATORS.get(operator)
    if part is None:
        return None
    x, _, *rest = arguments[1:] if part == BACKWARD else arguments
    weights = Weights(*rest[: len(Weights._fields)])
    module = _preferred(device)
    batch, length, channels = x.shape

    def size(batch: int, length: int) -> int:
        return module.workspace(part, batch, length, channels, len(weights.A), weights.states, weights.rank, x.dtype)

    return Workspace(size, batch, length)


def _preferred(device: str) -> ModuleType:
    name = backends.preference("oriented_scan", device)[0]
    module = backends.load("oriented_scan", name)
    if not hasattr(module, "workspace"):
        raise ValueError(
            f"oriented_scan's backend {name!r} does not say how much memory it holds, so a training step's on {device} "
            "cannot be estimated; write workspace() in its file, as in nnunet_mamba/ops/oriented_scan/numba.py"
        )
    return module
