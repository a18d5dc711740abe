"""U-Mamba2 as published: under the names that ours has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_mamba.released.published import Published, Weights, count, isotropic


def plan_keywords(
    input_channels: int,
    num_classes: int,
    features_per_stage: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    n_blocks_per_stage: Sequence[int],
    n_conv_per_stage_decoder: int | Sequence[int] = 1,
    d_state: int = 32,
    d_conv: int = 4,
    expand: int = 2,
    headdim: int | None = None,
    deep_supervision: bool = False,
) -> tuple[int, int, dict[str, Any]]:
    """The released class's arguments -> input channels, outputs, plan keywords. headdim: None for 80 where that fits"""
    topology = isotropic(len(kernel_sizes[0]), features_per_stage)
    topology["kernel_sizes"] = [list(k) for k in kernel_sizes]
    topology["strides"] = [list(s) for s in strides]
    return (
        input_channels,
        num_classes,
        {
            **topology,
            "n_blocks_per_stage": list(n_blocks_per_stage),
            "n_conv_per_stage_decoder": n_conv_per_stage_decoder,
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "headdim": headdim,
            "deep_supervision": deep_supervision,
        },
    )


def sizes_of(weights: Weights) -> dict[str, Any]:
    """The same arguments, off a checkpoint's shapes"""
    stages = count(weights, r"encoder\.stages\.(\d+)\.")
    first = [weights[f"encoder.stages.{i}.blocks.0.conv1.conv.weight"] for i in range(stages)]
    mamba = {name: weights[f"mamba_layer.mamba.{name}"].shape for name in ("out_proj.weight", "A_log", "conv1d.weight")}
    channels, inner = mamba["out_proj.weight"]
    return {
        "input_channels": weights["encoder.stem.convs.0.conv.weight"].shape[1],
        "num_classes": weights[f"decoder.seg_layers.{stages - 2}.weight"].shape[0],
        "features_per_stage": [w.shape[0] for w in first],
        "kernel_sizes": [list(w.shape[2:]) for w in first],
        "n_blocks_per_stage": [count(weights, rf"encoder\.stages\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
        "n_conv_per_stage_decoder": [
            count(weights, rf"decoder\.stages\.{i}\.convs\.(\d+)\.") for i in range(stages - 1)
        ],
        "d_state": (mamba["conv1d.weight"][0] - inner) // 2,
        "d_conv": mamba["conv1d.weight"][2],
        "expand": inner // channels,
        "headdim": inner // mamba["A_log"][0],
    }


PUBLISHED = (
    Published(
        "umamba2", "UMamba2", plan_keywords, (),
        (r"mamba_layer\.mamba\.dt_bias$", r"encoder\.stem\.convs\."), sizes_of,
    ),
)  # fmt: skip
