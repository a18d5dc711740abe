"""The bootstrap confidence interval of a mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE, RESAMPLES, SEED = 0.95, 10_000, 0


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Bias-corrected and accelerated (Efron 1987); NaN where the values do not vary and nothing can be said."""
    values = np.asarray(values, float)
    if len(values) < 2 or np.ptp(values) == 0:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, rng=np.random.default_rng(SEED)
    ).confidence_interval
    return float(found.low), float(found.high)
