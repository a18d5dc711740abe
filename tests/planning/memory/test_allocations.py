"""The bytes of living tensors, counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_mamba.planning.memory.allocations import Allocations
from nnunet_mamba.planning.memory.cuda_autocast import cuda_autocast


def _totals(code: Callable[[], object], granularity: int = 1) -> list[int]:
    with FakeTensorMode(), Allocations("cpu", granularity) as allocations:
        code()
    return allocations.totals


def test_every_tensor_counts_from_its_making_to_its_release() -> None:
    def code() -> None:
        a = torch.empty(1000, dtype=torch.float32)
        b = a + 1
        del a
        b.mul_(2)  # in place: nothing new
        c = b.view(10, 100)[:, :5]  # the same memory
        del b
        d = c.to(torch.float64)
        del c, d

    assert _totals(code) == [4000, 8000, 4000, 4400, 400, 0]


def test_memory_comes_in_whole_blocks() -> None:
    assert max(_totals(lambda: torch.empty(1), 512)) == 512
    assert max(_totals(lambda: torch.empty(513, dtype=torch.uint8), 512)) == 1024


def test_what_autograd_keeps_stays_until_its_backward_pass() -> None:
    def code() -> None:
        w = torch.zeros(100, requires_grad=True)  # 400
        x = torch.zeros(100)  # 800
        y = w * x  # 1200; keeps x
        del x
        y = y.sum()  # 1204; the product is not kept
        y.backward()

    totals = _totals(code)
    assert totals[:4] == [400, 800, 1200, 1204]
    assert totals[4] == 804, "the product goes, x stays for the gradient"
    assert max(totals) < 1700
    assert totals[-1] == 0


def test_what_is_released_afterwards_is_no_part_of_it() -> None:
    with FakeTensorMode():
        with Allocations("cpu") as allocations:
            kept = torch.empty(10)
        del kept
    assert allocations.totals == [40]


def test_tensors_made_before_are_counted_on_request() -> None:
    with FakeTensorMode():
        before = torch.empty(10)
        with Allocations("cpu") as allocations:
            allocations.count([before, {"view": before[:3]}])
            allocations.restart()
            assert allocations.totals == [40]
            del before
    assert allocations.peak == 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision_is_that_of_cuda(dtype: torch.dtype) -> None:
    # expectations from PyTorch's documentation, "CUDA Ops that can autocast to float16 / to float32"
    conv, norm = torch.nn.Conv3d(2, 4, 1), torch.nn.GroupNorm(2, 4)
    x = torch.randn(1, 2, 4, 4, 4)
    with cuda_autocast(dtype):
        y = conv(x)
        assert y.dtype == dtype
        assert norm(y).dtype == torch.float32
        assert F.layer_norm(y, (4,)).dtype == torch.float32
        assert F.instance_norm(y).dtype == dtype
        assert F.leaky_relu(y).dtype == dtype
        assert F.interpolate(y, scale_factor=2).dtype == torch.float32
        assert y.softmax(1).dtype == torch.float32
        assert torch.exp(y).dtype == torch.float32
        assert y.sum().dtype == torch.float32
        assert F.cross_entropy(y, torch.zeros(1, 4, 4, 4, dtype=torch.long)).dtype == torch.float32
        assert torch.cat([y, y.float()]).dtype == torch.float32
        assert (y @ y).dtype == dtype
        with torch.autocast("cpu", enabled=False):
            assert torch.exp(y).dtype == dtype, "switched off inside"
            assert conv(x).dtype == torch.float32
    assert conv(x).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_only_a_cpu_casts_up_stays(dtype: torch.dtype) -> None:
    """An H200 took 0.7 GB less than was estimated for the Mamba encoder at 128^3, whose encoder pools."""
    with FakeTensorMode(), cuda_autocast(dtype):
        y = torch.empty(1, 2, 4, 4, 4, dtype=dtype)
        for pooled in (F.avg_pool3d(y, 2), torch.nn.AdaptiveAvgPool3d(1)(y), F.pad(y, (1,) * 6, "replicate")):
            assert pooled.dtype == dtype
        assert F.avg_pool3d(y.float(), 2).dtype == torch.float32
        assert torch.exp(y).dtype == torch.float32


def test_without_autocast_nothing_is_cast() -> None:
    with cuda_autocast(None):
        assert torch.exp(torch.zeros(1, dtype=torch.float16)).dtype == torch.float16
