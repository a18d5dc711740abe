"""Overlap of two masks in voxels. Not both may be empty."""

from __future__ import annotations

import numpy as np


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |P and R| / (|P| + |R|)"""
    return float(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))


def iou(prediction: np.ndarray, reference: np.ndarray) -> float:
    """|P and R| / |P or R|"""
    return float((prediction & reference).sum() / (prediction | reference).sum())
