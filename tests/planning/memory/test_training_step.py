"""A step's memory: by hand for a small network, by a second trace for every network, by the machine for a real step."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnunet_mamba.benchmarks import memory as benchmark
from nnunet_mamba.names import networks
from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.planning.estimate import architecture_memory, nnunet_loss
from nnunet_mamba.planning.memory.training_step import CPU, CUDA, Device, Moment, StepMemory, step_memory, trace_step
from tests.stock_plans import stock_architecture

EXACT = 5e-3  # of the peak: tensors per sample and chunks of a scan do not grow exactly with the voxels
AUTOCAST = {"float32": CPU, "float16": CUDA, "bfloat16": Device("cuda", torch.bfloat16)}


class OneConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 8, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_one_convolution_by_hand() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.mean()

    batch, edge, weights = 4, 16, 8 * 27
    voxels = batch * edge**3
    allocations = trace_step(OneConvolution, loss, 1, (edge,) * 3, batch, CPU)  # type: ignore[arg-type]
    # weights, momentum, image; output and its gradient; labels; gradient of the weights
    backward = 4 * (2 * weights + voxels + 16 * voxels) + 2 * voxels + 4 * weights
    assert allocations.peak == pytest.approx(backward, rel=0.001)


def _builder(record: networks.Network, mixer: str, dim: int, patch: tuple[int, ...]) -> Callable[[], nn.Module]:
    planned = architecture_for(record if mixer == "mamba" else record.twin, stock_architecture(dim), patch)
    kwargs = {**planned["arch_kwargs"], "conv_op": nn.Conv3d if dim == 3 else nn.Conv2d}
    return lambda: record.load_architecture()(2, 3, deep_supervision=True, **kwargs)


# float16 is what is planned with; of the others two networks, one of them with float32 regions
PRECISIONS = [(record, name) for record in networks.NETWORKS for name in sorted(AUTOCAST)
              if name == "float16" or record.name in ("SegMamba", "LightMUNet")]  # fmt: skip


@pytest.mark.parametrize("mixer", ["mamba", "none"])
@pytest.mark.parametrize(("record", "precision"), PRECISIONS, ids=lambda p: getattr(p, "name", p))
def test_scaled_peak_is_that_of_a_trace(record: networks.Network, mixer: str, precision: str) -> None:
    for dim, patch, other in ((3, (32, 48, 32), (64, 32, 96)), (2, (96, 64), (128, 256))):
        device = AUTOCAST[precision]
        build = _builder(record, mixer, dim, patch)
        model = step_memory(build, nnunet_loss(2), 2, patch, device)
        for size, batch in ((patch, 1), (patch, 7), (other, 2)):
            if record.patch_sized and size != patch:
                continue
            traced = trace_step(build, nnunet_loss(2), 2, size, batch, device).peak
            # a batch of one spares a copy here and there
            assert model.peak(batch, size) == pytest.approx(traced, rel=EXACT if batch > 1 else 0.03)


def test_half_precision_takes_less_and_more_mamba_more() -> None:
    record = networks.network("SegMamba")
    patch = (32, 32, 32)
    peaks = {
        (mixer, name): step_memory(_builder(record, mixer, 3, patch), nnunet_loss(2), 2, patch, device).peak(2, patch)
        for mixer in ("mamba", "none")
        for name, device in AUTOCAST.items()
    }
    for mixer in ("mamba", "none"):
        assert peaks[mixer, "float16"] < peaks[mixer, "float32"]
    for name in AUTOCAST:
        assert peaks["none", name] < peaks["mamba", name]


def test_a_real_step_on_this_machine() -> None:
    case = benchmark.given_case("SegMamba", (32, 32, 32), 6, 1, 3, CPU)
    row = next(benchmark.run([case], "cpu", lambda text: None))
    if "does not tell" in row.note:
        pytest.skip(row.note)
    assert row.ratio == pytest.approx(1, abs=0.15), row


def test_measuring_too_much_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    case = benchmark.given_case("SegMambaNoMamba", (32, 32, 32), 10**7, 1, 3, CPU)
    assert case.estimated > 1e14
    row = next(benchmark.run([case], "cpu", lambda text: None))
    assert row.measured is None
    assert row.note.startswith("failed: ")


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e4)), min_size=1, max_size=5),
    st.integers(1, 10**6),
    st.floats(0, 1e11),
)
@settings(max_examples=200)
def test_largest_batch_is_the_largest_that_fits(lines: list[tuple[float, float]], voxels: int, budget: float) -> None:
    memory = StepMemory((Moment(0.0, 1e-3), *(Moment(*line) for line in lines)), voxels, 1)
    patch = (voxels,)
    batch = memory.largest_batch(patch, budget)
    assert batch == 0 or memory.peak(batch, patch) <= budget
    assert memory.peak(batch + 1, patch) > budget


def test_the_garbage_collector_changes_nothing() -> None:
    architecture = architecture_for(networks.network("SegMamba"), stock_architecture(3))
    threshold = gc.get_threshold()
    peaks = []
    for often in (threshold, (1, 1, 1)):  # as usual, and at every allocation
        gc.set_threshold(*often)
        try:
            peaks.append(architecture_memory(architecture, 1, 3, (32, 32, 32)).peak(5, (64, 32, 32)))
        finally:
            gc.set_threshold(*threshold)
    assert peaks[0] == peaks[1]
    assert gc.isenabled()


def test_estimates_do_not_depend_on_threads_and_leave_no_trace() -> None:
    before = torch.get_num_threads(), torch.is_autocast_enabled("cpu"), torch.get_rng_state().clone()
    architecture = architecture_for(networks.network("SegMamba"), stock_architecture(3))
    memory = architecture_memory(architecture, 1, 3, (32, 32, 32))
    assert (torch.get_num_threads(), torch.is_autocast_enabled("cpu")) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert math.isfinite(memory.peak(2, (32, 32, 32)))
    again = architecture_memory(architecture, 1, 3, (32, 32, 32))
    assert memory.peak(5, (64, 32, 32)) == again.peak(5, (64, 32, 32))
