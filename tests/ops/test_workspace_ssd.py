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

from nnunet_mamba.memory.allocations import Allocations
from nnunet_mamba.ops import backends
from nnunet_mamba.ops.oriented_ssd import blocked
from nnunet_mamba.ops.oriented_ssd import numba as backend
from nnunet_mamba.ops.oriented_weights import SSDWeights
from nnunet_mamba.ops.workspace import of_call
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
@pytest.mark.parametrize("size", [(1, 3072, 3, 32, 1, 16, "fbs"), (2, 3072, 2, 80, 1, 32, "f")], ids=str)
def test_pure_torch_holds_no_more(size: tuple, dtype: torch.dtype) -> None:
    """Counted on tensors without memory; a GPU takes it where it has no kernels of ours"""
    b, length, h, p, g, n, orders = size
    sizes = (b, length, h, p, n, g, len(orders), dtype)
    with FakeTensorMode():
        xBC, dt, *weights = oriented_ssd_inputs(b, length, h, p, g, n, 4, orders=len(orders), dtype=dtype).values()
        call = (xBC, dt, SSDWeights(*weights), n, g, orders, 12)
        with Allocations("cpu") as forward:
            y, states = blocked.forward(*call)
            held = forward.peak - y.nbytes - states.nbytes
        with Allocations("cpu") as backward:
            grads = blocked.backward(y, *call, states)
            held_backward = backward.peak - sum(t.nbytes for t in grads)
    for part, counted in (("forward", held), ("backward", held_backward)):
        said = blocked.workspace(part, *sizes)
        assert counted <= said < 1.6 * counted, part


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
