"""Which backend runs a call.

`backend="auto"` takes the first of the device's list that can run and passes its self-test, and says so once if that is
not the device's best. A backend asked for by name runs or raises; it never falls back silently. The environment
variable `nnUNet_mamba_backend` replaces "auto" everywhere.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from torch import Tensor

from nnunet_mamba.ops import self_test
from nnunet_mamba.ops.self_test import FORWARD

ENVIRONMENT_VARIABLE = "nnUNet_mamba_backend"

PREFERENCE = {
    "cpu": ("numba", "blocked", "reference"),
    "cuda": ("triton", "blocked", "reference"),
}
OTHER_DEVICES = ("blocked", "reference")
ON_REQUEST = ("mamba_ssm",)

_reported: set[tuple[str, str, str]] = set()


def names() -> tuple[str, ...]:
    """All backends, best first, those only used on request last."""
    ordered = dict.fromkeys(name for order in (*PREFERENCE.values(), OTHER_DEVICES, ON_REQUEST) for name in order)
    ordered.pop("reference")
    return (*ordered, "reference")


class MissingBackendError(ValueError):
    """An op was asked for a backend that others may have, but not this op."""


def load(op: str, name: str) -> ModuleType:
    """The module of one backend of one op ("oriented_scan", "ssd", ...: a folder here).

    Raises MissingBackendError where this op has no such backend: not every op needs every backend.
    """
    path = f"nnunet_mamba.ops.{op}.{name}"
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise MissingBackendError(f"{op} has no such backend") from None


def has(op: str, name: str) -> bool:
    """Whether this op has this backend at all."""
    try:
        load(op, name)
    except MissingBackendError:
        return False
    return True


def preference(op: str, device: str) -> list[str]:
    """The op's backends for a device ("cpu", "cuda", ...), best first."""
    return [name for name in PREFERENCE.get(device, OTHER_DEVICES) if has(op, name)]


def problem(op: str, name: str, x: Tensor, parts: Iterable[str] = ()) -> str | None:
    """Why a backend would not run a call with this tensor, or None: it is missing, it cannot, or it is wrong here.

    parts: of the call, "forward" or "backward", that must equal the reference in a small case.
    """
    try:
        module = load(op, name)
    except MissingBackendError as error:
        return str(error)
    reason = module.why_not(x)
    for part in parts:
        reason = reason or self_test.problem(op, name, module, part, x)
    return reason


def explain(op: str, x: Tensor) -> dict[str, str]:
    """What each backend would say to a call with this tensor: "ok", or why not."""
    return {name: problem(op, name, x) or "ok" for name in names()}


def choose(op: str, backend: str, x: Tensor, part: str = FORWARD) -> ModuleType:
    """The module that runs this part ("forward" or "backward") of a call.

    Raises ValueError for an unknown name and for a named backend that cannot run.
    """
    asked_by = "backend"
    if backend == "auto":
        backend = os.environ.get(ENVIRONMENT_VARIABLE, "auto") or "auto"
        asked_by = ENVIRONMENT_VARIABLE
    if backend != "auto":
        return _named(op, backend, x, part, asked_by)

    refused: dict[str, str] = {}
    for name in preference(op, x.device.type):
        reason = problem(op, name, x, (part,))
        if reason is None:
            if refused:
                _report_once(op, name, x.device.type, refused)
            return load(op, name)
        refused[name] = reason
    raise RuntimeError(f"{op}: no backend can run on {x.device}: {refused}")


def _named(op: str, backend: str, x: Tensor, part: str, asked_by: str) -> ModuleType:
    if backend not in names():
        raise ValueError(f"{asked_by}={backend!r} is unknown; known: auto, {', '.join(names())}")
    reason = problem(op, backend, x, (part,))
    if reason is not None:
        raise ValueError(f"{op}: backend {backend!r} was asked for ({asked_by}) but cannot run: {reason}")
    return load(op, backend)


def _report_once(op: str, name: str, device: str, refused: dict[str, str]) -> None:
    if (op, name, device) in _reported:
        return
    _reported.add((op, name, device))
    reasons = "; ".join(f"{other}: {reason}" for other, reason in refused.items())
    warnings.warn(f"{op} runs on the {name!r} backend ({reasons})", stacklevel=3)
