"""nnU-Net's own predictor, given a model's networks, and how far it is.

The steps are those of `nnUNetv2_predict`, in one process: preprocessing, sliding windows, resampling, writing. Weights
are read without running code that a checkpoint may hold, and given to the predictor.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.prediction.onednn import through_onednn
from nnunet_mamba.trust.maps import write_map
from nnunet_mamba.trust.measures import entropy_map
from nnunet_mamba.trust.members import MemberPredictor, NetworkPrediction, mean_prediction

OVERLAP_AS_NNUNET = 0.5
"""Distance of windows as a share of the patch"""
Advance = Callable[[], object]


def default_device() -> str:
    """A GPU where torch sees one"""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_in_words(device: torch.device, asked: bool) -> str:
    """asked: whether the user has chosen it"""
    if device.type == "cuda":
        return f"on the GPU ({torch.cuda.get_device_name(device)})"
    s = "" if torch.get_num_threads() == 1 else "s"
    why = "" if asked or torch.cuda.is_available() else ": torch sees no CUDA device"
    return f"on the {device.type.upper()}, {torch.get_num_threads()} thread{s}{why}"


@dataclass(frozen=True)
class Apart:
    """What is kept of a prediction before it is averaged: every network, and their mirrored passes if asked for.

    manager: by which they become labels; the model's own may have other thresholds.
    """

    manager: Any
    passes: bool


def _lower_precision(network: torch.nn.Module) -> None:
    """Norms and scans stay in float32, as under autocast in a training"""
    forward = network.forward

    def in_bfloat16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(x).float()

    network.forward = in_bfloat16


class Predictor:
    """A model on a device. advance: called whenever the network has been run. apart: None keeps the mean alone.

    step: distance of the windows as a share of the patch. bf16: convolutions and products in bfloat16, on a CPU.
    onednn: convolutions through oneDNN, on a CPU. It predicts with the model's folds and mirrored axes.
    """

    def __init__(
        self,
        model: TrainedModel,
        device: torch.device,
        advance: Advance = lambda: None,
        apart: Apart | None = None,
        step: float = OVERLAP_AS_NNUNET,
        bf16: bool = False,
        onednn: bool = False,
    ):
        self.model, self.advance, self.step = model, advance, step
        options: dict[str, Any] = {"tile_step_size": step, "device": device, "allow_tqdm": False}
        with contextlib.redirect_stdout(io.StringIO()):  # it tells people with a CPU what they have not asked
            self._nnunet = (
                nnUNetPredictor(**options) if apart is None else MemberPredictor(**options, keep_passes=apart.passes)
            )
        network = model.network(model.folds[0])
        network.register_forward_hook(lambda *_: self._advance())
        if bf16:
            _lower_precision(network)
        if onednn:
            through_onednn(network)
        self._nnunet.manual_initialization(
            network, model.manager, model.planned, [model.weights(fold) for fold in model.folds], model.dataset_json,
            model.trainer, model.mirroring or None,
        )  # fmt: skip
        if apart is not None:
            self._nnunet.label_manager = apart.manager
        self._reader = model.manager.image_reader_writer_class()

    def _advance(self) -> None:
        self.advance()

    def labels(
        self, files: Sequence[Path], expect: Callable[[int], object] = lambda runs: None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Labels as the model's reader has its axes (mostly z y x), and the properties that its writer needs.

        expect: told how often the network will be run for this case, once that is known.
        Raises ValueError where the device's memory is not enough, and for what nnU-Net's reader refuses.
        """
        model = self.model
        try:
            preprocessor = model.planned.preprocessor_class(verbose=False)
            data, _, properties = preprocessor.run_case(
                [str(f) for f in files], None, model.manager, model.planned, model.dataset_json
            )
            data = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
            expect(self._runs(tuple(data.shape[1:])))
            logits = self._nnunet.predict_logits_from_preprocessed_data(data).cpu().detach().numpy()
            labels: Any = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, model.manager, model.planned, model.labels, properties
            )
        except torch.cuda.OutOfMemoryError:
            raise ValueError("the GPU's memory is not enough for this image; -device cpu has more") from None
        finally:
            compute_gaussian.cache_clear()
        return labels, properties

    def write(self, labels: np.ndarray, file: Path, properties: dict[str, Any]) -> None:
        """By the model's writer, with the geometry of the image it was predicted from"""
        self._reader.write_seg(labels, str(file), properties)

    @property
    def networks(self) -> list[NetworkPrediction]:
        """Of the last case, kept apart"""
        assert isinstance(self._nnunet, MemberPredictor), "nothing was kept apart"
        return self._nnunet.networks

    def write_uncertainty(self, file: Path, properties: dict[str, Any]) -> None:
        """Of the last case, in percent, on the grid of its image. Raises ValueError where it cannot be written"""
        manager: Any = self._nnunet.label_manager
        _, mean = mean_prediction(self.networks, manager)
        write_map(entropy_map(mean, manager.has_regions), properties, self._nnunet, file)

    def runs_for(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """How often the network will be run for an image, at most. shape, spacing (mm): along the reader's axes"""
        return self._runs(self.size_for(shape, spacing))

    def size_for(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
        """Voxels at the model's spacing, along the network's axes"""
        forward = self.model.manager.transpose_forward
        size, voxel = [shape[a] for a in forward], [spacing[a] for a in forward]
        target = list(self.model.planned.spacing)
        target = [voxel[0]] * (3 - len(target)) + target
        return tuple(int(n) for n in compute_new_shape(size, voxel, target))

    def _runs(self, shape: tuple[int, ...]) -> int:
        patch = self.model.patch
        flat = 3 - len(patch)
        size = [max(n, p) for n, p in zip(shape[flat:], patch, strict=True)]
        steps = compute_steps_for_sliding_window(tuple(size), patch, self.step)
        windows = math.prod(map(len, steps)) * (shape[0] if flat else 1)
        return windows * 2 ** len(self.model.mirroring) * len(self.model.folds)
