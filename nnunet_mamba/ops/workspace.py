"""Memory that an op's preferred backend holds while it runs, in addition to what goes in and comes out.

Only of the ops that networks call. Nothing here runs a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from nnunet_mamba.ops import backends
from nnunet_mamba.ops.oriented_weights import SSDWeights, Weights
from nnunet_mamba.ops.self_test import BACKWARD, FORWARD


@dataclass(frozen=True)
class Workspace:
    """One call's: `bytes(batch, length)` for any number of samples and tokens; those of the call."""

    bytes: Callable[[int, int], int]
    batch: int
    length: int


def _of_oriented_scan(x: Tensor, z: Tensor, *rest: Tensor) -> tuple[int, ...]:
    """channels, orders, states, rank"""
    weights = Weights(*rest[: len(Weights._fields)])
    return x.shape[2], len(weights.A), weights.states, weights.rank


def _of_oriented_ssd(xBC: Tensor, dt: Tensor, *rest: Any) -> tuple[int, ...]:
    """heads, channels of a head, states, groups, orders"""
    d_state, n_groups, orders, *_ = rest[len(SSDWeights._fields) :]
    heads = dt.shape[2]
    return heads, (xBC.shape[2] - 2 * n_groups * d_state) // heads, d_state, n_groups, len(orders)


@dataclass(frozen=True)
class _Operator:
    """An op that networks call, and what of a call's arguments its backends' `workspace` asks for.

    A backend is asked workspace(part, batch, length, *sizes, dtype); the first argument is (b l ...).
    """

    op: str
    part: str
    sizes: Callable[..., tuple[int, ...]]


OPERATORS = {
    f"nnunet_mamba::{registered}{suffix}": _Operator(op, part, sizes)
    for registered, op, sizes in (
        ("tri_scan", "oriented_scan", _of_oriented_scan),
        ("oriented_ssd", "oriented_ssd", _of_oriented_ssd),
    )
    for suffix, part in (("", FORWARD), ("_backward", BACKWARD))
}
"""By the name under which torch knows them"""


def of_call(operator: str, arguments: tuple, device: str) -> Workspace | None:
    """For a call of an operator ("namespace::name") on a device; None for operators that are not ours."""
    known = OPERATORS.get(operator)
    if known is None:
        return None
    inputs = arguments[1:] if known.part == BACKWARD else arguments
    module = _preferred(known.op, device)
    x, sizes = inputs[0], known.sizes(*inputs)

    def size(batch: int, length: int) -> int:
        return module.workspace(known.part, batch, length, *sizes, x.dtype)

    return Workspace(size, x.shape[0], x.shape[1])


def _preferred(op: str, device: str) -> ModuleType:
    name = backends.preference(op, device)[0]
    module = backends.load(op, name)
    if not hasattr(module, "workspace"):
        raise ValueError(
            f"{op}'s backend {name!r} does not say how much memory it holds, so a training step's on {device} "
            f"cannot be estimated; write workspace() in its file, as in nnunet_mamba/ops/{op}/numba.py"
        )
    return module
