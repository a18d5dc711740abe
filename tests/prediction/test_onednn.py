"""Convolutions of a prediction on a CPU: the same numbers, without the loop that torch takes for one small image."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nnunet_mamba.prediction.onednn import through_onednn

LOOP = "aten::slow_conv3d"


def _operators(network: nn.Module, x: torch.Tensor) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.inference_mode():
        network(x)
    return " ".join(event.key for event in seen.key_averages())


def test_results_are_the_same_and_no_loop_is_left() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(16, 24, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
        nn.Conv3d(24, 24, 3, padding=2, dilation=2),
    ).eval()  # fmt: skip
    x = torch.randn(1, 1, 8, 10, 12)
    with torch.inference_mode():
        expected = network(x)
    assert LOOP in _operators(network, x), "torch has another rule now: is the option of use?"
    assert through_onednn(network) == 3
    assert LOOP not in _operators(network, x)
    with torch.inference_mode():
        got = network(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()  # sums of 648 products in another order


@pytest.mark.parametrize(
    "kept",
    [
        nn.Conv3d(4, 4, 1),
        nn.Conv3d(4, 4, 3, padding=1, groups=4),
        nn.Conv3d(4, 4, 3, padding="same"),
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3),
        nn.ConvTranspose3d(4, 4, 2, 2),
    ],
    ids=str,
)
def test_what_gains_nothing_stays(kept: nn.Module) -> None:
    assert through_onednn(kept) == 0
    assert "forward" not in vars(kept)


def test_a_torch_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="built without oneDNN"):
        through_onednn(nn.Conv3d(1, 1, 3))
