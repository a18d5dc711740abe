"""The keyword `mixer`: what it accepts, and that a new mixer is one module and one entry for every network."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mamba.blocks import mixers
from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.mixers import Mixer, has_mixer
from nnunet_mamba.blocks.same_size import SameSizeConv
from nnunet_mamba.names import networks
from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.planning.estimate import nnunet_loss
from nnunet_mamba.planning.memory.training_step import CPU, step_memory
from nnunet_mamba.trainers.parameter_groups import undecayed

PLAN: dict[str, Any] = {
    "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": nn.Conv3d, "kernel_sizes": 3, "strides": [1, 2, 2],
}  # fmt: skip
EACH = pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)


class Toy(nn.Module):
    """Built and called as Mamba is: a mean over all tokens so far"""

    def __init__(self, channels: int, orders: str = "f", d_state: int = 16, d_conv: int = 4, expand: int = 2):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.settings = (orders, d_state, d_conv, expand)

    def forward(self, tokens: Tensor, n_slices: int = 1, space: Sequence[int] = ()) -> Tensor:
        assert math.prod(space) == tokens.shape[1]
        count = torch.arange(1, tokens.shape[1] + 1, dtype=tokens.dtype, device=tokens.device)
        return self.weight.to(tokens.dtype) * tokens.cumsum(1) / count[:, None]


@EACH
def test_a_new_mixer_is_one_module_and_one_entry(record: networks.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, trained a step, and its memory estimated, in every network"""
    monkeypatch.setitem(mixers.MIXERS, "toy", Toy)

    def build() -> nn.Module:
        return record.load_architecture()(1, 2, mixer="toy", d_state=5, deep_supervision=True, **PLAN)

    network = build()
    toys = [module for module in network.modules() if isinstance(module, Toy)]
    assert toys
    assert all(toy.settings[1:] == (5, 4, 2) for toy in toys)
    assert has_mixer(network)
    assert not any(isinstance(module, Mamba) for module in network.modules())
    sum(y.square().mean() for y in network(torch.randn(1, 1, 16, 16, 16))).backward()
    assert all(toy.weight.grad is not None for toy in toys)
    assert step_memory(build, nnunet_loss(2), 1, (16, 16, 16), CPU).peak(2, (16, 16, 16)) > 0
    entry = {"network_class_name": record.architecture, "arch_kwargs": {**PLAN, "mixer": "toy"}}
    assert architecture_for(record, entry)["arch_kwargs"]["mixer"] == "toy"


@EACH
def test_the_twin_has_no_mixer(record: networks.Network) -> None:
    assert has_mixer(record.load_architecture()(1, 2, **PLAN))
    for without_scan in ("none", "conv"):
        assert not has_mixer(record.load_architecture()(1, 2, mixer=without_scan, **PLAN))


@EACH
def test_an_unknown_mixer_is_refused(record: networks.Network) -> None:
    with pytest.raises(ValueError, match="mixer='mamba3'; expected one of mamba, mamba2, conv, none"):
        record.load_architecture()(1, 2, mixer="mamba3", **PLAN)


def test_layers_of_the_twin_change_nothing() -> None:
    x = torch.randn(1, 4, 2, 2, 2)
    assert Mixer("none").layer(4)(x) is x
    assert not Mixer("none")
    assert isinstance(Mixer("mamba").layer(4), MambaLayer)


def _marked(network: nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if getattr(p, "_no_weight_decay", False)}


def _unpickled(network: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def _loaded(network: nn.Module) -> nn.Module:
    network.load_state_dict(copy.deepcopy(network.state_dict()))
    return network


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy, _unpickled, _loaded, lambda n: pickle.loads(pickle.dumps(n)), lambda n: n.double(),
        lambda n: n.to("cpu", torch.bfloat16), lambda n: torch.compile(n, backend="eager")._orig_mod,
    ],
)  # fmt: skip
def test_parameters_that_must_not_decay_keep_their_mark(change: Any, mixer: str) -> None:
    """A_log, D and the bias of the time step, per order, and Mamba-2's own norm; others are found by their kind"""
    network = nn.Sequential(nn.Conv3d(4, 4, 1), Mixer(mixer).layer(4, "fbs"))
    step = "dt_proj{}.bias" if mixer == "mamba" else "dt_bias{}"
    expected = {f"1.mamba.{name.format(suffix)}" for suffix in ("", "_b", "_s") for name in ("A{}_log", "D{}", step)}
    expected |= {"1.mamba.norm.weight"} if mixer == "mamba2" else set()
    assert _marked(network) == expected
    changed = change(network)
    assert _marked(changed) == expected
    kept = undecayed(changed)
    assert {name for name, p in changed.named_parameters() if p in kept} == expected | {"1.norm.weight", "1.norm.bias"}


def _millions(record: networks.Network, mixer: str | None, widths: list[int], dim: int, patch: int) -> tuple[int, int]:
    """Parameters of the network, and of its mixers"""
    n = len(widths)
    kwargs: dict[str, Any] = {"patch_size": [patch] * dim} if record.patch_sized else {}
    with torch.device("meta"):
        network = record.load_architecture()(
            1, 3, n_stages=n, features_per_stage=widths, conv_op=nn.Conv3d if dim == 3 else nn.Conv2d, kernel_sizes=3,
            strides=[1, *[2] * (n - 1)], mixer=mixer, **kwargs,
        )  # fmt: skip
    kinds = (Mamba, Mamba2, SameSizeConv)
    mixing = sum(p.numel() for m in network.modules() if isinstance(m, kinds) for p in m.parameters())
    return sum(p.numel() for p in network.parameters()), mixing


@EACH
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("size", ["planned", "small"])
def test_the_control_is_of_the_same_size(record: networks.Network, dim: int, size: str) -> None:
    """Within 2 %, of the whole network and of its mixing layers alone; layers over channels included"""
    most = record.max_features or (320 if dim == 3 else 512)
    widths = [min(record.base_features * 2**i, most) for i in range(6)] if size == "planned" else [8, 16, 16, 24]
    own = _millions(record, None, widths, dim, 128 if size == "planned" else 16)
    control = _millions(record, "conv", widths, dim, 128 if size == "planned" else 16)
    assert control[0] == pytest.approx(own[0], rel=0.02)
    assert control[1] == pytest.approx(own[1], rel=0.02)


@pytest.mark.parametrize("mixer", ["conv", "none"])
def test_there_is_no_convolution_to_replace_without_a_scan(mixer: str) -> None:
    with pytest.raises(ValueError, match=f"conv3d=True with mixer='{mixer}': .* or take one of mamba, mamba2"):
        Mixer(mixer, conv3d=True)


@EACH
@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_with_conv3d_there_is_no_causal_convolution(record: networks.Network, mixer: str) -> None:
    network = record.load_architecture()(1, 2, mixer=mixer, conv3d=True, **PLAN)
    names = {name.split(".")[-2] for name, _ in network.named_parameters()}
    assert "conv3d" in names
    assert not [name for name in names if name.startswith("conv1d")]
