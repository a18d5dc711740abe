"""Metrics of one mask pair, each with its unit and its definition in words, and what empty masks give.

Distances are MONAI's; centre lines are skimage's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np

from nnunet_mamba.skeletons import skeleton
from nnunet_mamba.study.evaluation.area_weighted import INSTALL, hausdorff_of_areas
from nnunet_mamba.study.evaluation.distances import average, bounding_box, hausdorff, surface_dice
from nnunet_mamba.study.evaluation.empty_masks import EmptyRule as EmptyRule
from nnunet_mamba.study.evaluation.lesions import lesion_scores
from nnunet_mamba.study.evaluation.overlaps import dice, iou

Score = Callable[[np.ndarray, np.ndarray, Sequence[float]], float]
"""(prediction, reference, spacing in mm) of two masks of which neither is empty"""


@dataclass(frozen=True)
class Metric:
    """One metric, by what it does with empty masks.

    of_two: the value where neither mask is empty; best: where both are; worst: where one is (None: for distances, which
    you choose).
    """

    name: str
    unit: str
    definition: str
    of_two: Score
    best: float
    worst: float | None
    whole: bool = False
    """Whether the metric has rules of its own for empty masks."""

    @property
    def has_rule(self) -> bool:
        """Whether an empty mask gives a value that is set and not measured; volumes are measured"""
        return not self.whole or self.worst is not None


def value_by_rule(
    rule: EmptyRule, metric: Metric, any_mask: bool, shape: Sequence[int], spacing: Sequence[float]
) -> float:
    """Of a pair of which one mask is empty, or both. any_mask: whether one is not"""
    if not any_mask:
        return metric.best if rule.both == "best" else float("nan")
    if metric.worst is not None:
        return metric.worst
    if rule.one == "diagonal":
        return float(np.linalg.norm(np.multiply(shape, spacing)))
    return float(rule.one)


def score(
    metric: Metric, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], rule: EmptyRule
) -> float:
    """One metric of two masks of the same shape."""
    if metric.whole:
        return metric.of_two(prediction, reference, spacing)
    if not prediction.any() or not reference.any():
        return value_by_rule(rule, metric, bool(prediction.any() or reference.any()), prediction.shape, spacing)
    return metric.of_two(prediction, reference, spacing)


def find(names: Sequence[str]) -> list[Metric]:
    """Metrics by name; NSD2 is surface Dice at 2 mm. Raises ValueError naming the known ones."""
    found = []
    for name in names:
        tolerance = re.fullmatch(r"NSD(\d+(?:\.\d+)?)", name)
        if tolerance:
            found.append(_surface_dice(name, float(tolerance[1])))
        elif name in METRICS:
            if name == "HD95area" and find_spec("surface_distance") is None:
                raise ValueError(f"metric {name} {INSTALL}")
            found.append(METRICS[name])
        else:
            raise ValueError(f"metric {name!r}; expected some of {', '.join(METRICS)}, NSD1, NSD2, NSD0.5, ...")
    return found


def _dice(p: np.ndarray, r: np.ndarray, _: Sequence[float]) -> float:
    return dice(p, r)


def _iou(p: np.ndarray, r: np.ndarray, _: Sequence[float]) -> float:
    return iou(p, r)


def _volume(p: np.ndarray, _: np.ndarray, spacing: Sequence[float]) -> float:
    return float(int(p.sum()) * np.prod(spacing) / 1000)


def _volume_difference(p: np.ndarray, r: np.ndarray, spacing: Sequence[float]) -> float:
    return float((int(p.sum()) - int(r.sum())) * np.prod(spacing) / 1000)


def _surface_dice(name: str, tolerance: float) -> Metric:
    words = f"share of both surfaces within {tolerance:g} mm of the other, weighted by area (MONAI, sub-voxels)"
    return Metric(name, "", words, partial(surface_dice, tolerance), 1.0, 0.0)


def _cl_dice(p: np.ndarray, r: np.ndarray, _: Sequence[float]) -> float:
    box = bounding_box(p | r)
    p, r = p[box], r[box]
    skeletons = [(skeleton(mask), other) for mask, other in ((p, r), (r, p))]
    precision, sensitivity = ((s & other).sum() / max(1, s.sum()) for s, other in skeletons)
    return float(2 * precision * sensitivity / (precision + sensitivity)) if precision + sensitivity else 0.0


METRICS = {
    m.name: m
    for m in (
        Metric("Dice", "", "2 |P and R| / (|P| + |R|), voxels", _dice, 1.0, 0.0),
        Metric("IoU", "", "|P and R| / |P or R|, voxels", _iou, 1.0, 0.0),
        Metric("HD95", "mm", "larger of the two directed 95th percentiles between border voxels (MONAI); pooled or "
               "area-weighted definitions give other numbers", partial(hausdorff, 95), 0.0, None),
        Metric("HD95area", "mm", "larger of the two directed 95th percentiles between surface elements, weighted by "
               "area (surface-distance-based-measures; BraTS 2023)", partial(hausdorff_of_areas, 95), 0.0, None),
        Metric("HD", "mm", "largest distance between border voxels (MONAI)", partial(hausdorff, 100), 0.0, None),
        Metric("ASSD", "mm", "mean distance of all border voxels of both masks to the other border (MONAI)", average,
               0.0, None),
        _surface_dice("NSD1", 1.0),
        Metric("clDice", "", "harmonic mean of the shares of each mask's skeleton (skimage) that lie in the other "
               "mask; voxels, without spacing", _cl_dice, 1.0, 0.0),
        Metric("LesionDice", "", "mean Dice over lesions of more than 50 mm3 and false ones (0), after the rules of "
               "BraTS 2023", partial(lesion_scores, "Dice"), 1.0, 0.0, True),
        Metric("LesionHD95", "mm", "mean HD95 (MONAI's definition) over lesions of more than 50 mm3, 374 for missed "
               "and false ones, after the rules of BraTS 2023", partial(lesion_scores, "HD95"), 0.0, 374.0, True),
        Metric("Volume", "ml", "volume of the prediction", _volume, 0.0, None, True),
        Metric("VolumeDifference", "ml", "volume of the prediction less that of the reference", _volume_difference,
               0.0, None, True),
    )
}  # fmt: skip
