"""LightM-UNet as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_mamba.released.published import Published, Rename, Weights, count, isotropic


def plan_keywords(
    spatial_dims: int = 3,
    init_filters: int = 8,
    in_channels: int = 1,
    out_channels: int = 2,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
) -> tuple[int, int, dict[str, Any]]:
    """The released class's arguments -> input channels, outputs, plan keywords"""
    features = [init_filters * 2**i for i in range(len(blocks_down))]
    blocks = {"blocks_down": list(blocks_down), "blocks_up": list(blocks_up)}
    return in_channels, out_channels, isotropic(spatial_dims, features, **blocks)


def sizes_of(weights: Weights) -> dict[str, Any]:
    """The same arguments, off a checkpoint's shapes"""
    stem = weights["convInit.1.conv.weight"]
    stages = count(weights, r"down_layers\.(\d+)\.")
    return {
        "spatial_dims": stem.dim() - 2,
        "init_filters": stem.shape[0],
        "in_channels": stem.shape[1],
        "out_channels": weights["conv_final.2.1.conv.weight"].shape[0],
        "blocks_down": [count(weights, rf"down_layers\.{i}\.(\d+)\.norm1\.") for i in range(stages)],
        "blocks_up": [count(weights, rf"up_layers\.{i}\.(\d+)\.") for i in range(stages - 1)],
    }


NAMES: Rename = (
    (r"encoder\.stem\.(\d)\.", r"convInit.\1.conv."),
    *((rf"encoder\.down\.{i}\.0\.", f"down_layers.{i + 1}.0.0.") for i in range(9)),
    *((rf"encoder\.stages\.(\d+)\.{j}\.", rf"down_layers.\1.{j + 1}.") for j in range(9)),
    (r"decoder\.narrow\.(\d+)\.", r"up_samples.\1.0.conv."),
    (r"decoder\.stages\.(\d+\.\d+)\.conv\.(\d)\.", r"up_layers.\1.conv.\2.conv."),
    (r"decoder\.stages\.", "up_layers."),
    (r"decoder\.final_norm\.", "conv_final.0."),
    (r"decoder\.seg_layers\.\d+\.(\d)\.", r"conv_final.2.\1.conv."),
)

PUBLISHED = (
    Published(
        "lightmunet", "LightMUNet", plan_keywords, NAMES,
        (r"convInit\.", r"down_layers\.0\.1\.conv1\.mamba\."), sizes_of,
    ),
)  # fmt: skip
