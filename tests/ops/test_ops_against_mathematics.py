"""The reference is judged by mathematics and by independent formulations, not by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nnunet_mamba.ops import causal_conv1d, oriented_scan, selective_scan
from nnunet_mamba.ops.oriented_scan.orders import permute, restore
from tests.ops.cases import cpu_backends, relative_error, scan_inputs, tri_inputs


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_without_decay_the_scan_is_a_running_sum(backend: str) -> None:
    inputs = scan_inputs(2, 3, 4, 600)
    u, delta, B, C = inputs["u"], inputs["delta"].abs(), inputs["B"], inputs["C"]
    running = torch.cumsum((delta * u)[:, :, None] * B[:, None], dim=-1)  # (b d n l)
    y = selective_scan(u, delta, torch.zeros(3, 4, dtype=u.dtype), B, C, backend=backend)
    assert relative_error(y, (running * C[:, None]).sum(2)) < 1e-12


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_constant_input_reaches_the_geometric_sum(backend: str) -> None:
    length, step, a = 500, 0.1, -0.7
    ones = torch.ones(1, 1, length, dtype=torch.float64)
    y = selective_scan(ones, step * ones, torch.full((1, 1), a, dtype=torch.float64), ones, ones, backend=backend)
    decay = torch.exp(torch.tensor(step * a, dtype=torch.float64))
    expected = step * (1 - decay ** torch.arange(1, length + 1)) / (1 - decay)
    assert relative_error(y[0, 0], expected) < 1e-12


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_scan_is_causal(backend: str) -> None:
    inputs = scan_inputs(1, 3, 4, 80)
    before = selective_scan(**inputs, backend=backend)
    inputs["u"][:, :, 50:] += 1
    after = selective_scan(**inputs, backend=backend)
    assert torch.equal(before[:, :, :50], after[:, :, :50])
    assert not torch.equal(before[:, :, 50:], after[:, :, 50:])


@pytest.mark.parametrize("backend", cpu_backends("causal_conv1d"))
def test_convolution_equals_torch(backend: str) -> None:
    x, weight, bias = torch.randn(2, 5, 30).double(), torch.randn(5, 4).double(), torch.randn(5).double()
    expected = F.silu(F.conv1d(F.pad(x, (3, 0)), weight[:, None], bias, groups=5))
    assert relative_error(causal_conv1d(x, weight, bias, "silu", backend=backend), expected) < 1e-12


@pytest.mark.parametrize("spatial", [(4, 3, 5), (2, 6, 10), (1, 4, 4), (6, 1, 2), (5, 7)], ids=str)
def test_interslice_order_is_a_transposition_of_axes(spatial: tuple[int, ...]) -> None:
    """Slice by slice per in-plane position: the first axis becomes the fastest. Written without index arithmetic."""
    volume = torch.randn(2, 3, *spatial)
    tokens = volume.flatten(2).transpose(1, 2)
    moved = volume.movedim(2, -1).flatten(2).transpose(1, 2)
    scanned = permute(tokens, "s", spatial[0])
    assert torch.equal(scanned, moved)
    assert torch.equal(restore(scanned, "s", spatial[0]), tokens)


def test_order_of_interslice_steps_is_the_documented_formula() -> None:
    length, n = 24, 4
    tokens = torch.arange(length).view(1, length, 1)
    expected = [(t % n) * (length // n) + t // n for t in range(length)]
    assert permute(tokens, "s", n).flatten().tolist() == expected


@pytest.mark.parametrize("backend", cpu_backends("oriented_scan"))
@pytest.mark.parametrize("orders", ["f", "b", "s", "fbs"])
def test_oriented_scan_is_made_of_the_single_ops(orders: str, backend: str) -> None:
    """By autograd-able torch code, gating each order by itself in its own order, as the released block does."""
    n_slices, n, r = 4, 3, 2
    t = tri_inputs(2, 24, 5, n, r, 4, orders=len(orders))
    total = torch.zeros(2, 24, 5, dtype=torch.float64)
    for k, order in enumerate(orders):
        x, z = (permute(t[name], order, n_slices).transpose(1, 2) for name in ("x", "z"))
        u = causal_conv1d(x, t["conv_weight"][k], t["conv_bias"][k], "silu", backend="reference")
        low, B, C = (t["x_proj_weight"][k] @ u).split([r, n, n], dim=1)
        y = selective_scan(
            u, t["dt_proj_weight"][k] @ low, t["A"][k], B, C, t["D"][k], z, t["dt_bias"][k], True, backend="reference"
        )
        total += restore(y.transpose(1, 2), order, n_slices)
    assert relative_error(oriented_scan(**t, orders=orders, n_slices=n_slices, backend=backend), total) < 1e-12


@pytest.mark.parametrize("backend", cpu_backends("oriented_scan"))
def test_swapping_forward_and_backward_weights_mirrors_the_result(backend: str) -> None:
    t = tri_inputs(1, 30, 4, 3, 1, 4, orders=2)
    mirrored = {k: v.flip(1) if k in "xz" else v.flip(0) for k, v in t.items()}
    y = oriented_scan(**t, orders="fb", backend=backend)
    assert relative_error(oriented_scan(**mirrored, orders="fb", backend=backend).flip(1), y) < 1e-12
