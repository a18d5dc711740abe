"""Volumes of some cases for the page's viewer: image, truth and predictions on one grid, as pictures in text."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

LONGEST = 144
"""Voxels along the longest side that is shown: a page must stay small enough to send."""
LARGEST_BYTE = 255
MARGIN_MM = 15.0
WINDOW = (0.5, 99.5)
"""Percentiles of the image that are black and white."""


@dataclass(frozen=True)
class ViewedCase:
    """Files of one case. image, truth: None where there is none to show."""

    name: str
    image: Path | None
    truth: Path | None
    predictions: Mapping[str, Path]


def encode(case: ViewedCase) -> dict[str, Any]:
    """JSON of the viewer: sizes along x y z (to the patient's left, back, head), mm per voxel, mosaics as PNG.

    values: label values, each at the place that stands for it in the mosaics; 0 at places that do not occur. truth:
    None where there is none.
    """
    predicted = [_oriented(p) for p in case.predictions.values()]
    truth = predicted[0] if case.truth is None else _oriented(case.truth)
    grid = _grid(truth, predicted)
    labels = {
        name: _resampled(_oriented(path), grid, sitk.sitkNearestNeighbor) for name, path in case.predictions.items()
    }
    picture = np.zeros(grid.GetSize()[::-1])
    if case.image is not None:
        image = sitk.Cast(_oriented(case.image), sitk.sitkFloat32)
        picture = _resampled(image, grid, sitk.sitkLinear, float(sitk.GetArrayViewFromImage(image).min()))
    low, high = np.percentile(picture, WINDOW)
    gray = np.clip((picture - low) / max(high - low, 1e-9) * 255, 0, 255)
    true = _resampled(truth, grid, sitk.sitkNearestNeighbor)
    values, (true, *coded) = _coded([true, *labels.values()])
    columns = math.ceil(math.sqrt(grid.GetSize()[2]))
    return {
        "name": case.name,
        "size": list(grid.GetSize()),
        "columns": columns,
        "mm": grid.GetSpacing()[0],
        "image": _mosaic(gray, columns),
        "values": values,
        "truth": None if case.truth is None else _mosaic(true, columns),
        "predictions": {name: _mosaic(volume, columns) for name, volume in zip(labels, coded, strict=True)},
    }


def _coded(volumes: list[np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    """Label values, and the volumes with their places: values as they are where a byte holds them all"""
    whole = [np.rint(volume).astype(np.int64) for volume in volumes]
    found = sorted({int(v) for volume in whole for v in np.unique(volume)} | {0})
    if found[0] >= 0 and found[-1] <= LARGEST_BYTE:
        return [v if v in found else 0 for v in range(found[-1] + 1)], whole
    values = [0, *(v for v in found if v)][: LARGEST_BYTE + 1]  # the first is the background
    places = {v: i for i, v in enumerate(values)}
    return values, [_placed(volume, places) for volume in whole]


def _placed(volume: np.ndarray, places: Mapping[int, int]) -> np.ndarray:
    found, inverse = np.unique(volume, return_inverse=True)
    last = max(places.values())  # of more values than a byte holds the rest look alike
    return np.array([places.get(int(v), last) for v in found])[inverse.reshape(volume.shape)]


def _oriented(path: Path) -> sitk.Image:
    """Axes along the patient's, so that planes have their names; 2d images become one slice"""
    image = sitk.ReadImage(str(path))
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return sitk.DICOMOrient(image, "LPS")


def _grid(truth: sitk.Image, predictions: list[sitk.Image]) -> sitk.Image:
    """An empty image of cubic voxels around everything that is labelled"""
    mask = sitk.GetArrayFromImage(truth) != 0
    for prediction in predictions:
        mask |= sitk.GetArrayFromImage(prediction) != 0
    spacing, size = np.array(truth.GetSpacing()), np.array(truth.GetSize())
    places = np.argwhere(mask)[:, ::-1] if mask.any() else np.array([[0, 0, 0], size - 1])
    margin = np.ceil(MARGIN_MM / spacing)
    first, last = np.maximum(places.min(0) - margin, 0), np.minimum(places.max(0) + margin, size - 1)
    extent = (last - first + 1) * spacing
    voxel = max(float(spacing.min()), float(extent.max()) / LONGEST)
    grid = sitk.Image([max(1, round(e / voxel)) for e in extent], sitk.sitkUInt8)
    corner = first - 0.5 + 0.5 * voxel / spacing  # the first voxels begin at the same place
    grid.SetOrigin(truth.TransformContinuousIndexToPhysicalPoint([float(c) for c in corner]))
    grid.SetDirection(truth.GetDirection())
    grid.SetSpacing([voxel] * 3)
    return grid


def _resampled(image: sitk.Image, grid: sitk.Image, interpolator: int, outside: float = 0.0) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), interpolator, outside))


def _mosaic(volume: np.ndarray, columns: int) -> str:
    """Slices (z y x) side by side in rows of `columns`, as a PNG in a data URL"""
    depth, height, width = volume.shape
    rows = math.ceil(depth / columns)
    sheet = np.zeros((rows * columns, height, width), np.uint8)
    sheet[:depth] = volume.astype(np.uint8)
    flat = sheet.reshape(rows, columns, height, width).transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    buffer = io.BytesIO()
    Image.fromarray(flat).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
