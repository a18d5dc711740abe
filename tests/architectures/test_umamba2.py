"""U-Mamba2: nnU-Net's residual encoder U-Net with one layer, and without it exactly nnU-Net's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_mamba import UMamba2, released
from nnunet_mamba.blocks.mamba import MambaLayer
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.names import networks
from nnunet_mamba.names.architecture_entry import architecture_for, follow_widths
from nnunet_mamba.planning.configurations import for_patch, shrunk_configuration

RECORD = networks.network("UMamba2")


def stock_entry(dim: int, features: list[int] | None = None) -> dict[str, Any]:
    """As nnU-Net's residual encoder planners write it"""
    features = features or [8, 16, 40]
    n = len(features)
    return {
        "network_class_name": RECORD.extends,
        "arch_kwargs": {
            "n_stages": n, "features_per_stage": features, "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * n, "strides": [[1] * dim, *[[2] * dim] * (n - 1)],
            "n_blocks_per_stage": [1, 2, 1, 1, 1, 1][:n], "n_conv_per_stage_decoder": [1] * (n - 1), "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip


def built(entry: dict[str, Any], deep_supervision: bool = True, initialised: bool = True) -> Any:
    return get_network_from_plans(
        entry["network_class_name"], entry["arch_kwargs"], entry["_kw_requires_import"], 2, 3, initialised,
        deep_supervision,
    )  # fmt: skip


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_twin_is_nnunets_own_network(dim: int, deep_supervision: bool) -> None:
    entry = stock_entry(dim)
    made = []
    for architecture in (entry, architecture_for(RECORD.twin, entry)):
        torch.manual_seed(0)
        made.append(built(architecture, deep_supervision))
    stock, twin = made
    assert type(stock) is ResidualEncoderUNet
    ours, theirs = twin.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    x = torch.randn(2, 2, *(16,) * dim)
    outputs = [network(x) if deep_supervision else [network(x)] for network in (stock, twin)]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_layer_replaces_the_coarsest_feature(dim: int) -> None:
    network = built(architecture_for(RECORD, stock_entry(dim)))
    assert isinstance(network, UMamba2)
    assert isinstance(network.mamba_layer, MambaLayer)
    x = torch.randn(1, 2, *(16,) * dim)
    skips = network.encoder(x)
    last = skips[-1]
    tokens = network.mamba_layer.mamba(network.mamba_layer.norm(last.flatten(2).transpose(1, 2)))
    skips[-1] = tokens.transpose(1, 2).reshape(last.shape)
    assert all(torch.equal(a, b) for a, b in zip(network(x), network.decoder(skips), strict=True))
    added = set(network.state_dict()) - set(built(stock_entry(dim)).state_dict())
    assert {key.split(".")[0] for key in added} == {"mamba_layer"}


def test_it_is_what_nnunet_takes_for_a_residual_encoder() -> None:
    """By the end of its name, and by three attributes that say where the encoder is"""
    entry = architecture_for(RECORD, stock_entry(3))
    assert entry["network_class_name"].endswith("ResidualEncoderUNet")
    assert entry["arch_kwargs"]["n_blocks_per_stage"] == stock_entry(3)["arch_kwargs"]["n_blocks_per_stage"]
    network, stock = built(entry), built(stock_entry(3))
    for name in ("key_to_encoder", "key_to_stem", "keys_to_in_proj"):
        assert getattr(network, name) == getattr(stock, name)
    weights = stock.state_dict()
    for prefix in (network.key_to_encoder, network.key_to_stem):
        part = {k.removeprefix(f"{prefix}."): v for k, v in weights.items() if k.startswith(f"{prefix}.")}
        network.get_submodule(prefix).load_state_dict(part, strict=True)
    for path in network.keys_to_in_proj:
        assert torch.equal(network.get_submodule(path).weight, stock.get_submodule(path).weight)


@pytest.mark.parametrize(("width", "heads"), [(320, 80), (512, 64), (256, 64), (32, 64), (37, 74)])
def test_width_of_heads_is_written_into_the_plan(width: int, heads: int) -> None:
    entry = architecture_for(RECORD, stock_entry(2, [8, width]))
    assert entry["arch_kwargs"]["headdim"] == heads
    assert built(entry).mamba_layer.mamba.headdim == heads
    del entry["arch_kwargs"]["headdim"]
    assert built(entry).mamba_layer.mamba.headdim == heads, "without it the same"
    for other in (RECORD.twin, networks.network("SegMamba")):
        assert "headdim" not in architecture_for(other, stock_entry(2, [8, width]))["arch_kwargs"]


def test_width_of_heads_follows_where_it_must() -> None:
    entry = architecture_for(RECORD, stock_entry(3, [32, 320]))
    entry["arch_kwargs"]["features_per_stage"] = [32, 160]
    follow_widths(entry)
    assert entry["arch_kwargs"]["headdim"] == 80
    entry["arch_kwargs"]["features_per_stage"] = [32, 256]
    with pytest.raises(ValueError, match="headdim=80 does not divide the 512 inner channels"):
        built(entry)
    follow_widths(entry)
    assert built(entry).mamba_layer.mamba.headdim == 64


def test_left_out_keywords_are_nnunets_preset() -> None:
    network = UMamba2(
        1, 2, n_stages=5, features_per_stage=8, conv_op=nn.Conv3d, kernel_sizes=3, strides=[1, 2, 2, 2, 2]
    )
    assert [len(stage.blocks) for stage in network.encoder.stages] == [1, 3, 4, 6, 6]
    mixer = network.mamba_layer.mamba
    assert isinstance(mixer, Mamba2)
    assert (mixer.d_state, mixer.headdim, mixer.orders) == (32, 16, "f")
    norms = [m for m in network.encoder.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert all(norm.affine for norm in norms)
    with pytest.raises(ValueError, match=r"n_blocks_per_stage=\[1, 2\]; expected 5 numbers"):
        UMamba2(1, 2, n_stages=5, features_per_stage=8, conv_op=nn.Conv3d, kernel_sizes=3, strides=[1, 2, 2, 2, 2],
                n_blocks_per_stage=[1, 2])  # fmt: skip


def test_checkpoints_of_both_u_mambas_are_told_apart() -> None:
    sizes: dict[str, Any] = {"input_channels": 1, "num_classes": 2, "features_per_stage": [4, 8], "strides": [[1] * 3,
                             [2] * 3], "kernel_sizes": [[3] * 3] * 2}  # fmt: skip
    bot = released.build("umamba_bot", **sizes).state_dict()
    two = released.build("umamba2", n_blocks_per_stage=[1, 1], **sizes).state_dict()
    assert released.recognise(bot).kind == "umamba_bot"
    assert released.recognise(two).kind == "umamba2"
    for container in ("network_weights", "model"):
        assert released.load_released({container: two}, strides=sizes["strides"]).kind == "umamba2"


@pytest.mark.parametrize("patch", [[32, 32, 32], [128, 128, 128]], ids=str)
def test_another_patch_of_a_sweep_or_a_demo_gives_heads_that_fit(patch: list[int]) -> None:
    """nnU-Net's rules give four stages for 32^3, with 256 channels at the bottleneck, and six for 128^3, with 320"""
    entry = architecture_for(RECORD, stock_entry(3, [32, 64, 128, 256, 320, 320]))
    parent = {"architecture": entry, "patch_size": [96, 96, 96], "spacing": [1.0] * 3, "batch_size": 2}
    made = for_patch(parent, patch, 2)["architecture"]["arch_kwargs"]
    assert 2 * made["features_per_stage"][-1] % made["headdim"] == 0
    assert made["headdim"] == (64 if patch == [32, 32, 32] else 80)
    assert len(made["n_blocks_per_stage"]) == made["n_stages"]
    recipe = {"base_features": 4, "max_features": 12, "batch_size": 1, "max_patch_voxels": 32**3, "inherits_from": "x"}
    small = shrunk_configuration(parent, recipe)["architecture"]["arch_kwargs"]
    assert 2 * small["features_per_stage"][-1] % small["headdim"] == 0
