"""Every operator on the device: values and every gradient, in four dtypes, against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from nnunet_mamba.ops import causal_conv1d, oriented_scan, oriented_ssd, selective_scan, ssd
from tests.gpu.conftest import DRY
from tests.gpu.mixer import mixer_inputs
from tests.ops import test_backends_agree as small
from tests.ops import test_ssd as small_ssd
from tests.ops.cases import (
    GRADIENT_TOLERANCE,
    VALUE_TOLERANCE,
    compare,
    conv_inputs,
    oriented_ssd_inputs,
    relative_error,
    scan_inputs,
    ssd_inputs,
    tri_inputs,
)

# beside the sizes of the CPU's tests: whole blocks, several blocks, groups of four and what is left over
SCANS = [*small.SCANS, (1, 32, 16, 300), (2, 96, 16, 520), (1, 33, 17, 300), (1, 8, 64, 70)]
CONVS = [*small.CONVS, (2, 96, 4, 257), (1, 64, 2, 1030)]
TRIS = [
    *small.TRIS,
    ("fbs", 8, (2, 512, 96, 16, 3, 4)),
    ("fbs", 8, (1, 520, 192, 16, 6, 4)),
    ("fbs", 5, (1, 515, 49, 16, 2, 4)),
    ("fbs", 4, (1, 300, 40, 20, 2, 4)),
]
SSDS = [*small_ssd.SCANS, (2, 520, 12, 64, 2, 64), (1, 1000, 3, 32, 1, 16), (1, 300, 2, 128, 1, 128)]
ORIENTED_SSDS = [
    *small_ssd.ORIENTED,
    ("fbs", 8, (2, 512, 3, 32, 1, 16, 4)),
    ("fbs", 5, (1, 515, 6, 32, 2, 20, 4)),
]
DTYPES = small.DTYPES if not DRY else [torch.float32]
VALUES = VALUE_TOLERANCE | {torch.bfloat16: 3e-2}
"""On a GPU the projections to B, C and the time step are bfloat16 as well, as in mamba-ssm under autocast"""
LONG = [(2, 192, 32), (1, 96, 64)] if not DRY else [(1, 4, 2)]
if DRY:
    SCANS, CONVS, TRIS, SSDS, ORIENTED_SSDS = SCANS[:1], CONVS[:1], TRIS[:1], SSDS[:1], ORIENTED_SSDS[:1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SCANS, ids=lambda s: "b{}-d{}-n{}-l{}".format(*s))
def test_selective_scan(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    def run(tensors, backend):
        return selective_scan(**tensors, delta_softplus=True, backend=backend)

    compare(run, scan_inputs(*shape), dtype, "triton", device, VALUES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", CONVS, ids=lambda s: "b{}-d{}-w{}-l{}".format(*s))
def test_causal_conv1d(
    shape: tuple[int, ...], activation: str | None, dtype: torch.dtype, device: torch.device
) -> None:
    def run(tensors, backend):
        return causal_conv1d(**tensors, activation=activation, backend=backend)

    compare(run, conv_inputs(*shape), dtype, "triton", device, VALUES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TRIS, ids=lambda c: f"{c[0]}-n{c[1]}-l{c[2][1]}-e{c[2][2]}")
def test_oriented_scan(case: tuple, dtype: torch.dtype, device: torch.device) -> None:
    orders, n_slices, shape = case

    def run(tensors, backend):
        return oriented_scan(**tensors, orders=orders, n_slices=n_slices, backend=backend)

    compare(run, tri_inputs(*shape, orders=len(orders)), dtype, "triton", device, VALUES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SSDS, ids=lambda s: "b{}-l{}-h{}-p{}-g{}-n{}".format(*s))
def test_ssd(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    def run(tensors, backend):
        return ssd(**tensors, dt_softplus=True, backend=backend)

    compare(run, ssd_inputs(*shape), dtype, "triton", device, VALUES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ORIENTED_SSDS, ids=lambda c: f"{c[0]}-n{c[1]}-l{c[2][1]}-h{c[2][2]}-p{c[2][3]}")
def test_oriented_ssd(case: tuple, dtype: torch.dtype, device: torch.device) -> None:
    orders, n_slices, (*shape, g, n, w) = case
    sizes = {"d_state": n, "n_groups": g, "orders": orders, "n_slices": n_slices}

    def run(tensors, backend):
        return oriented_ssd(**tensors, **sizes, backend=backend)

    compare(run, oriented_ssd_inputs(*shape, g, n, w, orders=len(orders)), dtype, "triton", device, VALUES)


@pytest.mark.parametrize("step", [0.03, 0.3, 4.0])
def test_steep_decays_of_ssd(step: float, device: torch.device) -> None:
    """Exponents of a row add up to thousands, whose differences must not lose the digits of small ones."""
    inputs = ssd_inputs(1, 300, 2, 16, 1, 16)
    inputs["A"] = torch.full_like(inputs["A"], -16.0)
    inputs["dt"] = inputs["dt"].abs() * step
    del inputs["dt_bias"]
    compare(lambda t, backend: ssd(**t, backend=backend), inputs, torch.float32, "triton", device, VALUES)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float64], ids=str)
@pytest.mark.parametrize("size", [(2, 6, 32, 16, 32), (1, 3, 32, 16, 64)] if not DRY else [(1, 1, 4, 4, 2)], ids=str)
def test_the_chunks_that_networks_with_mamba2_use(
    size: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    """As the next one. b, heads, channels of a head, states, edge of the map"""
    b, h, p, n, edge = size
    inputs = oriented_ssd_inputs(b, edge**3, h, p, 1, n, 4, orders=3, dtype=torch.float32)
    inputs["dt_bias"] = inputs["dt_bias"] - 4
    names = ("xBC", "dt")
    results = []
    for backend in ("triton", "blocked"):
        tensors = {k: t.to(device, dtype if k in names else torch.float32) for k, t in inputs.items()}
        tensors = {k: (t if backend == "triton" else t.double()).detach().requires_grad_() for k, t in tensors.items()}
        y = oriented_ssd(**tensors, d_state=n, n_groups=1, orders="fbs", n_slices=edge, backend=backend)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(device, y.dtype)
        results.append([y, *torch.autograd.grad(y, list(tensors.values()), grad)])
    for index, (got, expected) in enumerate(zip(*results, strict=True)):
        allowed = 2 * GRADIENT_TOLERANCE[dtype] if index else VALUES[dtype]
        assert relative_error(got, expected) <= allowed, index


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float64], ids=str)
@pytest.mark.parametrize("size", LONG, ids=lambda s: "b{}-e{}-{}^3".format(*s))
def test_the_chunks_that_networks_use(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
    """Chunks of 256 steps need thousands of programs. Judge: the `blocked` backend in float64 on the same device.

    Gradients of weights are sums over 10^5 tokens: twice the tolerance of the short cases.
    """
    edge = size[2]
    inputs = mixer_inputs(*size, dtype, device)
    judge = [t.detach().double().requires_grad_() for t in inputs]
    results = []
    for tensors, backend in ((inputs, "triton"), (judge, "blocked")):
        y = oriented_scan(*tensors, orders="fbs", n_slices=edge, backend=backend)
        generator = torch.Generator().manual_seed(1)
        grad = torch.randn(y.shape, generator=generator).to(dtype).to(device, y.dtype)
        results.append([y, *torch.autograd.grad(y, tensors, grad)])
    for index, (got, expected) in enumerate(zip(*results, strict=True)):
        allowed = 2 * GRADIENT_TOLERANCE[dtype] if index else VALUES[dtype]
        assert relative_error(got, expected) <= allowed, index
