"""SegMamba-V2 as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_mamba.released import unetr
from nnunet_mamba.released.published import Published, Rename, Weights, count, isotropic


def plan_keywords(
    in_chans: int = 1,
    out_chans: int = 13,
    depths: Sequence[int] = (2, 2, 2, 2),
    feat_size: Sequence[int] = (48, 96, 192, 384),
    hidden_size: int = 768,
) -> tuple[int, int, dict[str, Any]]:
    """The released class's arguments -> input channels, outputs, plan keywords"""
    return in_chans, out_chans, isotropic(3, [*feat_size, hidden_size], depths=list(depths))


def sizes_of(weights: Weights) -> dict[str, Any]:
    """The same arguments, off a checkpoint's shapes"""
    return {
        **unetr.widths_of(weights),
        "in_chans": weights["encoder1.layer.conv1.conv.weight"].shape[1],
        "out_chans": weights["out.conv.conv.weight"].shape[0],
        "hidden_size": weights["encoder5.layer.conv1.conv.weight"].shape[0],
        "depths": [count(weights, rf"vit\.gscs\.{i}\.(\d+)\.") for i in range(4)],
    }


NAMES: Rename = (
    (r"encoder\.downsample\.(\d+)\.", r"vit.downsample_layers.\1.0."),
    (r"encoder\.convolutions\.(\d+\.\d+\.\w+_path\.\d+)\.conv\.", r"vit.gscs.\1.block.0."),
    (r"encoder\.convolutions\.(\d+\.\d+)\.attention\.", r"vit.gscs.\1.se.fc."),
    (r"encoder\.scans\.", "vit.stages."),
    *unetr.NAMES,
)

PUBLISHED = (
    Published("segmamba_v2", "SegMambaV2", plan_keywords, NAMES, (r"vit\.gscs\.0\.0\.deep_path\.",), sizes_of),
)
