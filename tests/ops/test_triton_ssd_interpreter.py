"""Mamba-2's Triton backends without a GPU, in Triton's interpreter; see `test_triton_interpreter` for what that shows.

Judge: a loop over time steps in float64, differentiated by torch, written here and sharing nothing with the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_mamba.ops.oriented_weights import SSDWeights
from tests.ops.test_triton_interpreter import TOLERANCES, Random, compare, conv_loop, divided

pytest.importorskip("triton")

# b, l, h, p, g, n, dtype, chunk, given arguments (D, b: dt_bias, s: softplus), time step, decay
SCANS = {
    "one token": (1, 1, 1, 1, 1, 1, "float32", None, "Dbs", 0.5, 1),
    "shorter than a chunk": (2, 21, 4, 5, 2, 5, "float32", None, "Dbs", 0.5, 1),
    "several rows of a chunk": (1, 203, 2, 16, 1, 16, "float32", 256, "Dbs", 0.5, 1),
    "several chunks of a row": (1, 203, 2, 16, 1, 16, "float32", 64, "Dbs", 0.5, 1),
    "a head of 80 channels": (1, 67, 2, 80, 1, 32, "float32", 64, "Dbs", 0.5, 1),
    "128 states": (1, 70, 1, 16, 1, 128, "float32", 64, "Dbs", 0.5, 1),
    "no extras": (1, 70, 2, 3, 1, 4, "float32", 64, "", 0.5, 1),
    "heads shared by programs": (1, 70, 4, 3, 1, 4, "float32", 64, "D", 0.5, 1),
    "a group's heads in one program": (1, 70, 4, 3, 2, 4, "float32", 64, "D", 0.5, 1),
    "saved states used": (1, 300, 2, 2, 1, 2, "float32", 256, "Dbs", 0.5, 1),
    "carried twice": (2, 270, 1, 2, 1, 2, "float32", 64, "s", 0.5, 1),
    "fresh network": (1, 200, 2, 4, 1, 8, "float32", 256, "", 0.03, 16),
    "steep": (1, 200, 2, 4, 1, 8, "float32", 256, "", 0.3, 16),
    "steeper": (1, 200, 2, 4, 1, 8, "float32", 256, "", 4.0, 16),
    "float64": (1, 70, 2, 5, 1, 6, "float64", 64, "Dbs", 0.5, 1),
    "bfloat16": (1, 150, 4, 16, 2, 16, "bfloat16", 128, "Dbs", 0.5, 1),
    "float16": (1, 150, 4, 16, 2, 16, "float16", 128, "Dbs", 0.5, 1),
}
# b, l, h, p, g, n, w, orders, n_slices, dtype, chunk
MIXERS = {
    "one token": (1, 1, 2, 2, 1, 3, 4, "fbs", 1, "float32", None),
    "all orders": (2, 21, 2, 5, 1, 5, 4, "fbs", 3, "float32", None),
    "reverse": (1, 67, 2, 3, 1, 2, 3, "b", 1, "float32", 64),
    "slices": (1, 70, 2, 3, 2, 4, 4, "s", 7, "float32", 64),
    "more taps than slices": (1, 12, 2, 3, 1, 2, 4, "s", 2, "float32", None),
    "saved states used": (1, 300, 2, 2, 1, 4, 4, "fb", 1, "float32", 256),
    "in parts": (2, 20, 2, 3, 1, 2, 4, "fs", 4, "float32", None),
    "in parts, rounded": (3, 20, 2, 3, 1, 2, 4, "fs", 4, "bfloat16", None),
    "order by order": (2, 20, 2, 3, 1, 2, 4, "sbf", 4, "float32", None),
    "float64": (1, 12, 2, 3, 1, 5, 4, "bs", 4, "float64", None),
    "bfloat16": (1, 72, 2, 16, 1, 16, 4, "fbs", 4, "bfloat16", None),
    "float16": (1, 72, 2, 16, 1, 16, 4, "fbs", 4, "float16", None),
}
# module of nnunet_mamba.ops, constant and value: sizes at which work is divided
DIVIDED = {
    "scan: a group's heads in one program": [("kernels.triton_ssd_sizes", "PROGRAMS", 1)],
    "scan: carried twice": [("kernels.triton_ssd", "CARRY_CHUNKS", 2)],
    "mixer: in parts": [("kernels.triton_sizes", "PART", 1), ("kernels.triton_ssd_sizes", "PROGRAMS", 1)],
    "mixer: in parts, rounded": [("kernels.triton_sizes", "PART", 1)],
    "mixer: order by order": [("kernels.triton_sizes", "PART", 2 * 20 * 10)],
}
CASES = [f"{kind}: {name}" for kind, cases in (("scan", SCANS), ("mixer", MIXERS)) for name in cases]


# ------------------------------------------------------------------------------------------------------ in this process


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """case -> dtype, error of y, errors of the gradients, of the states"""
    package_root = Path(__file__).parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "nnUNet_mamba_self_test": "0", "PYTHONPATH": str(package_root)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_matches_the_float64_loop(results: dict[str, dict], case: str) -> None:
    result = results[case]
    of_y, of_gradients = TOLERANCES[result["dtype"]]
    # the oriented SSD rounds what the convolution gives as well
    of_y *= 2 if case.startswith("mixer") and result["dtype"] == "bfloat16" else 1
    assert result["y"] <= of_y
    assert result["states"] <= of_y
    assert max(result["gradients"]) <= of_gradients, result["gradients"]


# ------------------------------------------------------------------------------------------------- in the other process


def ssd_loop(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool
) -> tuple[Tensor, Tensor]:
    """x (b l h p); dt (b l h); A, D, bias (h); B, C (b l g n) -> y (b l h p), states (b c h n p)"""
    b, length, h, p = x.shape
    step = dt if bias is None else dt + bias
    step = functional.softplus(step, threshold=50) if softplus else step
    group = torch.arange(h) // (h // B.shape[2])
    S, ys, states = x.new_zeros(b, h, B.shape[3], p), [], []
    for t in range(length):
        if t % 256 == 0:
            states.append(S)
        write = torch.einsum("bh,bhn,bhp->bhnp", step[:, t], B[:, t, group], x[:, t])
        S = torch.exp(step[:, t] * A)[:, :, None, None] * S + write
        ys.append(torch.einsum("bhn,bhnp->bhp", C[:, t, group], S))
    y = torch.stack(ys, 1)
    return (y if D is None else y + D[:, None] * x), torch.stack(states, 1)


def mixer_loop(
    xBC: Tensor, dt: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor,
    n: int, groups: int, orders: str, n_slices: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """xBC (b l e+2gn), dt (b l h) -> y (b l e), states (o b c h n p)"""
    length, h, e = xBC.shape[1], dt.shape[2], xBC.shape[2] - 2 * groups * n
    steps = torch.arange(length)
    total, states = xBC.new_zeros(*xBC.shape[:2], e), []
    for k, order in enumerate(orders):
        token = {
            "f": steps,
            "b": length - 1 - steps,
            "s": (steps % n_slices) * (length // n_slices) + steps // n_slices,
        }[order]
        u = conv_loop(xBC[:, token].transpose(1, 2), conv_weight[k], conv_bias[k], True).transpose(1, 2)
        x, B, C = u.split([e, groups * n, groups * n], -1)
        B, C = B.unflatten(2, (groups, n)), C.unflatten(2, (groups, n))
        y, state = ssd_loop(x.unflatten(2, (h, -1)), dt[:, token], A[k], B, C, D[k], dt_bias[k], True)
        total = total.index_add(1, token, y.flatten(2))
        states.append(state)
    return total, torch.stack(states)


def scan_tensors(
    random: Random, b: int, length: int, h: int, p: int, g: int, n: int, given: str, step: float = 0.5, decay: float = 1
) -> list[Tensor | None]:
    dt = random.normal(b, length, h)
    return [
        random.normal(b, length, h, p).to(random.dtype),
        (step * (dt if "s" in given else dt.abs() + 0.1)).to(random.dtype),
        random.parameter(-decay * torch.exp(0.3 * random.normal(h))),
        random.normal(b, length, g, n).to(random.dtype),
        random.normal(b, length, g, n).to(random.dtype),
        random.parameter(random.normal(h)) if "D" in given else None,
        random.parameter(random.normal(h) - 1) if "b" in given else None,
    ]


def of(random: Random):
    return lambda *shape: random.normal(*shape).to(random.dtype)


def run_scan(op, b, length, h, p, g, n, dtype, chunk, given, step, decay) -> dict:
    random = Random(dtype)

    def run(*tensors):
        y, states = op.forward(*tensors, "s" in given, chunk=chunk)
        return y, states, lambda grad: op.backward(grad, *tensors, "s" in given, states, chunk=chunk)

    def judge(*tensors):
        return ssd_loop(*tensors, "s" in given)

    return compare(run, judge, scan_tensors(random, b, length, h, p, g, n, given, step, decay), of(random), dtype)


def mixer_tensors(random: Random, b: int, length: int, h: int, p: int, g: int, n: int, w: int, o: int) -> list[Tensor]:
    """As views of one projection: z | xBC | dt"""
    k = h * p + 2 * g * n
    _, xBC, dt = random.normal(b, length, h * p + k + h).to(random.dtype).split([h * p, k, h], -1)
    weights = (
        random.normal(o, k, w) / w**0.5,
        random.normal(o, k) / 10,
        random.normal(o, h) / 2 - 2,
        -torch.exp(random.normal(o, h)),
        random.normal(o, h),
    )
    return [xBC, dt, *map(random.parameter, weights)]


def run_mixer(op, b, length, h, p, g, n, w, orders, n_slices, dtype, chunk) -> dict:
    random = Random(dtype)

    def run(*tensors):
        arguments = (*tensors[:2], SSDWeights(*tensors[2:]), n, g, orders, n_slices)
        y, states = op.forward(*arguments, chunk=chunk)
        return y, states, lambda grad: op.backward(grad, *arguments, states, chunk=chunk)

    def judge(*tensors):
        return mixer_loop(*tensors, n, g, orders, n_slices)

    return compare(run, judge, mixer_tensors(random, b, length, h, p, g, n, w, len(orders)), of(random), dtype)


def main() -> None:
    torch.set_num_threads(1)
    scan, mixer = (import_module(f"nnunet_mamba.ops.{op}.triton") for op in ("ssd", "oriented_ssd"))
    for op in (scan, mixer):
        assert op.why_not(torch.zeros(1, 2, 3)) is None
    results = {}
    for kind, op, run, cases in (("scan", scan, run_scan, SCANS), ("mixer", mixer, run_mixer, MIXERS)):
        for name, case in cases.items():
            with divided(DIVIDED.get(f"{kind}: {name}", ())):
                results[f"{kind}: {name}"] = run(op, *case)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
