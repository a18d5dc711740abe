"""nnU-Net's predictor, which also keeps what it averages: the networks of a prediction, and their mirrored passes.

No pass is made that nnU-Net does not make, and what is returned is what nnU-Net returns. It averages mirrored passes
window by window; here they go through its sliding window next to their mean, as further channels. So while one network
predicts, results take 2 bytes per voxel and channel for every pass and for the mean. What stays of a network is a label
map per pass (1 byte per voxel) and the probabilities of the mean (2 bytes per voxel and channel), all at the resolution
of the preprocessed image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

FEW_LABELS = 255
"""Up to this number, a label map takes one byte per voxel, as in nnU-Net."""


@dataclass(frozen=True)
class NetworkPrediction:
    """What one network made of a case, all over the same voxels.

    passes: a label map per mirrored pass, one where there is no mirroring.
    labels, probabilities: of the mean of the passes; (*space), and float16 (c *space).
    """

    passes: tuple[np.ndarray, ...]
    labels: np.ndarray
    probabilities: np.ndarray


class MemberPredictor(nnUNetPredictor):
    """Predicts as nnU-Net does. Afterwards `networks` holds one entry per network, in the order of the folds.

    keep_passes: False keeps networks apart and not their passes, for images that fill the memory.
    """

    def __init__(self, *args: Any, keep_passes: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.keep_passes = keep_passes
        self.networks: list[NetworkPrediction] = []

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """(c *space) image -> (c *space) logits, averaged over the networks"""
        self.networks = []
        return super().predict_logits_from_preprocessed_data(data)

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: torch.Tensor) -> torch.Tensor:
        """(c *space) image -> (c *space) logits of the network that is loaded"""
        manager: Any = self.label_manager
        heads = manager.num_segmentation_heads
        extra = len(self._flips) if self._apart else 0
        # all that the sliding window asks of a label manager: how many channels the results have
        self.label_manager = SimpleNamespace(num_segmentation_heads=heads * (1 + extra))  # type: ignore[assignment]
        try:
            wide: Any = super().predict_sliding_window_return_logits(input_image)
        finally:
            self.label_manager = manager
        mean, *passes = wide.split(heads)
        self.networks.append(network_prediction(mean, passes, manager))
        return mean.clone() if passes else mean  # the channels of the passes go

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        if not self._apart:
            return super()._internal_maybe_mirror_and_predict(x)
        network: Any = self.network
        passes = [torch.flip(network(torch.flip(x, axes)), axes) for axes in self._flips]
        mean = passes[0].clone()
        for mirrored in passes[1:]:  # in nnU-Net's order, so that not a bit differs
            mean += mirrored
        mean /= len(passes)
        return torch.cat([mean, *passes], 1)

    @property
    def _apart(self) -> bool:
        return self.keep_passes and len(self._flips) > 1

    @property
    def _flips(self) -> list[tuple[int, ...]]:
        """Axes of a batch that each pass mirrors, none first, as nnU-Net orders them"""
        axes = [a + 2 for a in (self.allowed_mirroring_axes or ()) if self.use_mirroring]
        return [c for count in range(len(axes) + 1) for c in itertools.combinations(axes, count)]


def network_prediction(mean: torch.Tensor, passes: Sequence[torch.Tensor], manager: LabelManager) -> NetworkPrediction:
    """From (c *space) logits of the mean and of each pass, none where the mean is of one pass."""
    labels = label_map(manager.convert_logits_to_segmentation(mean), manager)
    apart = tuple(label_map(manager.convert_logits_to_segmentation(p), manager) for p in passes)
    probabilities: Any = manager.apply_inference_nonlin(mean)
    return NetworkPrediction(apart or (labels,), labels, probabilities.to("cpu", torch.float16).numpy())


def mean_prediction(networks: Sequence[NetworkPrediction], manager: LabelManager) -> tuple[np.ndarray, np.ndarray]:
    """Label map and float32 probabilities (c *space) of the mean of the networks' probabilities"""
    mean = networks[0].probabilities.astype(np.float32)
    for network in networks[1:]:
        mean += network.probabilities
    mean /= len(networks)
    return label_map(manager.convert_probabilities_to_segmentation(mean), manager), mean


def label_map(labels: Any, manager: LabelManager) -> np.ndarray:
    """As small as the labels allow, on the CPU"""
    small = np.uint8 if len(manager.foreground_labels) < FEW_LABELS else np.uint16
    return np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels).astype(small)
