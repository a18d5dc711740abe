"""Published networks: built by name, recognised by their keys, loaded strictly, carried over to plan-sized networks."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mamba import released
from nnunet_mamba.architectures.segmamba import SegMamba
from nnunet_mamba.names import networks
from tests.conftest import DATA

WIDTHS = {"feat_size": (4, 8, 8, 16)}
SEGMAMBA = {"depths": (1, 2, 1, 1), **WIDTHS, "hidden_size": 16}
UMAMBA: dict[str, Any] = {
    "input_channels": 1, "num_classes": 3, "features_per_stage": [4, 8, 16], "kernel_sizes": [[1, 3, 3], [3, 3, 3],
    [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "segmamba": {"in_chans": 2, "out_chans": 3, **SEGMAMBA},
    "segmamba_v2": {"in_chans": 2, "out_chans": 3, **SEGMAMBA},
    "segresmamba": {"in_chans": 2, "out_chans": 3, **WIDTHS},
    "lightmunet": {"init_filters": 8, "in_channels": 2, "out_channels": 3, "spatial_dims": 2},
    "umamba_enc": {**UMAMBA, "patch_size": [2, 8, 8]},
    "umamba_bot": UMAMBA,
    "umamba2": {**UMAMBA, "n_blocks_per_stage": [1, 2, 1], "n_conv_per_stage_decoder": [1, 2], "headdim": 16},
}
NOT_IN_WEIGHTS = ("strides", "patch_size", "nslices", "mamba", "deep_supervision")
ACCEPTED = [(32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 128), (16, 32, 64), (16, 64, 64), (128, 128, 64),
            (224, 224, 96), (112, 160, 128), (96, 160, 160)]  # fmt: skip
REFUSED = [(16, 16, 16), (48, 48, 48), (80, 80, 80), (112, 112, 112), (48, 32, 32), (80, 96, 80), (48, 96, 80),
           (80, 160, 160)]  # fmt: skip


def _input(kind: str) -> Tensor:
    if kind == "lightmunet":
        return torch.randn(1, 2, 16, 24)
    return torch.randn(1, 1, 2, 8, 8) if kind.startswith("umamba") else torch.randn(1, 2, 32, 32, 32)


def _extra(kind: str) -> dict[str, Any]:
    return {k: v for k, v in TINY[kind].items() if k in ("strides", "patch_size")}


@pytest.mark.parametrize("kind", released.kinds())
def test_checkpoints_are_recognised_and_load_strictly(kind: str, tmp_path: Path) -> None:
    network = released.build(kind, **TINY[kind]).eval()
    torch.save({"epoch": 3, "state_dict": {f"module._orig_mod.{k}": v for k, v in network.state_dict().items()}},
               tmp_path / "weights.pt")  # fmt: skip
    loaded = released.load_released(tmp_path / "weights.pt", **_extra(kind))
    assert loaded.kind == kind
    assert not loaded.training
    for name, value in TINY[kind].items():
        inferred = loaded.config[name]
        assert json.dumps(inferred) == json.dumps(value) or name in NOT_IN_WEIGHTS, name
    x = _input(kind)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize("kind", released.kinds())
def test_a_missing_or_foreign_parameter_is_an_error(kind: str) -> None:
    weights = released.build(kind, **TINY[kind]).state_dict()
    key = next(k for k in weights if k.endswith("in_proj.weight") or k.endswith("proj3.weight"))
    with pytest.raises(ValueError, match=f"looks like a {kind} checkpoint but does not fit"):
        released.load_released({k: v for k, v in weights.items() if k != key}, **_extra(kind))
    with pytest.raises(ValueError, match="Unexpected key"):
        released.load_released({**weights, "surprise.weight": torch.ones(1)}, **_extra(kind))


@pytest.mark.parametrize("kind", released.kinds())
def test_published_names_are_unique_and_lead_back(kind: str) -> None:
    network = released.build(kind, **TINY[kind])
    names = [network._published.published_name(key) for key in network.network.state_dict()]
    assert len(set(names)) == len(names)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(before)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_published_names_survive_inside_another_module() -> None:
    """As under DistributedDataParallel, which saves and loads its child's parameters with a prefix."""
    outer = nn.Sequential(released.build("segmamba", **TINY["segmamba"]))
    other = nn.Sequential(released.build("segmamba", **TINY["segmamba"]))
    weights = outer.state_dict()
    assert "0.vit.downsample_layers.0.0.weight" in weights
    other.load_state_dict(weights, strict=True)
    x = _input("segmamba")
    with torch.no_grad():
        assert torch.equal(outer.eval()(x), other.eval()(x))


