"""What a device adds to right numbers: repeatability, unwritten memory, streams, threads, capture, compilation."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.ops import oriented_scan
from tests.gpu.conftest import DRY
from tests.gpu.mixer import STAGE_2, STATES, mamba2_inputs, mixer_inputs, run, same

EDGE = STAGE_2[2]


@pytest.fixture(params=[mixer_inputs, mamba2_inputs], ids=["mamba", "mamba2"])
def inputs(device: torch.device, request: pytest.FixtureRequest) -> list[Tensor]:
    return request.param(*STAGE_2, torch.float32 if DRY else torch.bfloat16, device)


def _copies(inputs: list[Tensor]) -> list[Tensor]:
    """Copies are contiguous: kernels may load them, and so add them up, in another way than parts of a projection."""
    return [t.detach().clone().requires_grad_() for t in inputs]


def test_results_repeat_bit_for_bit(inputs: list[Tensor], device: torch.device) -> None:
    first = run(inputs, EDGE)
    for size in range(1, 2 if DRY else 11):
        elsewhere = torch.randn(size * 2**16, device=device)  # other memory each time
        assert same(first, run(inputs, EDGE)), size
        del elsewhere


def test_every_element_of_the_results_is_written(inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN meanwhile."""
    first = run(inputs, EDGE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    try:
        assert same(first, run(inputs, EDGE))
    finally:
        torch.use_deterministic_algorithms(False)


def test_another_thread_computes_the_same(inputs: list[Tensor]) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(run(inputs, EDGE)))
    thread.start()
    thread.join()
    assert same(run(inputs, EDGE), results[0])


def test_the_operator_keeps_torchs_rules(device: torch.device) -> None:
    small = mixer_inputs(1, 8, 4, torch.float32, device)
    torch.library.opcheck(torch.ops.nnunet_mamba.tri_scan.default, (*small, "fbs", 4, "triton"))
    small = mamba2_inputs(1, 8, 4, torch.float32, device)
    torch.library.opcheck(torch.ops.nnunet_mamba.oriented_ssd.default, (*small, STATES, 1, "fbs", 4, "triton"))


@pytest.mark.card
def test_work_goes_to_the_current_stream(inputs: list[Tensor]) -> None:
    first = run(_copies(inputs), EDGE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # a launch on another stream would run before this
        results = run(_copies(inputs), EDGE)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    assert same(first, results)


@pytest.mark.card
def test_nothing_waits_for_the_device(inputs: list[Tensor]) -> None:
    run(inputs, EDGE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(inputs, EDGE)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.card
def test_a_second_device(inputs: list[Tensor], second_device: torch.device) -> None:
    """While the first one is the current one"""
    moved = [t.detach().to(second_device).requires_grad_() for t in inputs]
    assert same([t.cpu() for t in run(inputs, EDGE)], [t.cpu() for t in run(moved, EDGE)])


@pytest.mark.card
def test_a_cuda_graph_replays_forward_and_backward(inputs: list[Tensor]) -> None:
    """After a warm-up on a side stream, as torch asks for; the graph reads new inputs."""
    first = run(_copies(inputs), EDGE)
    static = _copies(inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(static, EDGE)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(static, EDGE)
    with torch.no_grad():
        static[0].mul_(2)
    graph.replay()
    torch.cuda.synchronize()
    assert not torch.equal(results[0], first[0])
    with torch.no_grad():
        static[0].copy_(inputs[0])
    graph.replay()
    torch.cuda.synchronize()
    assert same(first, results)


@pytest.mark.card
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None], ids=str)
@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_a_compiled_layer_is_the_layer(mixer: str, dtype: torch.dtype | None, device: torch.device) -> None:
    """By inductor, one graph. It fuses casts and norms: half types round at other places, 2^-7 in bfloat16."""
    layer = Mixer(mixer).layer(48).to(device)
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(2, 48, 16, 16, 16, device=device, requires_grad=True)
    results = []
    for module in (layer, compiled):
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            y = module(x.to(dtype) if dtype else x)
        results.append((y, torch.autograd.grad(y.float().square().sum(), x)[0]))
    for a, b in zip(*results, strict=True):
        allowed = {torch.bfloat16: 2e-2, torch.float16: 4e-3, None: 2e-5}[dtype]
        assert float((a - b).abs().max() / a.abs().max()) <= allowed


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_channels_last_gives_the_same(mixer: str, device: torch.device) -> None:
    """float32: only the order of sums in matrix products may differ."""
    channels, edge = (48, 16) if not DRY else (2, 2)
    layer = Mixer(mixer).layer(channels).to(device).requires_grad_(False)
    x = torch.randn(2, channels, edge, edge, edge, device=device)
    a, b = layer(x), layer(x.to(memory_format=torch.channels_last_3d))
    assert float((a - b).abs().max() / a.abs().max()) <= 1e-5


@pytest.mark.card
def test_a_map_of_odd_size_under_autocast(device: torch.device) -> None:
    """float16, as nnU-Net trains: finite results and gradients"""
    inputs = mixer_inputs(1, 49, 7, torch.float16, device)
    y = oriented_scan(*inputs, orders="fbs", n_slices=7, backend="triton")
    grads = torch.autograd.grad(y.float().sum(), inputs)
    assert all(bool(torch.isfinite(t).all()) for t in (y, *grads))
