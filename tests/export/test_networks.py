"""Every network with every mixer as an ONNX file that onnxruntime computes as torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_mamba.export.onnx_agrees import ALLOWED, check_agreement
from nnunet_mamba.export.write_onnx import write_onnx
from nnunet_mamba.names import networks
from nnunet_mamba.names.networks import NETWORKS
from tests.architectures.test_contract import CONV3D, MIXING

QUICK = {"SegMamba": "mamba", "UMambaEnc": "mamba", "UMamba2": "mamba2"}
"""In layers of three orders, over channels, Mamba-2"""
WIDTH = {"LightMUNet": 32}
"""Narrower, it amplifies rounding beyond what is allowed, in torch too; elsewhere 8"""


def _network(record: networks.Network, mixing: str, patch: tuple[int, ...], stages: int, **more: Any) -> nn.Module:
    dim, width = len(patch), WIDTH.get(record.name, 8)
    keywords = {
        "n_stages": stages, "features_per_stage": [width, *[2 * width] * (stages - 1)],
        "kernel_sizes": [[3] * dim] * stages,
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d", "strides": [[1] * dim, *[[2] * dim] * (stages - 1)],
        "mixer": mixing.removesuffix(CONV3D), "conv3d": mixing.endswith(CONV3D), **more,
    }  # fmt: skip
    if record.patch_sized:
        keywords["patch_size"] = list(patch)
    if record.name == "LightMUNet":
        keywords["blocks_down"] = [1] * stages
    return get_network_from_plans(
        record.architecture, keywords, ["conv_op"], 2, 3, allow_init=True, deep_supervision=False
    ).eval()


def _exam(network: nn.Module, patch: tuple[int, ...], file: Path) -> None:
    write_onnx(network, 2, patch, file)
    assert check_agreement(network, 2, patch, file).difference <= ALLOWED


@pytest.mark.parametrize("name", QUICK)
def test_networks_export(name: str, tmp_path: Path) -> None:
    record = networks.network(name)
    more = {"depths": 1} if name == "SegMamba" else {}
    _exam(_network(record, QUICK[name], (8, 8), 2, **more), (8, 8), tmp_path / "x.onnx")


def _matrix() -> list[Any]:
    """Every network with one mixer and every mixer with a network in CI; the rest where there is time"""
    return [
        pytest.param(record, mixing, id=f"{record.name}-{mixing}",
                     marks=pytest.mark.slow if i % len(MIXING) == j else pytest.mark.long)
        for i, record in enumerate(NETWORKS)
        for j, mixing in enumerate(MIXING)
    ]  # fmt: skip


@pytest.mark.parametrize(("record", "mixing"), _matrix())
def test_every_network_with_every_mixer(record: networks.Network, mixing: str, tmp_path: Path) -> None:
    """Stages with several blocks of tokens, with a ragged one, and with a part of one"""
    patch = (8, 12, 20)
    _exam(_network(record, mixing, patch, 3), patch, tmp_path / "x.onnx")


@pytest.mark.long
@pytest.mark.parametrize("record", NETWORKS, ids=lambda r: r.name)
def test_single_voxels_and_anisotropic_strides(record: networks.Network, tmp_path: Path) -> None:
    patch = (1, 12, 8)
    network = _network(
        record, record.published_mixer, patch, 3, strides=[[1, 1, 1], [1, 2, 1], [1, 2, 2]],
        kernel_sizes=[[1, 3, 3], [1, 3, 3], [1, 3, 1]],
    )  # fmt: skip
    _exam(network, patch, tmp_path / "x.onnx")


@pytest.mark.slow
def test_large_values_do_not_overflow(tmp_path: Path) -> None:
    """Steps so large that every decay is far below the smallest float32, in a scan of several blocks"""
    network = _network(networks.network("UMambaBot"), "mamba", (16, 16, 8), 2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter += 50
    _exam(network, (16, 16, 8), tmp_path / "x.onnx")
