"""Datasets as planners see them: names, a fingerprint, images that nobody looks into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

DATASET = "Dataset321_Planned"
SHAPES = {"isotropic": ([60, 70, 50], [1, 1, 1]), "anisotropic": ([24, 160, 160], [4, 0.5, 0.5]),
          "large": ([300, 300, 300], [1, 1, 1]), "2d": ([1, 120, 100], [999, 1, 1]),
          "thin": ([20, 320, 320], [3.6, 0.6, 0.6])}  # fmt: skip


def write_dataset(
    root: Path,
    shape: Sequence[int],
    spacing: Sequence[float],
    channels: int = 1,
    labels: dict[str, Any] | None = None,
    cases: int = 200,
) -> Path:
    """The preprocessed folder of a dataset below root/nnUNet_raw and root/nnUNet_preprocessed."""
    raw, preprocessed = root / "nnUNet_raw" / DATASET, root / "nnUNet_preprocessed" / DATASET
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
    tiny = sitk.GetImageFromArray(np.zeros((2, 2, 2), np.float32))
    for i in range(5):
        for channel in range(channels):
            sitk.WriteImage(tiny, str(raw / "imagesTr" / f"case{i}_{channel:04d}.nii.gz"))
        sitk.WriteImage(tiny, str(raw / "labelsTr" / f"case{i}.nii.gz"))
    information = {"channel_names": {str(c): "MRI" for c in range(channels)}, "numTraining": cases,
                   "labels": labels or {"background": 0, "a": 1}, "file_ending": ".nii.gz"}  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(information))
    fingerprint = {"spacings": [list(spacing)] * 5, "shapes_after_crop": [list(shape)] * 5,
                   "median_relative_size_after_cropping": 1.0,
                   "foreground_intensity_properties_per_channel": {}}  # fmt: skip
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return preprocessed
