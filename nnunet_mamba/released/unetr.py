"""What the published SegMamba and its successors have in common: an encoder `vit`, and MONAI's UNETR blocks."""

from __future__ import annotations

from typing import Any

from nnunet_mamba.released.published import Rename, Weights

NAMES: Rename = (
    (r"encoder\.side_outputs\.(\d+)\.", r"vit.mlps.\1."),
    *((rf"encoder\.skips\.{i}\.", f"encoder{i + 1}.layer.") for i in range(5)),
    *((rf"decoder\.stages\.{i}\.", f"decoder{5 - i}.") for i in range(4)),
    (r"decoder\.refine\.", "decoder1.layer."),
    (r"decoder\.seg_layers\.3\.", "out.conv.conv."),
)


def widths_of(weights: Weights) -> dict[str, Any]:
    """Of the encoder's four stages"""
    widths = [weights[f"vit.mlps.{i}.fc2.weight"].shape[0] for i in range(4)]
    return {"feat_size": widths}
