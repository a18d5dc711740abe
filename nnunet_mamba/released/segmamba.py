"""SegMamba as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_mamba.released import unetr
from nnunet_mamba.released.published import Published, Rename, Weights, count, isotropic

RELEASED_SLICES = (64, 32, 16, 8)


def plan_keywords(
    in_chans: int = 1,
    out_chans: int = 13,
    depths: Sequence[int] = (2, 2, 2, 2),
    feat_size: Sequence[int] = (48, 96, 192, 384),
    hidden_size: int = 768,
    nslices: Sequence[int] | str = RELEASED_SLICES,
) -> tuple[int, int, dict[str, Any]]:
    """The released class's arguments -> input channels, outputs, plan keywords.

    nslices: "auto" takes the first axis of each map, which equals the release for 128 slices and always works.
    """
    slices = None if nslices == "auto" else list(nslices)
    return in_chans, out_chans, isotropic(3, [*feat_size, hidden_size], depths=list(depths), n_slices=slices)


def sizes_of(weights: Weights) -> dict[str, Any]:
    """The same arguments, off a checkpoint's shapes"""
    return {
        **unetr.widths_of(weights),
        "in_chans": weights["vit.downsample_layers.0.0.weight"].shape[1],
        "out_chans": weights["out.conv.conv.weight"].shape[0],
        "hidden_size": weights["encoder5.layer.conv1.conv.weight"].shape[0],
        "depths": [count(weights, rf"vit\.stages\.{i}\.(\d+)\.") for i in range(4)],
    }


NAMES: Rename = (
    (r"encoder\.downsample\.0\.conv\.", "vit.downsample_layers.0.0."),
    (r"encoder\.downsample\.(\d+)\.conv\.", r"vit.downsample_layers.\1.1."),
    (r"encoder\.stages\.(\d+)\.gsc\.", r"vit.gscs.\1."),
    (r"encoder\.stages\.(\d+)\.layers\.", r"vit.stages.\1."),
    *unetr.NAMES,
)

PUBLISHED = (
    Published(
        "segmamba", "SegMamba", plan_keywords, NAMES,
        (r"vit\.stages\.0\.0\.mamba\.A_s_log$", r"vit\.gscs\.0\.proj2\.weight$"), sizes_of,
    ),
)  # fmt: skip
