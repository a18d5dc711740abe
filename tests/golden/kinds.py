"""How to build the module of each kind of golden case from its configuration, and how to call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba import released
from nnunet_mamba.architectures.segresmamba import ConvMamba
from nnunet_mamba.blocks.convolutions import SPACE_3D
from nnunet_mamba.blocks.gated_spatial_conv import GatedSpatialConv
from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.blocks.residual import ResidualBlock, UpBlock

KERNEL, STRIDE = (3, 3, 3), (2, 2, 2)
Build = Callable[[dict[str, Any]], nn.Module]


class _Under(nn.Module):
    """A module whose keys begin with a name."""

    def __init__(self, name: str, module: nn.Module):
        super().__init__()
        self.name = name
        self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


class _Tokens(Mamba):
    """The bare tri-orientated block with a fixed number of slices."""

    n_slices = 1

    def forward(self, tokens: Tensor, n_slices: int = 1, space: Sequence[int] = ()) -> Tensor:
        return super().forward(tokens, self.n_slices, space)


class _Tokens2(Mamba2):
    """Mamba-2 with a fixed number of slices."""

    n_slices = 1

    def forward(self, tokens: Tensor, n_slices: int = 1, space: Sequence[int] = ()) -> Tensor:
        return super().forward(tokens, self.n_slices, space)


class _UpFromOneInput(UpBlock):
    """Low-resolution input and skip in one tensor: the skip is the rest of the channels, doubled in size."""

    cin = 0

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        return super().forward(x[:, : self.cin], F.interpolate(x[:, self.cin :], scale_factor=2, mode="nearest"))


def _mamba(config: dict[str, Any]) -> nn.Module:
    tri = config["kind"] == "tom"
    block = _Tokens(config["d_model"], "fbs" if tri else "f", config["d_state"], config["d_conv"], config["expand"])
    block.n_slices = config["nslices"] if tri else 1
    return block


def _mamba2(config: dict[str, Any]) -> nn.Module:
    tri = config["kind"] == "mamba2_tri"
    sizes = {k: config[k] for k in ("d_state", "d_conv", "expand", "headdim", "ngroups", "bias") if k in config}
    block = _Tokens2(config["d_model"], "fbs" if tri else "f", **sizes)
    block.n_slices = config["nslices"] if tri else 1
    return block


def _up_block(config: dict[str, Any]) -> nn.Module:
    block = _UpFromOneInput(SPACE_3D, config["cin"], config["cout"], KERNEL, STRIDE)
    block.cin = config["cin"]
    return block


def _conv_mamba(config: dict[str, Any]) -> nn.Module:
    fixed = config["nslices"] if isinstance(config["nslices"], int) else None
    return ConvMamba(SPACE_3D, config["channels"], KERNEL, Mixer("mamba" if config["mamba"] else "none"), fixed)


def _network(kind: str) -> Build:
    def make(config: dict[str, Any]) -> nn.Module:
        known = released.PUBLISHED[kind].config_names()
        return released.build(kind, **{k: v for k, v in config.items() if k in known})

    return make


def _segresmamba(config: dict[str, Any]) -> nn.Module:
    called = config["mamba"].startswith("called")
    sizes = {k: config[k] for k in ("in_chans", "out_chans", "feat_size")}
    return released.build("segresmamba", mamba=called, **sizes)


def _umamba(config: dict[str, Any]) -> nn.Module:
    # "patch" is our word for the released "input_size"
    return _network(config["kind"])({**config, "patch_size": config["input_size"]})


def is_another_function(config: dict[str, Any]) -> bool:
    """Recorded from the one path of the released Mamba-2 that normalises over all groups at once; ours does not"""
    return config["kind"] == "mamba2" and config["norm_groups"] != config["ngroups"]


BUILD: dict[str, Build] = {
    "tom": _mamba,
    "mamba_plain": _mamba,
    "segmamba_mamba_layer": lambda c: MambaLayer(c["dim"], n_slices=c["nslices"]),
    "segmamba_gsc": lambda c: GatedSpatialConv(SPACE_3D, c["channels"], KERNEL),
    "unetr_basic_block": lambda c: _Under("layer", ResidualBlock(SPACE_3D, c["cin"], c["cout"], KERNEL)),
    "unetr_up_block": _up_block,
    "segresmamba_cmmb": _conv_mamba,
    "segmamba": _network("segmamba"),
    "segmamba_v2": _network("segmamba_v2"),
    "segresmamba": _segresmamba,
    "lightmunet": _network("lightmunet"),
    "umamba_enc": _umamba,
    "umamba_bot": _umamba,
    "mamba2": _mamba2,
    "mamba2_tri": _mamba2,
    "umamba2_2d": _network("umamba2"),
    "umamba2_3d": _network("umamba2"),
}
