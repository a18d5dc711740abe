"""HD95 weighted by surface area, as the BraTS 2023 challenge has it: DeepMind's package, in the extra [official]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

INSTALL = "needs surface-distance-based-measures: pip install 'nnunet-mamba[official]'"


def hausdorff_of_areas(
    percentile: float, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> float:
    """Larger of the two directed percentiles of distances between surface elements. Neither mask may be empty."""
    from surface_distance import metrics

    distances = metrics.compute_surface_distances(reference, prediction, list(spacing))
    return float(metrics.compute_robust_hausdorff(distances, percentile))
