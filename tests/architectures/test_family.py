"""What single networks promise beyond the common exam."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_mamba.architectures.lightmunet import LightMUNet
from nnunet_mamba.architectures.mamba_encoder import MambaEncoder, stage_kinds
from nnunet_mamba.architectures.segmamba import SegMamba
from nnunet_mamba.architectures.segmamba_v2 import AxesMamba, SegMambaV2
from nnunet_mamba.architectures.umamba import ChannelTokens, UMambaBot, UMambaEnc
from nnunet_mamba.blocks.convolutions import GroupNorm, InstanceNorm3d
from nnunet_mamba.blocks.feature_uncertainty import weigh_by_uncertainty
from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.names import networks
from tests.ops.cases import relative_error


def _sizes(dim: int, n_stages: int, features: int | list[int] = 8) -> dict[str, Any]:
    strides = [1] + [2] * (n_stages - 1)
    conv_op = nn.Conv3d if dim == 3 else nn.Conv2d
    topology = {"n_stages": n_stages, "features_per_stage": features, "kernel_sizes": 3, "strides": strides}
    return {**topology, "conv_op": conv_op}


@pytest.mark.parametrize(("dim", "n", "where"), [(3, 4, [0, 1, 2, 3]), (2, 4, [1, 3]), (2, 5, [0, 2, 4]),
                                                 (2, 7, [0, 2, 4, 6])])  # fmt: skip
def test_umamba_enc_has_mamba_where_released(dim: int, n: int, where: list[int]) -> None:
    network = UMambaEnc(1, 2, **_sizes(dim, n))
    assert [i for i, m in enumerate(network.encoder.mamba_layers) if not isinstance(m, nn.Identity)] == where


@pytest.mark.parametrize(
    ("n", "encoder", "decoder"),
    [(4, [2, 2, 1, 1], [2, 2, 1]), (6, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]),
     (7, [2, 2, 2, 2, 1, 1, 1], [2, 2, 2, 2, 1, 1])],
)  # fmt: skip
def test_umamba_halves_its_blocks_as_released(n: int, encoder: list[int], decoder: list[int]) -> None:
    network = UMambaBot(1, 2, **_sizes(2, n, 4))
    assert [len(stage) for stage in network.encoder.stages] == encoder
    assert [len(stage) for stage in network.decoder.stages] == decoder


def test_umamba_scans_channels_where_voxels_are_few() -> None:
    network = UMambaEnc(1, 2, **_sizes(3, 4, [4, 8, 16, 16]), patch_size=(16, 16, 16))
    assert [isinstance(m, ChannelTokens) for m in network.encoder.mamba_layers] == [False, False, False, True]
    assert network.encoder.mamba_layers[3].norm.normalized_shape == (8,)
    assert not any(isinstance(m, ChannelTokens) for m in UMambaEnc(1, 2, **_sizes(3, 4)).modules())
    with pytest.raises(ValueError, match=r"patch \(20, 16, 16\) does not fit"):
        UMambaEnc(1, 2, **_sizes(3, 4), patch_size=(20, 16, 16))


@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_no_convolution_strides_over_one_voxel(record: networks.Network) -> None:
    """Its gradient corrupts memory with oneDNN on AVX512, 12 to 20 channels, channels last (torch 2.15)."""
    module, name = record.architecture.rsplit(".", 1)
    network = getattr(importlib.import_module(module), name)(1, 2, **_sizes(2, 4))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert not [m for m in convolutions if set(m.kernel_size) == {1} and set(m.stride) != {1}]


def test_umamba_lists_are_not_changed() -> None:
    blocks = [2, 2, 2, 2]
    UMambaBot(1, 2, **_sizes(2, 4), n_conv_per_stage=blocks)
    assert blocks == [2, 2, 2, 2]


@pytest.mark.parametrize("n_stages", range(2, 10))
def test_mamba_encoder_turns_from_convolutions_to_mamba(n_stages: int) -> None:
    kinds = stage_kinds(n_stages)
    assert len(kinds) == n_stages
    assert list(kinds) == sorted(kinds, key=["conv", "conv+mamba", "mamba"].index)
    assert kinds.count("conv") == -(-n_stages // 2)
    assert kinds.count("mamba") == max(1, n_stages // 4)


@pytest.mark.parametrize(("scan", "orders"), [("forward", "f"), ("bidirectional", "fb"), ("tri-orientated", "fbs")])
def test_mamba_encoder_scan_is_an_option(scan: str, orders: str) -> None:
    network = MambaEncoder(1, 2, **_sizes(3, 4), scan=scan)
    assert {m.orders for m in network.modules() if isinstance(m, Mamba)} == {orders}
    with pytest.raises(ValueError, match="scan='spiral'; expected one of forward, bidirectional, tri-orientated"):
        MambaEncoder(1, 2, **_sizes(3, 4), scan="spiral")


def test_segmamba_v2_scans_along_every_axis_with_the_same_weights() -> None:
    """Permuting the last two axes leaves the first scan's token order changed only where it should."""
    layer = AxesMamba(4, Mixer("mamba", d_state=4)).double()
    plain = MambaLayer(4, "f", d_state=4, residual=False).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 2, 3, 5).double()
    expected = x + plain(x)
    expected = expected + plain(x.permute(0, 1, 3, 2, 4)).permute(0, 1, 3, 2, 4)
    expected = expected + plain(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    assert relative_error(layer(x), expected) < 1e-12


@pytest.mark.parametrize(("n_stages", "with_mamba"), [(5, [2, 3]), (4, [1, 2]), (3, [1]), (2, [0]), (6, [2, 3, 4])])
def test_segmamba_v2_has_mamba_in_the_deeper_half(n_stages: int, with_mamba: list[int]) -> None:
    network = SegMambaV2(1, 2, **_sizes(2, n_stages))
    assert [i for i, m in enumerate(network.encoder.scans) if isinstance(m, nn.Sequential)] == with_mamba


def test_lightmunet_blocks_and_groups() -> None:
    network = LightMUNet(1, 2, **_sizes(2, 5, [8, 12, 20, 8, 8]))
    assert [len(stage) for stage in network.encoder.stages] == [1, 2, 2, 2, 4]
    assert next(m.num_groups for m in network.modules() if isinstance(m, GroupNorm) and m.num_channels == 12) == 4
    with pytest.raises(ValueError, match=r"blocks_down=\[1, 2\]; expected 3 numbers >= 1"):
        LightMUNet(1, 2, **_sizes(2, 3), blocks_down=[1, 2])


def test_product_and_sum_of_the_gated_convolution_differ_in_function_only() -> None:
    torch.manual_seed(0)
    added = SegMamba(1, 2, **_sizes(3, 3))
    multiplied = SegMamba(1, 2, **_sizes(3, 3), gsc="product")
    multiplied.load_state_dict(added.state_dict(), strict=True)
    x = torch.randn(1, 1, 8, 8, 8)
    assert relative_error(multiplied(x), added(x)) > 1e-3
    with pytest.raises(ValueError, match="gsc='mean'; expected one of sum, product"):
        SegMamba(1, 2, **_sizes(3, 3), gsc="mean")


def test_fue_is_the_documented_formula_and_off_by_default() -> None:
    x = torch.randn(2, 5, 3, 4, 2)
    m = torch.sigmoid(x.mean(1, keepdim=True))
    assert torch.allclose(weigh_by_uncertainty(x), x + x * (1 + m * torch.log(m)), atol=1e-6)
    assert weigh_by_uncertainty(torch.full((1, 2, 1, 1), -500.0)).isfinite().all()
    off, on = SegMamba(1, 2, **_sizes(3, 3)), SegMamba(1, 2, **_sizes(3, 3), fue=True)
    on.load_state_dict(off.state_dict(), strict=True)
    image = torch.randn(1, 1, 8, 8, 8)
    assert relative_error(on(image), off(image)) > 1e-3


def test_norms_of_one_value_keep_scale_and_shift() -> None:
    x = torch.randn(1, 8, 1, 1, 1)
    for norm in (InstanceNorm3d(8, affine=True), GroupNorm(8, 8)):
        with torch.no_grad():
            norm.weight.fill_(2)
            norm.bias.fill_(1)
        assert torch.allclose(norm(x), 2 * x + 1)
    assert torch.equal(InstanceNorm3d(8)(x), x)
    several = torch.randn(2, 8, 2, 1, 3)
    assert torch.allclose(GroupNorm(8, 8)(several), nn.GroupNorm(8, 8)(several))
    assert torch.allclose(InstanceNorm3d(8)(several), nn.InstanceNorm3d(8)(several))
