"""U-Mamba as published, Enc and Bot: under the names that ours has."""

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
    n_conv_per_stage: int | Sequence[int] = 2,
    n_conv_per_stage_decoder: int | Sequence[int] = 2,
    patch_size: Sequence[int] | None = None,
    deep_supervision: bool = False,
) -> tuple[int, int, dict[str, Any]]:
    """The released class's arguments -> input channels, outputs, plan keywords.

    patch_size: the training patch, for the stages that scan over channels.
    """
    topology = isotropic(len(kernel_sizes[0]), features_per_stage)
    topology["kernel_sizes"] = [list(k) for k in kernel_sizes]
    topology["strides"] = [list(s) for s in strides]
    return (
        input_channels,
        num_classes,
        {
            **topology,
            "n_conv_per_stage": n_conv_per_stage,
            "n_conv_per_stage_decoder": n_conv_per_stage_decoder,
            "patch_size": None if patch_size is None else list(patch_size),
            "deep_supervision": deep_supervision,
        },
    )


def sizes_of(weights: Weights) -> dict[str, Any]:
    """The same arguments, off a checkpoint's shapes"""
    stages = count(weights, r"encoder\.stages\.(\d+)\.")
    first = [weights[f"encoder.stages.{i}.0.conv1.weight"] for i in range(stages)]
    last_head = weights[f"decoder.seg_layers.{stages - 2}.weight"]
    return {
        "input_channels": weights["encoder.stem.0.conv1.weight"].shape[1],
        "num_classes": last_head.shape[0],
        "features_per_stage": [w.shape[0] for w in first],
        "kernel_sizes": [list(w.shape[2:]) for w in first],
        "n_conv_per_stage": [count(weights, rf"encoder\.stages\.{i}\.(\d+)\.") for i in range(stages)],
        "n_conv_per_stage_decoder": [count(weights, rf"decoder\.stages\.{i}\.(\d+)\.") for i in range(stages - 1)],
    }


PUBLISHED = (
    Published("umamba_enc", "UMambaEnc", plan_keywords, (), (r"encoder\.mamba_layers\.\d+\.mamba\.",), sizes_of),
    Published("umamba_bot", "UMambaBot", plan_keywords, (), (r"mamba_layer\.mamba\.", r"encoder\.stem\.0\."), sizes_of),
)
