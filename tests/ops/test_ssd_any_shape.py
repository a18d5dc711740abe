"""Mamba-2's operators at shapes, orders and steps that nobody chose by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mamba.ops import oriented_ssd, ssd
from tests.ops.cases import compare, cpu_backends, oriented_ssd_inputs, ssd_inputs

# the reference walks token by token: few and short examples, the same every time
EXAM = settings(max_examples=15, deadline=None, derandomize=True)
small, states = st.integers(1, 3), st.sampled_from([1, 2, 5, 16])
widths, lengths = st.sampled_from([1, 3, 8, 32, 50]), st.integers(1, 140)


@pytest.mark.parametrize("backend", [name for name in cpu_backends("ssd") if name != "reference"])
@EXAM
@given(b=st.integers(1, 2), length=lengths, g=small, per_group=small, p=widths, n=states, step=st.floats(0.01, 8))
def test_ssd(backend: str, b: int, length: int, g: int, per_group: int, p: int, n: int, step: float) -> None:
    inputs = ssd_inputs(b, length, g * per_group, p, g, n)
    inputs["dt"] = step * (inputs["dt"].abs() + 0.1)
    inputs["dt_bias"] = inputs["dt_bias"].abs()
    compare(lambda t, be: ssd(**t, backend=be), inputs, torch.float64, backend)


@pytest.mark.parametrize("backend", [name for name in cpu_backends("oriented_ssd") if name != "reference"])
@EXAM
@given(
    orders=st.text("fbs", min_size=1, max_size=3), n_slices=st.integers(1, 6), per_slice=st.integers(1, 20), g=small,
    per_group=small, p=widths, n=states, w=st.integers(1, 5),
)  # fmt: skip
def test_oriented_ssd(
    backend: str, orders: str, n_slices: int, per_slice: int, g: int, per_group: int, p: int, n: int, w: int
) -> None:
    inputs = oriented_ssd_inputs(1, n_slices * per_slice, g * per_group, p, g, n, w, orders=len(orders))
    sizes = {"d_state": n, "n_groups": g, "orders": orders, "n_slices": n_slices}
    compare(lambda t, be: oriented_ssd(**t, **sizes, backend=be), inputs, torch.float64, backend)
