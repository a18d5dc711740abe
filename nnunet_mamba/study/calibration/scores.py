"""Overlap of one case's probabilities with the truth, at all thresholds of a grid at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRID = np.round(np.arange(0.02, 0.99, 0.02), 2)
"""Thresholds tried; a voxel is foreground where its probability is larger. One half is among them."""
DEFAULT = 0.5


def _f_score(beta: float) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    """F-beta: recall weighs beta times as much as precision (van Rijsbergen 1979, chapter 7); beta 1 is Dice."""

    def score(hits: np.ndarray, predicted: np.ndarray, true: float) -> np.ndarray:
        return (1 + beta**2) * hits / (predicted + beta**2 * true)

    return score


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "Dice": _f_score(1.0),
    "IoU": lambda hits, predicted, true: hits / (predicted + true - hits),
    "F2": _f_score(2.0),
    "F0.5": _f_score(0.5),
}


def overlap(metric: str, hits: np.ndarray, predicted: np.ndarray, true: float) -> np.ndarray:
    """The metric from voxel counts: in both, in the prediction, in the truth. 1 where both masks are empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        score = METRICS[metric](hits.astype(float), predicted.astype(float), float(true))
    return np.where((predicted == 0) & (true == 0), 1.0, score)


def over_thresholds(metric: str, probability: np.ndarray, truth: np.ndarray, grid: np.ndarray = GRID) -> np.ndarray:
    """The metric of `probability > t` against a mask of the same shape, for every t of the grid (ascending)."""
    # how many thresholds each voxel is above; in the probabilities' own type, as nnU-Net compares them
    above = np.searchsorted(grid.astype(probability.dtype), probability.ravel(), side="left")
    inside = np.bincount(above[truth.ravel()], minlength=len(grid) + 1)
    everywhere = np.bincount(above, minlength=len(grid) + 1)
    hits, predicted = (counts[::-1].cumsum()[::-1][1:] for counts in (inside, everywhere))
    return overlap(metric, hits, predicted, int(truth.sum()))
