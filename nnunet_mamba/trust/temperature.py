"""One temperature for all logits (Guo et al. 2017): fitted where the truth is known, it makes probabilities mean what
they say. Above 1 the network is too sure of itself. Labels do not change, except where several models are averaged.

Voxels: those of the predicted or the true foreground and its border, at most `MOST_VOXELS` of a case, drawn at random.
Over the whole image, background that nobody doubts would make any network look calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import minimize_scalar

from nnunet_mamba.study.evaluation.intervals import CONFIDENCE, SEED

MOST_VOXELS = 4000
BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
RESAMPLES = 2000


@dataclass(frozen=True)
class Voxels:
    """Of one case. logits: (models n c). truth: (n) labels, or (n c) whether in each region."""

    logits: np.ndarray
    truth: np.ndarray

    @property
    def regions(self) -> bool:
        return self.truth.ndim == 2


@dataclass(frozen=True)
class Calibration:
    """temperature: fitted on all cases. before, after, gain: the error of cases held out, the last with an interval.

    bins_before, bins_after: of all these cases, as `in_bins` gives them.
    """

    temperature: float
    before: float
    after: float
    gain: float
    low: float
    high: float
    bins_before: np.ndarray
    bins_after: np.ndarray

    @property
    def is_certain(self) -> bool:
        """Whether the whole interval of the gain is above zero"""
        return self.low > 0


def probabilities(voxels: Voxels, temperature: float) -> np.ndarray:
    """(n c), averaged over the models"""
    scaled = voxels.logits.astype(np.float64) / temperature
    return (special.expit(scaled) if voxels.regions else special.softmax(scaled, -1)).mean(0)


def fit(cases: Sequence[Voxels]) -> float:
    """The temperature that makes the truth most likely. Raises ValueError without a voxel."""
    if not any(len(c.truth) for c in cases):
        raise ValueError("no voxel of foreground in prediction or truth: no temperature can be fitted")
    found = minimize_scalar(
        lambda log: sum(_surprise(c, math.exp(log)) for c in cases),
        bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return math.exp(float(found.x))


def calibrate(cases: Sequence[Voxels], groups: Sequence[str]) -> Calibration:
    """Error of every case with the temperature of the other groups. Raises ValueError for fewer than two groups."""
    if len(set(groups)) < 2:
        raise ValueError(f"{len(cases)} case: a temperature is judged on cases that it was not fitted on")
    of_group = {g: fit([c for c, of in zip(cases, groups, strict=True) if of != g]) for g in sorted(set(groups))}
    before = np.stack([in_bins(c, 1.0) for c in cases])
    after = np.stack([in_bins(c, of_group[g]) for c, g in zip(cases, groups, strict=True)])
    random = np.random.default_rng(SEED)
    chosen = random.integers(0, len(cases), (RESAMPLES, len(cases)))
    times = np.stack([np.bincount(c, minlength=len(cases)) for c in chosen])  # how often each case is in a resample
    gains = error(np.einsum("rc,ckb->krb", times, before)) - error(np.einsum("rc,ckb->krb", times, after))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(gains, [tail, 1 - tail])
    errors = float(error(before.sum(0))), float(error(after.sum(0)))
    return Calibration(fit(cases), *errors, errors[0] - errors[1], float(low), float(high), before.sum(0), after.sum(0))


def in_bins(voxels: Voxels, temperature: float) -> np.ndarray:
    """(3 bins): voxels, sum of their confidence, and how many are right, by confidence

    Of regions every voxel counts once per region, inside or outside.
    """
    p = probabilities(voxels, temperature)
    if voxels.regions:
        confidence, right = np.maximum(p, 1 - p).ravel(), ((p > 0.5) == voxels.truth).ravel()
    else:
        confidence, right = p.max(-1), p.argmax(-1) == voxels.truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(bins, w, BINS) for w in (np.ones(len(bins)), confidence, right)])


def error(bins: np.ndarray) -> np.ndarray:
    """(3 ... bins) -> (...): by how much confidence and share of right voxels differ, averaged over voxels

    The expected calibration error.
    """
    voxels, confidence, right = bins
    return np.abs(confidence - right).sum(-1) / np.maximum(voxels.sum(-1), 1)


def _surprise(voxels: Voxels, temperature: float) -> float:
    """Negative log-likelihood"""
    p = probabilities(voxels, temperature)
    if voxels.regions:
        likely = np.where(voxels.truth, p, 1 - p)
    else:
        likely = np.take_along_axis(p, voxels.truth.astype(int)[:, None], 1)
    return float(-np.log(np.maximum(likely, 1e-300)).sum())
