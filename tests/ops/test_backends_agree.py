"""Every backend of every op computes what the reference computes: values and every gradient, by name."""

from __future__ import annotations

import pytest
import torch

from nnunet_mamba.ops import backends, causal_conv1d, oriented_scan, selective_scan
from tests.ops.cases import (
    GRADIENT_TOLERANCE,
    VALUE_TOLERANCE,
    as_leaves,
    compare,
    conv_inputs,
    cpu_backends,
    gradients,
    relative_error,
    scan_inputs,
    tri_inputs,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SCANS = [
    (1, 4, 2, 1),
    (2, 8, 16, 63),
    (1, 6, 4, 100),
    (1, 3, 16, 256),
    (2, 5, 3, 257),
    (1, 2, 1, 700),
    (1, 100, 2, 300),
]
CONVS = [(1, 3, 4, 1), (2, 5, 4, 2), (1, 4, 3, 63), (2, 3, 1, 10), (1, 8, 2, 257)]
TRIS = [  # orders, n_slices, (b, l, e, n, r, w)
    ("f", 1, (1, 1, 4, 2, 1, 4)),
    ("fbs", 4, (2, 96, 8, 16, 1, 4)),
    ("fbs", 3, (1, 15, 5, 3, 2, 3)),
    ("fb", 1, (1, 257, 6, 4, 1, 4)),
    ("s", 7, (1, 301, 4, 8, 1, 2)),
    ("fbs", 1, (2, 5, 3, 1, 1, 4)),
    ("fs", 4, (2, 20, 100, 2, 2, 4)),  # more channels than one task takes
]


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SCANS, ids=lambda s: "b{}-d{}-n{}-l{}".format(*s))
def test_selective_scan(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    compare(lambda t, be: selective_scan(**t, delta_softplus=True, backend=be), scan_inputs(*shape), dtype, backend)


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias", "softplus", "everything"])
def test_selective_scan_without_optional_parts(left_out: str, backend: str) -> None:
    inputs = scan_inputs(2, 3, 4, 50)
    inputs["delta"] = inputs["delta"].abs()  # a step size, when no softplus makes it one
    softplus = left_out not in ("softplus", "everything")
    for name in ("D", "z", "delta_bias") if left_out == "everything" else (left_out,):
        inputs.pop(name, None)
    if not softplus and "delta_bias" in inputs:
        inputs["delta_bias"] = inputs["delta_bias"].abs()
    compare(lambda t, be: selective_scan(**t, delta_softplus=softplus, backend=be), inputs, torch.float64, backend)


@pytest.mark.parametrize("backend", cpu_backends("causal_conv1d"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", CONVS, ids=lambda s: "b{}-d{}-w{}-l{}".format(*s))
def test_causal_conv1d(shape: tuple[int, ...], activation: str | None, dtype: torch.dtype, backend: str) -> None:
    compare(lambda t, be: causal_conv1d(**t, activation=activation, backend=be), conv_inputs(*shape), dtype, backend)


@pytest.mark.parametrize("backend", cpu_backends("causal_conv1d"))
def test_causal_conv1d_without_bias(backend: str) -> None:
    inputs = conv_inputs(2, 3, 4, 9)
    del inputs["bias"]
    compare(lambda t, be: causal_conv1d(**t, backend=be), inputs, torch.float64, backend)


@pytest.mark.parametrize("backend", cpu_backends("oriented_scan"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TRIS, ids=lambda c: f"{c[0]}-n{c[1]}-l{c[2][1]}-e{c[2][2]}")
def test_oriented_scan(case: tuple, dtype: torch.dtype, backend: str) -> None:
    orders, n_slices, shape = case
    inputs = tri_inputs(*shape, orders=len(orders))
    compare(lambda t, be: oriented_scan(**t, orders=orders, n_slices=n_slices, backend=be), inputs, dtype, backend)


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_strided_inputs_give_the_same_result(backend: str) -> None:
    inputs = scan_inputs(2, 4, 3, 40, torch.float32)
    strided = {k: v.transpose(-1, -2).contiguous().transpose(-1, -2) if v.dim() > 1 else v for k, v in inputs.items()}
    a = selective_scan(**inputs, backend=backend)
    b = selective_scan(**strided, backend=backend)
    assert relative_error(b, a) <= VALUE_TOLERANCE[torch.float32]


@pytest.mark.parametrize("backend", cpu_backends("oriented_scan"))
@pytest.mark.parametrize("halves", ["xz", "zx"])
def test_halves_of_one_projection_need_no_copy(halves: str, backend: str) -> None:
    inputs = tri_inputs(2, 60, 8, 4, 1, 4, orders=3, dtype=torch.float32)
    inputs["x"], inputs["z"] = inputs[halves[0]], inputs[halves[1]]
    assert not inputs["x"].is_contiguous()
    copied = {k: v.contiguous() for k, v in inputs.items()}
    kept = {k: v.clone() for k, v in inputs.items()}
    inputs, copied = ({k: v.requires_grad_() for k, v in tensors.items()} for tensors in (inputs, copied))
    result = oriented_scan(**inputs, n_slices=6, backend=backend)
    again = oriented_scan(**copied, n_slices=6, backend=backend)
    assert relative_error(result, again) <= VALUE_TOLERANCE[torch.float32]
    wanted = gradients(again, copied)
    for name, grad in gradients(result, inputs).items():
        assert relative_error(grad, wanted[name]) <= GRADIENT_TOLERANCE[torch.float32], name
    assert all(torch.equal(inputs[k], kept[k]) for k in inputs), "inputs must not be changed"


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_empty_batch(backend: str) -> None:
    inputs = as_leaves(scan_inputs(0, 4, 3, 10, torch.float32))
    y = selective_scan(**inputs, backend=backend)
    assert y.shape == (0, 4, 10)
    assert gradients(y, inputs)["A"].abs().max() == 0
    tri = as_leaves(tri_inputs(0, 12, 4, 3, 1, 4, orders=3, dtype=torch.float32))
    assert oriented_scan(**tri, n_slices=3, backend=backend).shape == (0, 12, 4)


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_bad_value_stays_in_its_channel_and_after_its_step(poison: float, backend: str) -> None:
    inputs = scan_inputs(1, 6, 4, 300, torch.float32)
    clean = selective_scan(**inputs, delta_softplus=True, backend=backend)
    inputs["u"][0, 2, 150] = poison
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    others = [c for c in range(6) if c != 2]
    assert torch.equal(y[:, others], clean[:, others])
    assert torch.equal(y[0, 2, :150], clean[0, 2, :150])
    assert not y[0, 2, 150:].isfinite().any()


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_extreme_steps_stay_finite(backend: str) -> None:
    inputs = as_leaves(scan_inputs(1, 4, 16, 520, torch.float32))
    with torch.no_grad():
        inputs["delta"] *= 1e3  # up to a thousand: exp(dt * A) is 0 or 1, nothing in between
        inputs["A"] *= 1e4
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert y.isfinite().all()
    for name, grad in gradients(y, inputs).items():
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("backend", cpu_backends("oriented_scan"))
def test_runs_repeat_bit_for_bit(backend: str) -> None:
    inputs = as_leaves(tri_inputs(2, 520, 16, 8, 1, 4, orders=3, dtype=torch.float32))
    results = []
    for _ in range(2):
        y = oriented_scan(**inputs, n_slices=8, backend=backend)
        results.append([y, *gradients(y, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", cpu_backends("oriented_scan"))
def test_every_element_of_every_result_is_written(backend: str) -> None:
    for b, length, d in ((1, 1, 1), (2, 70, 5), (1, 515, 49)):
        scan = scan_inputs(b, d, 3, length)
        if backends.has("selective_scan", backend):
            compare(lambda t, be: selective_scan(**t, delta_softplus=True, backend=be), scan, torch.float32, backend)
        conv = conv_inputs(b, d, 4, length)
        if backends.has("causal_conv1d", backend):
            compare(lambda t, be: causal_conv1d(**t, activation="silu", backend=be), conv, torch.float32, backend)
        tri = tri_inputs(b, length, d, 3, 2, 4, orders=3)
        slices = 5 if length % 5 == 0 else 1
        compare(lambda t, be, n=slices: oriented_scan(**t, n_slices=n, backend=be), tri, torch.float32, backend)
