"""Which backend would run each operator on each device here, and why others would not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from nnunet_mamba.doctor.finding import NOTE, OK, PROBLEM, Finding
from nnunet_mamba.ops import backends, self_test

AREA = "backends"
OPS = tuple(self_test.CASES)
PARTS = (self_test.FORWARD, self_test.BACKWARD)


def findings() -> Iterator[Finding]:
    """Which backend runs each operator on each device"""
    forced = os.environ.get(backends.ENVIRONMENT_VARIABLE)
    if forced:
        known = forced in backends.names()
        text = f"{backends.ENVIRONMENT_VARIABLE}={forced}" + (
            "" if known else f"; known: {', '.join(backends.names())}"
        )
        yield Finding(AREA, "forced", NOTE if known else PROBLEM, text, f"unset {backends.ENVIRONMENT_VARIABLE}")
    for device in _devices():
        for op in OPS:
            yield _of_op(op, torch.zeros(1, 1, 1, device=device))


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _of_op(op: str, like: torch.Tensor) -> Finding:
    """What `auto` takes, after the same self-test, and what it does not"""
    order = backends.preference(op, like.device.type)
    said = {name: backends.problem(op, name, like, PARTS) for name in dict.fromkeys((*order, *backends.ON_REQUEST))}
    taken = next((name for name in order if said[name] is None), None)
    rest = "; ".join(f"{name}: {why or 'ok'}" for name, why in said.items() if name != taken)
    name = f"{op} on {like.device}"
    if taken is None:
        return Finding(AREA, name, PROBLEM, rest, "nnUNet_mamba_backend=reference")
    if taken != order[0]:
        return Finding(AREA, name, NOTE, f"{taken}, not the fastest. {rest}", f"see why {order[0]} cannot run")
    return Finding(AREA, name, OK, f"{taken}, self-test passed. {rest}")
