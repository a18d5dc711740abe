"""Warnings where a scan is unlike those that the model was trained on, or its labels look cut off.

nnU-Net keeps a fingerprint of the training data beside every model: voxel sizes, sizes after cropping, and intensities
of what is segmented. A scan outside of it can still be predicted, and the labels may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset_conversion.grid import Geometry
from nnunet_mamba.prediction.scans import Scan

TOLERANCE = 1.1
"""By which factor a size may lie outside of what the training had: a little outside is nothing to warn of."""
NEGATIVE = 0.05
"""Share of the training's range of intensities below 0 that noise and interpolation may reach."""
AXES = ("z", "y", "x")
SIDES = {"L": "left", "R": "right", "A": "front", "P": "back", "S": "upper", "I": "lower", "?": "one"}
OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S", "?": "?"}
CT = "CTNormalization"


@dataclass(frozen=True)
class Known:
    """What the training data were like; None or empty where that is not known.

    orientations: of the axes, in nibabel's letters, for instance LPS. turns: whether the model's reader turns every
    image to one of them itself.
    """

    channels: tuple[str, ...]
    schemes: tuple[str, ...]
    spacings: np.ndarray | None
    extents: np.ndarray | None
    intensities: tuple[Mapping[str, float] | None, ...]
    orientations: tuple[str, ...] = ()
    turns: bool = False

    @classmethod
    def of(
        cls, fingerprint: Mapping[str, Any] | None, channels: Sequence[str], schemes: Sequence[str],
        orientations: Sequence[str] = (), turns: bool = False,
    ) -> Known:  # fmt: skip
        """fingerprint: nnU-Net's dataset_fingerprint.json; schemes: how each channel is normalised"""
        content = fingerprint or {}
        spacings, shapes = _table(content.get("spacings")), _table(content.get("shapes_after_crop"))
        extents = spacings * shapes if spacings is not None and shapes is not None else None
        of_channels = content.get("foreground_intensity_properties_per_channel")
        numbers = [_numbers(of_channels.get(str(k))) if isinstance(of_channels, Mapping) else None
                   for k in range(len(channels))]  # fmt: skip
        return cls(tuple(channels), tuple(schemes), spacings, extents, tuple(numbers), tuple(orientations), turns)


def of_scan(scan: Scan, known: Known, turned: bool = False) -> list[str]:
    """What is unlike the training data before anything is predicted. turned: it will be seen as these lay."""
    orientation = [] if turned else _orientation(scan.grid, known)
    return [*scan.notes, *_spacing(scan.grid, known), *orientation, *_intensities(scan, known)]


def of_size(shape: Sequence[int], spacing: Sequence[float], known: Known) -> list[str]:
    """shape: after nnU-Net's cropping; spacing: mm, along the same axes, which are the fingerprint's"""
    if known.extents is None:
        return []
    extent = np.multiply(shape, spacing)
    low, high = known.extents.min(0), known.extents.max(0)
    outside = [a for a in range(3) if not low[a] / TOLERANCE <= extent[a] <= high[a] * TOLERANCE]
    if not outside:
        return []
    told = [f"{extent[a]:.0f} mm along {AXES[a]} (training: {low[a]:.0f} to {high[a]:.0f})" for a in outside]
    return [f"size without the empty surroundings: {', '.join(told)}"]


def of_labels(
    labels: np.ndarray, channels: Sequence[np.ndarray], masks: Mapping[str, Sequence[int]], grid: Geometry, known: Known
) -> list[str]:
    """labels, channels: z y x on one grid; masks: label or region -> its values"""
    if not labels.any():
        return ["nothing was found: no voxel has a label"]
    return [*_at_border(labels, masks, grid), *_foreground(labels > 0, channels, known)]


def _spacing(grid: Geometry, known: Known) -> list[str]:
    if known.spacings is None:
        return []
    own = np.sort(grid.spacing)  # sizes without their axes: a turned scan has its own warning
    sorted_ = np.sort(known.spacings, 1)
    low, high = sorted_.min(0), sorted_.max(0)
    if all(low / TOLERANCE <= own) and all(own <= high * TOLERANCE):
        return []
    return [f"voxels of {_by(own)} mm, smallest side first; training: {_by(low)} to {_by(high)} mm"]


