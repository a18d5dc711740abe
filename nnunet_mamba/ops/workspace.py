"""Memory that an op's preferred backend holds while it runs, beside what goes in and comes out.

Of the ops only `tri_scan` is called by the networks. Nothing here runs a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from nnunet_mamba.ops import backends
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
    x, _, _, _, _, dt_proj, _, A, *_ = arguments[1:] if part == BACKWARD else arguments
    module = _preferred(device)
    batch, length, channels = x.shape
    orders, _, states = A.shape

    def size(batch: int, length: int) -> int:
        return module.workspace(part, batch, length, channels, orders, states, dt_proj.shape[2], x.dtype)

    return Workspace(size, batch, length)


def _preferred(device: str) -> ModuleType:
    name = backends.preference("tri_scan", device)[0]
    module = backends.load("tri_scan", name)
    if not hasattr(module, "workspace"):
        raise ValueError(
            f"tri_scan's backend {name!r} does not say how much memory it holds, so a training step's on {device} "
            "cannot be estimated; write workspace() in its file, as in nnunet_mamba/ops/tri_scan/numba.py"
        )
    return module