def test_dead_parameters_of_segresmamba_are_left_out_and_listed() -> None:
    published = json.loads((DATA / "state_dict_keys" / "segresmamba_in4_out3.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in published.items()}
        network = released.build("segresmamba", in_chans=4, out_chans=3)
        network.load_state_dict(weights, assign=True)
    assert {k.split(".")[0] + "." + k.split(".")[1] for k in network.ignored_keys} == {
        "vit.gscs", "segresnet.convInit", "segresnet.down_layers", "segresnet.conv_final",
    }  # fmt: skip
    assert all("mamba_layer" in k for k in network.ignored_keys if k.startswith("vit"))
    # the constructed and never trained Mamba layers count as dead: 1,560,960 parameters, as the specification has it
    mamba = sum(weights[k].numel() for k in network.ignored_keys if k.startswith("vit"))
    assert mamba == 1_560_960


def test_files_with_code_in_them_are_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        released.load_released(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: released.build("unet"), "unknown network 'unet'; known: segmamba, segmamba_v2, segresmamba"),
        (lambda: released.build("segmamba", channels=3), "segmamba: unknown channels; known: in_chans, out_chans"),
        (lambda: released.build("umamba_enc"), "umamba_enc: input_channels, .*strides missing"),
        (lambda: released.load_released({}), "no weights found; expected a state_dict, or a checkpoint with one of"),
        (lambda: released.load_released({"conv.weight": torch.ones(1)}), r"no published network has these keys"),
    ],
)
def test_errors_name_what_is_known(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_u_mamba_needs_its_strides() -> None:
    weights = released.build("umamba_bot", **UMAMBA).state_dict()
    with pytest.raises(ValueError, match="umamba_bot: strides missing; a plan of the checkpoint's dataset has them"):
        released.load_released(weights)


@pytest.mark.parametrize("kind", released.kinds())
def test_weights_go_into_the_plan_sized_network(kind: str) -> None:
    """With deep supervision, the full-resolution output is the released one; only the coarser heads are new."""
    network = released.build(kind, **TINY[kind]).eval()
    module, _, name = networks.network(network._published.network).architecture.rpartition(".")
    inputs, outputs, kwargs = network._published.plan_keywords(**network.config)
    dim = 2 if kind == "lightmunet" else 3
    kwargs = {**kwargs, "conv_op": nn.Conv2d if dim == 2 else nn.Conv3d, "deep_supervision": True}
    planned = getattr(import_module(module), name)(inputs, outputs, **kwargs).eval()
    result = planned.load_state_dict(network.network.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(".seg_layers." in key for key in result.missing_keys)
    x = _input(kind)
    with torch.no_grad():
        assert torch.equal(planned(x)[0], network(x))


@pytest.mark.parametrize("size", ACCEPTED, ids=str)
def test_sizes_the_released_segmamba_takes(size: tuple[int, ...]) -> None:
    released.build("segmamba", **SEGMAMBA).network.check_patch(size)


@pytest.mark.parametrize("size", REFUSED, ids=str)
def test_sizes_the_fixed_slices_refuse_run_with_auto(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'not divisible by n_slices=.*nslices="auto"'):
        released.build("segmamba", **SEGMAMBA).network.check_patch(size)
    released.build("segmamba", nslices="auto", **SEGMAMBA).network.check_patch(size)


def test_auto_slices_equal_the_release_at_depth_128() -> None:
    assert [128 // 2 ** (stage + 1) for stage in range(4)] == list(released.segmamba.RELEASED_SLICES)
    network = released.build("segmamba", nslices="auto", **SEGMAMBA).network
    assert isinstance(network, SegMamba)
    assert network.n_slices == (None,) * 4


def test_channel_tokens_refuse_another_patch() -> None:
    network = released.build("umamba_enc", **TINY["umamba_enc"])
    with pytest.raises(ValueError, match=r"built for patches of \(2, 8, 8\).*Use that patch, or build with patch"):
        network(torch.randn(1, 1, 8, 16, 16))
    other = released.build("umamba_enc", **{**TINY["umamba_enc"], "patch_size": None})
    assert other(torch.randn(1, 1, 8, 16, 16)).shape == (1, 3, 8, 16, 16)
