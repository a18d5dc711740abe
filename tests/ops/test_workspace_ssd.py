"""What the compiled CPU backend of `oriented_ssd` says it holds is what numpy allocates."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_mamba.ops import backends
from nnunet_mamba.ops.oriented_ssd import blocked
from nnunet_mamba.ops.oriented_ssd import numba as backend
from nnunet_mamba.ops.oriented_weights import SSDWeights
from nnunet_mamba.ops.workspace import of_call
from nnunet_mamba.planning.memory.allocations import Allocations
from tests.ops.cases import oriented_ssd_inputs

# what a task works on, vectors per channel and the partial sums of the convolution are left out: constants
TOLERANCE = 0.03
SIZES = [  # b, l, h, p, g, n, orders
    (1, 8192, 3, 32, 1, 16, "fbs"),
    (2, 12000, 4, 16, 2, 64, "fb"),
    (1, 20000, 2, 80, 1, 32, "f"),
    (1, 16000, 48, 1, 1, 16, "f"),
]


def _numpy_peak(call: Callable[[], Any]) -> tuple[Any, int]:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = call()
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _said(suffix: str, *arguments: Any) -> int:
    workspace = of_call(f"nnunet_mamba::oriented_ssd{suffix}", arguments, "cpu")
    assert workspace is not None
    return workspace.bytes(workspace.batch, workspace.length)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_numba(size: tuple) -> None:
    b, length, h, p, g, n, orders = size
    inputs = oriented_ssd_inputs(b, length, h, p, g, n, 4, orders=len(orders), dtype=torch.float32)
    xBC, dt, *weights = inputs.values()
    call = (xBC, dt, SSDWeights(*weights), n, g, orders, 10)
    y, states = backend.forward(*call)  # compile
    backend.backward(y, *call, states)
    (y, states), peak = _numpy_peak(lambda: backend.forward(*call))
    results = y.nbytes + states.nbytes
    arguments = (xBC, dt, *weights, n, g, orders, 10)
    assert _said("", *arguments) == pytest.approx(peak - results, rel=TOLERANCE)
    grads, peak = _numpy_peak(lambda: backend.backward(y, *call, states))
    results = grads[0].nbytes + grads[1].nbytes
    assert _said("_backward", y, *arguments, states) == pytest.approx(peak - results, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "size", [(1, 4096, 3, 32, 1, 16, "fbs"), (2, 3000, 4, 16, 2, 64, "fb"), (2, 2405, 8, 80, 1, 32, "f")], ids=str
)
def test_blocked(size: tuple, dtype: torch.dtype) -> None:
    """On tensors without memory; what is preferred where no kernels are compiled."""

    b, length, h, p, g, n, orders = size
    k = h * p + 2 * g * n
    with FakeTensorMode(), Allocations("cuda") as allocations:
        projected = torch.empty(b, length, h * p + k + h, dtype=dtype)
        xBC, dt = projected[..., h * p : -h], projected[..., -h:]
        weights = SSDWeights(*(torch.empty(len(orders), *s) for s in ((k, 4), (k,), (h,), (h,), (h,))))
        allocations.count([projected, *weights])
        call = (xBC, dt, weights, n, g, orders, 1)
        sizes = (b, length, h, p, n, g, len(orders), dtype)
        allocations.restart()
        y, states = blocked.forward(*call)
        held = max(allocations.totals) - allocations.totals[0] - y.nbytes - states.nbytes
        block = 4 * b * (256 * (8 * k + 64 * h) + 8 * h * p * n)  # what 256 steps and a few states take, at most
        assert held - block <= blocked.workspace("forward", *sizes) <= 1.25 * held
        grad = torch.empty_like(y)
        allocations.restart()
        grads = blocked.backward(grad, *call, states)
        held = max(allocations.totals) - allocations.totals[0] - sum(x.nbytes for x in grads)
        said = blocked.workspace("backward", *sizes)
        assert held - 2 * block <= said <= 1.02 * held


def test_a_call_is_scaled_to_other_sizes() -> None:
    xBC, dt, *weights = oriented_ssd_inputs(1, 8, 2, 4, 1, 2, 4, orders=1).values()
    call = of_call("nnunet_mamba::oriented_ssd", (xBC, dt, *weights, 2, 1, "f", 1, "auto"), "cpu")
    assert call is not None
    assert (call.batch, call.length) == (1, 8)
    assert call.bytes(2, 80) > call.bytes(1, 8) > 0


def test_a_backend_that_does_not_say_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.PREFERENCE, "cpu", ("reference",))
    tensors: list[Tensor] = list(oriented_ssd_inputs(1, 8, 2, 4, 1, 2, 4, orders=1).values())
    with pytest.raises(ValueError, match=r"oriented_ssd's backend 'reference' does not say .* write workspace\(\)"):
        of_call("nnunet_mamba::oriented_ssd", (*tensors, 2, 1, "f", 1, "auto"), "cpu")
