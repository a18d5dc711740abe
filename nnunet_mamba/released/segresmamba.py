"""SegResMamba as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_mamba.released import unetr
from nnunet_mamba.released.published import Published, Rename, Weights, isotropic


def plan_keywords(
    in_chans: int = 1,
    out_chans: int = 13,
    feat_size: Sequence[int] = (48, 96, 192, 384),
    mamba: bool = False,
    nslices: int | None = None,
) -> tuple[int, int, dict[str, Any]]:
    """The released class's arguments -> input channels, outputs, plan keywords.

    mamba: True calls the Mamba layers, which the released forward constructs and never calls.
    """
    features = [*feat_size, feat_size[-1]]
    return in_chans, out_chans, isotropic(3, features, mixer="mamba" if mamba else "none", n_slices=nslices)


def sizes_of(weights: Weights) -> dict[str, Any]:
    """The same arguments, off a checkpoint's shapes"""
    return {
        **unetr.widths_of(weights),
        "in_chans": weights["vit.downsample_layers.0.0.weight"].shape[1],
        "out_chans": weights["out.weight"].shape[1],
    }


NAMES: Rename = (
    (r"encoder\.downsample\.0\.conv\.", "vit.downsample_layers.0.0."),
    (r"encoder\.downsample\.(\d+)\.mix\.", r"vit.downsample_layers.\1.1."),
    (r"encoder\.downsample\.(\d+)\.conv\.", r"vit.downsample_layers.\1.3."),
    (r"encoder\.blocks\.", "vit.gscs."),
    (r"encoder\.stages\.(\d+)\.", r"vit.stages.\1.0."),
    (r"encoder\.side_outputs\.", "vit.mlps."),
    (r"decoder\.narrow\.(\d+)\.", r"segresnet.up_samples.\1.0.conv."),
    (r"decoder\.stages\.(\d+)\.(conv\d)\.", r"segresnet.up_layers.\1.0.\2.conv."),
    (r"decoder\.stages\.(\d+)\.", r"segresnet.up_layers.\1.0."),
    (r"decoder\.seg_layers\.3\.", "out."),
)

PUBLISHED = (
    Published(
        "segresmamba", "SegResMamba", plan_keywords, NAMES,
        (r"segresnet\.up_layers\.", r"vit\.gscs\.0\.proj5\."), sizes_of,
        dead=r"segresnet\.(convInit|down_layers|conv_final)\.|vit\.gscs\.\d+\.mamba_layer\.",
    ),
)  # fmt: skip
