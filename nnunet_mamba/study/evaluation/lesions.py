"""Scores per lesion instead of per case, after the rules of the BraTS 2023 glioma challenge.

Written from the rules: connected components (26 neighbours) of the reference are one lesion where they touch after
three dilations; each is compared with all predicted components that its dilated form meets; lesions up to 50 mm3 do not
count; predicted components that meet no lesion are false ones, with a Dice of 0 and a distance of 374 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_mamba.study.evaluation.distances import hausdorff
from nnunet_mamba.study.evaluation.overlaps import dice

DILATIONS, SMALLEST_MM3, PENALTY_MM = 3, 50.0, 374.0
NEIGHBOURS = ndimage.generate_binary_structure(3, 3)
GROWTH = ndimage.generate_binary_structure(3, 2)


def lesion_scores(kind: str, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> float:
    """Mean "Dice" or "HD95" over lesions and false ones; 1 or 0 where both masks are empty. 3d masks only."""
    if prediction.ndim != 3:
        raise ValueError(f"lesion-wise scores are defined in 3d; these masks have {prediction.ndim} axes")
    best, worst = (1.0, 0.0) if kind == "Dice" else (0.0, PENALTY_MM)
    if not prediction.any() and not reference.any():
        return best
    predicted, count = _components(prediction)
    lesions = _lesions(reference)
    scores, met = [], set()
    for lesion in range(1, int(lesions.max()) + 1):
        mask = lesions == lesion
        grown = np.asarray(ndimage.binary_dilation(mask, GROWTH, DILATIONS), bool)
        found = set(np.unique(predicted[grown])) - {0}
        met |= found
        if mask.sum() * np.prod(spacing) <= SMALLEST_MM3:
            continue  # too small to count, and so is what was found of it
        scores.append(_score(kind, np.isin(predicted, list(found)), mask, spacing) if found else worst)
    scores += [worst] * (count - len(met))
    return float(np.mean(scores)) if scores else best


def _lesions(reference: np.ndarray) -> np.ndarray:
    """Components, those that touch after dilation under one number"""
    grown = np.asarray(ndimage.binary_dilation(reference, GROWTH, DILATIONS), bool)
    return _components(grown)[0] * reference


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbered from 1, and how many"""
    numbered: Any = ndimage.label(mask, NEIGHBOURS)
    return numbered


def _score(kind: str, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> float:
    if kind == "Dice":
        return dice(prediction, reference)
    return hausdorff(95, prediction, reference, spacing)
