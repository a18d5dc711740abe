"""What backends say they hold is what their code allocates: run on tensors without memory, kernels left out."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_mamba.ops import backends
from nnunet_mamba.ops.kernels import triton_sizes as sizes
from nnunet_mamba.ops.oriented_weights import SSDWeights, Weights
from nnunet_mamba.ops.workspace import of_call
from nnunet_mamba.planning.memory.allocations import Allocations

TOLERANCE = 0.02  # small vectors per channel are left out
SIZES = [(2, 4096, 96, 3, 16), (1, 64**3, 96, 3, 16), (3, 2000, 40, 1, 16), (16, 64**3, 64, 3, 16), (2, 300, 32, 2, 9)]


MODULES_OF_KERNELS = ("forward", "backward", "conv_kernels", "projection_kernels", "ssd_forward", "ssd_backward")
SSDS = [  # b, l, h, p, g, n, orders: samples together, chunks shorter, orders one by one, parts of a group's heads
    (2, 4096, 3, 32, 1, 16, "fbs"),
    (1, 64**3, 6, 32, 1, 16, "fbs"),
    (2, 3000, 4, 16, 2, 64, "fb"),
    (3, 200, 12, 32, 1, 32, "f"),
    (16, 64**3, 2, 32, 1, 16, "fbs"),
    (16, 50, 2, 80, 1, 128, "f"),
]


class NoKernel:
    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: None


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this system")
    for module in MODULES_OF_KERNELS:
        kernels = import_module(f"nnunet_mamba.ops.kernels.triton_{module}")
        for name in dir(kernels):
            if name.endswith("_kernel"):
                monkeypatch.setattr(kernels, name, NoKernel())


def _arguments(batch: int, length: int, channels: int, orders: int, states: int, dtype: torch.dtype) -> list[Any]:
    rank = -(-channels // 32)
    x, z = torch.empty(batch, length, 2 * channels, dtype=dtype).chunk(2, -1)
    shapes = ((channels, 4), (channels,), (rank + 2 * states, channels), (channels, rank), (channels,),
              (channels, states), (channels,))  # fmt: skip
    return [x, z, *(torch.empty(orders, *shape) for shape in shapes), "fbs"[:orders], 1]


def _held(allocations: Allocations, results: Any) -> int:
    """Beside what was there at the start and the results"""
    return max(allocations.totals) - allocations.totals[0] - sum(r.nbytes for r in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_triton(size: tuple[int, ...], dtype: torch.dtype, without_kernels: None) -> None:
    from nnunet_mamba.ops.oriented_scan import triton as backend

    with FakeTensorMode(), Allocations("cuda") as allocations:
        arguments = _arguments(*size, dtype)
        allocations.count(arguments)
        allocations.restart()
        x, z, *weights, orders, n_slices = arguments
        packed = (x, z, Weights(*weights), orders, n_slices)
        y, states = backend.forward(*packed)
        forward = _held(allocations, (y, states))
        grad_y = torch.empty_like(y)
        allocations.restart()
        grads = backend.backward(grad_y, *packed, states)
        backward = _held(allocations, grads)
        said = [of_call(f"nnunet_mamba::tri_scan{s}", tuple(a), "cuda") for s, a in
                (("", arguments), ("_backward", [grad_y, *arguments, states]))]  # fmt: skip
    for name, workspace, held in zip(("forward", "backward"), said, (forward, backward), strict=True):
        assert workspace is not None
        assert workspace.bytes(workspace.batch, workspace.length) == pytest.approx(held, rel=TOLERANCE), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SSDS, ids=str)
def test_triton_of_mamba2(size: tuple, dtype: torch.dtype, without_kernels: None) -> None:
    from nnunet_mamba.ops.oriented_ssd import triton as backend

    b, length, h, p, g, n, orders = size
    k = h * p + 2 * g * n
    with FakeTensorMode(), Allocations("cuda") as allocations:
        projected = torch.empty(b, length, h * p + k + h, dtype=dtype)
        xBC, dt = projected[..., h * p : -h], projected[..., -h:]
        weights = SSDWeights(*(torch.empty(len(orders), *s) for s in ((k, 4), (k,), (h,), (h,), (h,))))
        allocations.count([projected, *weights])
        call = (xBC, dt, weights, n, g, orders, 1)
        allocations.restart()
        y, states = backend.forward(*call)
        forward = _held(allocations, (y, states))
        grad_y = torch.empty_like(y)
        allocations.restart()
        backward = _held(allocations, backend.backward(grad_y, *call, states))
    for part, held in (("forward", forward), ("backward", backward)):
        assert backend.workspace(part, b, length, h, p, n, g, len(orders), dtype) == pytest.approx(
            held, rel=TOLERANCE
        ), part


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("chunk", [8, 64, 128, 256])
def test_every_chunk_gets_a_start_from_those_kept(chunk: int) -> None:
    """Of 1030 steps, whatever the chunk, the states before steps 0, 256, ..., 1024 are kept, without the padding."""
    from nnunet_mamba.ops.kernels.triton_scan import Orders, Scan

    u, A, n = torch.zeros(1, 1030, 3), torch.zeros(1, 8, 3), 5
    scan = Scan(
        u=u, dt=u, bc=torch.zeros(1, 1030, 16), A=A, D=None, z=None, n=n, softplus=True, orders=Orders("f", 1),
        chunk=chunk,
    )  # fmt: skip
    starts = torch.randn(1, scan.n_chunks, *A.shape[1:])
    starts[:, :, n:] = 0
    kept = scan.saved(starts)
    assert torch.equal(kept, torch.stack([starts[:, step // chunk, :n] for step in range(0, 1030, 256)], 1))
    restored = scan.restored(kept)
    assert restored.shape == starts.shape
    assert chunk != 256 or torch.equal(restored, starts), "kept, not computed again"


def test_a_backend_that_does_not_say_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = ModuleType("nnunet_mamba.ops.oriented_scan.silent")
    monkeypatch.setitem(sys.modules, silent.__name__, silent)
    monkeypatch.setitem(backends.PREFERENCE, "cpu", ("silent", "numba"))
    with FakeTensorMode(), pytest.raises(ValueError, match=r"'silent' does not say .* on cpu .* write workspace\(\)"):
        of_call("nnunet_mamba::tri_scan", tuple(_arguments(1, 8, 4, 1, 2, torch.float32)), "cpu")


def test_backends_that_tri_scan_lacks_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.PREFERENCE, "cpu", ("nowhere", "numba"))
    with FakeTensorMode():
        call = of_call("nnunet_mamba::tri_scan", tuple(_arguments(1, 8, 4, 1, 2, torch.float32)), "cpu")
    assert call is not None
    assert (call.batch, call.length) == (1, 8)
    assert call.bytes(2, 80) > call.bytes(1, 8) > 0


def test_other_operators_have_none() -> None:
    assert of_call("aten::add", (torch.zeros(1),), "cuda") is None


def test_sizes_are_those_that_the_kernels_use() -> None:
    triton = pytest.importorskip("triton", reason="Triton has no build for this system")
    for n in range(1, 70):
        for dtype, most in ((torch.float32, 16), (torch.float64, 4)):
            assert sizes.state_block(n, dtype) == min(triton.next_power_of_2(n), most)
            assert sizes.padded_states(n, dtype) % sizes.state_block(n, dtype) == 0
