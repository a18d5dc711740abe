"""Predicting in fp16 what overflows there: once more in float32, compiled or not; see architectures/overflow.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_mamba.names import networks
from tests.architectures.test_contract import _plan, build

# LightM-UNet computes in float32 whatever autocast says
HALF = [record for record in networks.NETWORKS if record.name != "LightMUNet"]
NOT_NORMALISED = 3e4


def _predicted(network: Any, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        return network(x)


class Graphs:
    """A backend of torch.compile that counts what it is given."""

    def __init__(self) -> None:
        self.convolutions: list[int] = []

    def __call__(self, graph: Any, example_inputs: Any) -> Any:
        self.convolutions.append(sum("conv" in str(node.target) for node in graph.graph.nodes))
        return graph.forward


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("record", HALF, ids=lambda r: r.name)
def test_overflow_falls_back_eager_and_compiled(record: networks.Network, deep_supervision: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build(record, "mamba", _plan(3, edge=16), deep_supervision=deep_supervision).eval()
    network.apply(network.initialize)
    graphs = Graphs()
    compiled = torch.compile(network, backend=graphs)
    image = torch.randn(1, 1, 16, 16, 16)
    for scale in (1.0, NOT_NORMALISED, 1.0):
        eager, fast = _predicted(network, image * scale), _predicted(compiled, image * scale)
        eager, fast = (eager, fast) if deep_supervision else ([eager], [fast])
        assert all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(eager, fast, strict=True))
        assert eager[0].dtype == (torch.float16 if scale == 1.0 else torch.float32)
    # the whole network in one graph, once in half and once in float32; nothing compiled again
    assert len(graphs.convolutions) == 2
    assert graphs.convolutions[0] == graphs.convolutions[1] > 10


def test_what_is_no_number_for_other_reasons_stays_so() -> None:
    network = build(networks.network("SegMamba"), "mamba", _plan(3, edge=16), deep_supervision=False).eval()
    broken = torch.full((1, 1, 16, 16, 16), torch.nan)
    assert _predicted(network, broken).isnan().all()


def test_training_does_not_ask() -> None:
    """There the loss scale and the trainer's sentinel see to it; the question would break the graph of every step."""
    torch.manual_seed(0)
    network = build(networks.network("SegMamba"), "mamba", _plan(3, edge=16), deep_supervision=False)
    network.apply(network.initialize)
    image = torch.randn(1, 1, 16, 16, 16) * NOT_NORMALISED
    assert _predicted(network, image).isfinite().all()
    with torch.autocast("cpu", dtype=torch.float16):
        assert not network(image).isfinite().all()
