"""nnU-Net's label manager with thresholds: `LabelManagerThresholds_420_500` in a model's plans.json.

nnU-Net looks the class up by the name in the plans, so that its own prediction and ensembling apply the thresholds. The
name holds them in thousandths, one per region in the order of the network's outputs, or one for a single foreground
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_mamba.names import classes
from nnunet_mamba.names.locate import parse_thresholds


def __getattr__(name: str) -> type[LabelManager]:
    return classes.attribute(__name__, name, _make)


def _make(name: str) -> type[LabelManager]:
    thresholds = parse_thresholds(name)
    text = f"nnU-Net's label manager with the thresholds {thresholds}"
    return type(name, (LabelManagerWithThresholds,), {"thresholds": thresholds, "__doc__": text})


class LabelManagerWithThresholds(LabelManager):
    """Subclasses have `thresholds`. Raises ValueError for a dataset whose labels cannot have that many."""

    thresholds: ClassVar[tuple[float, ...]] = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if len(self.thresholds) != count_thresholds(self):
            raise ValueError(
                f"label_manager in plans.json has {len(self.thresholds)} thresholds, this dataset needs "
                f"{count_thresholds(self)}; choose them again: nnunet-mamba calibrate"
            )

    @torch.inference_mode()
    def convert_probabilities_to_segmentation(self, predicted_probabilities: Any) -> Any:
        """(c *space) probabilities -> label map, like nnU-Net's with these thresholds instead of one half"""
        return with_thresholds(self, predicted_probabilities, self.thresholds)

    @torch.inference_mode()
    def convert_logits_to_segmentation(self, predicted_logits: Any) -> Any:
        """(c *space) logits -> label map"""
        probabilities: Any = self.apply_inference_nonlin(predicted_logits)
        if isinstance(predicted_logits, np.ndarray):
            probabilities = probabilities.cpu().numpy()
        return self.convert_probabilities_to_segmentation(probabilities)


def count_thresholds(manager: LabelManager) -> int:
    """How many this dataset has. Raises ValueError where there is nothing to choose."""
    if manager.has_regions:
        return manager.num_segmentation_heads
    if len(manager.foreground_labels) == 1:
        return 1
    raise ValueError(
        f"{len(manager.foreground_labels)} labels that exclude each other: the largest probability wins, and there is "
        "no threshold. Thresholds are for regions or for a single foreground label"
    )


def foreground(manager: LabelManager, probabilities: Any) -> Any:
    """(c *space) -> (thresholds *space): what the thresholds are compared with"""
    return probabilities if manager.has_regions else probabilities[1:]


def with_thresholds(manager: LabelManager, probabilities: Any, thresholds: Sequence[float]) -> Any:
    """(c *space) -> label map: regions painted in nnU-Net's order, later over earlier"""
    if probabilities.shape[0] != manager.num_segmentation_heads:
        raise ValueError(f"{probabilities.shape[0]} channels; expected {manager.num_segmentation_heads}")
    space = probabilities.shape[1:]
    if isinstance(probabilities, np.ndarray):
        segmentation: Any = np.zeros(space, np.uint16)
    else:
        segmentation = torch.zeros(space, dtype=torch.int16, device=probabilities.device)
    values = manager.regions_class_order if manager.has_regions else manager.foreground_labels
    for probability, threshold, value in zip(foreground(manager, probabilities), thresholds, values or (), strict=True):
        segmentation[probability > threshold] = value
    return segmentation