def _orientation(grid: Geometry, known: Known) -> list[str]:
    if not known.orientations or grid.orientation in known.orientations:
        return []
    return [
        f"orientation {grid.orientation}; training: {', '.join(known.orientations)}. nnU-Net does not turn images: "
        "left and right, or up and down, may be taken for each other; --turn turns it, and its labels back"
    ]


def _intensities(scan: Scan, known: Known) -> list[str]:
    found = []
    for number, (low, _, high) in enumerate(scan.intensities):
        of_training, name = known.intensities[number], known.channels[number]
        if of_training is None:
            continue
        typical, least, most = (of_training[k] for k in ("median", "percentile_00_5", "percentile_99_5"))
        told = f"{name}: intensities {low:.4g} to {high:.4g}"
        trained = f"what the model finds had {least:.4g} to {most:.4g} in training, mostly about {typical:.4g}"
        is_ct = known.schemes[number] == CT
        # other images are normalised one by one, and scanners of MR have scales of their own
        if not low <= typical <= high if is_ct else high < least or low > most:
            found.append(f"{told}, but {trained}: another modality, unit or scale?{_better(scan, number, known)}")
        elif is_ct and low >= 0:
            found.append(f"{told}: no air or fat, which are below 0 in Hounsfield units; is it CT, and not rescaled?")
        elif not is_ct and of_training["min"] >= 0 and low < -NEGATIVE * (most - least):
            found.append(f"{told}, but {trained} and nothing below 0: another modality?{_better(scan, number, known)}")
    return found


def _better(scan: Scan, number: int, known: Known) -> str:
    """Which other channel this looks like, where files were given in another order"""
    low, _, high = scan.intensities[number]
    for other, of_training in enumerate(known.intensities):
        if other != number and of_training is not None and low <= of_training["median"] <= high:
            mine, (its_low, _, its_high) = known.intensities[number], scan.intensities[other]
            if mine is not None and its_low <= mine["median"] <= its_high:
                return f" It looks like {known.channels[other]}: are the channels in the right order?"
    return ""


def _at_border(labels: np.ndarray, masks: Mapping[str, Sequence[int]], grid: Geometry) -> list[str]:
    ends = []
    for axis in range(3):
        if labels.shape[axis] < 2:
            continue
        towards = grid.orientation[::-1][axis]
        for place, side in ((0, OPPOSITE[towards]), (-1, towards)):
            seen = set(np.unique(np.take(labels, place, axis))) - {0}
            touching = [name for name, values in masks.items() if seen & set(values)]
            if touching:
                ends.append(f"{', '.join(touching)} at the {SIDES[side]} end")
    return [f"labels touch the border of the scan ({'; '.join(ends)}): what lies beyond is not counted"] if ends else []


def _foreground(mask: np.ndarray, channels: Sequence[np.ndarray], known: Known) -> list[str]:
    found = []
    for number, image in enumerate(channels):
        of_training = known.intensities[number]
        if of_training is None:
            continue
        typical = float(np.median(image[mask]))
        ends = ("percentile_00_5", "percentile_99_5") if known.schemes[number] == CT else ("min", "max")
        least, most = (of_training[k] for k in ends)
        if not least <= typical <= most:
            found.append(
                f"{known.channels[number]}: what was found has intensities about {typical:.4g}; in training "
                f"{least:.4g} to {most:.4g}"
            )
    return found


def _table(value: Any) -> np.ndarray | None:
    """Cases by three axes; None for anything else"""
    try:
        table = np.array(value, dtype=float)
    except (TypeError, ValueError):
        return None
    return table if table.ndim == 2 and table.shape[1] == 3 and len(table) else None


def _numbers(value: Any) -> Mapping[str, float] | None:
    keys = ("median", "min", "max", "percentile_00_5", "percentile_99_5")
    if not isinstance(value, Mapping) or not all(isinstance(value.get(k), (int, float)) for k in keys):
        return None
    return {k: float(value[k]) for k in keys}


def _by(sizes: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{s:.3g}" for s in sizes)
