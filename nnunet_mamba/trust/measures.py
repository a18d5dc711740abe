"""Numbers of one case that say how far the members of its prediction agree, and a map of where it is in doubt.

- Pairwise Dice: Dice between every two members, averaged over pairs, then over labels. The best of the simple measures
  in Zenk et al. 2025 (https://arxiv.org/abs/2406.03323).
- Entropy of the mean probabilities over its largest possible value, from 0 (sure) to 1 (all labels alike), averaged
  over the predicted foreground and the voxels around it. Over the whole image the mean would tell how much of the image
  is background, which is as good as certain everywhere: it would rank images by how tightly they are cropped.
- Spread of the volume: standard deviation of the members' volumes over their mean, averaged over labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
from scipy import ndimage

BORDER = 2
"""Voxels around the predicted foreground that count in the entropy: where a boundary is in doubt."""
PAIRWISE_DICE, ENTROPY, VOLUME_SPREAD = "pairwise_dice", "entropy", "volume_spread"
TITLES = {PAIRWISE_DICE: "pairwise Dice", ENTROPY: "entropy", VOLUME_SPREAD: "volume spread"}
SURE_IS_HIGH = frozenset({PAIRWISE_DICE})
"""Measures whose high values say that the members agree."""

Masks = Mapping[str, Sequence[int]]
"""Label or region -> the values of a label map in it."""


@dataclass(frozen=True)
class Measures:
    """Of one case; None where one member alone has no such number."""

    pairwise_dice: float | None
    entropy: float
    volume_spread: float | None

    def values(self) -> dict[str, float]:
        """By name, of those that there are"""
        return {name: value for name, value in asdict(self).items() if value is not None}


def measure(
    members: Sequence[np.ndarray], labels: np.ndarray, probabilities: np.ndarray, masks: Masks, regions: bool
) -> Measures:
    """members: their label maps; labels, probabilities: of their mean, (*space) and (c *space).

    regions: the probabilities are of regions that may overlap, not of labels that exclude each other.
    """
    apart = len(members) > 1
    return Measures(
        fmean(pairwise_dice(members, masks).values()) if apart else None,
        entropy_near(labels > 0, probabilities, regions),
        fmean(volume_spread(members, masks).values()) if apart else None,
    )


def mean_of(found: Sequence[Measures]) -> Measures:
    """Of the networks of a prediction, each measured by itself"""

    def mean(values: Iterable[float | None]) -> float | None:
        there = [v for v in values if v is not None]
        return fmean(there) if there else None

    return Measures(
        mean(m.pairwise_dice for m in found), fmean(m.entropy for m in found), mean(m.volume_spread for m in found)
    )


def doubt(name: str, value: float) -> float:
    """The measure turned so that more is worse"""
    return -value if name in SURE_IS_HIGH else value


def pairwise_dice(members: Sequence[np.ndarray], masks: Masks) -> dict[str, float]:
    """Per label the mean over pairs of members. 1 where both of a pair are empty, 0 where one is."""
    found: dict[str, float] = {}
    cut = [m[_box(members)] for m in members]
    for name, values in masks.items():
        of_members = [np.isin(m, values) for m in cut]
        sizes = [int(m.sum()) for m in of_members]
        pairs = itertools.combinations(range(len(members)), 2)
        found[name] = fmean(
            1.0 if sizes[i] + sizes[j] == 0
            else 2 * int(np.count_nonzero(of_members[i] & of_members[j])) / (sizes[i] + sizes[j])
            for i, j in pairs
        )  # fmt: skip
    return found


def volume_spread(members: Sequence[np.ndarray], masks: Masks) -> dict[str, float]:
    """Per label the members' standard deviation (of a population) over their mean; 0 where all are empty."""
    found: dict[str, float] = {}
    for name, values in masks.items():
        volumes = np.array([np.count_nonzero(np.isin(m, values)) for m in members], float)
        found[name] = float(volumes.std() / volumes.mean()) if volumes.any() else 0.0
    return found


def entropy_map(probabilities: np.ndarray, regions: bool) -> np.ndarray:
    """(c *space) -> (*space) from 0 to 1. Of regions the mean over them, each inside or outside."""
    p = np.clip(probabilities.astype(np.float32), 1e-12, 1.0)
    if not regions:
        return np.clip(-(p * np.log(p)).sum(0) / math.log(len(p)), 0, 1)
    q = np.clip(1 - p, 1e-12, 1.0)
    return np.clip(-(p * np.log(p) + q * np.log(q)).mean(0) / math.log(2), 0, 1)


def entropy_near(foreground: np.ndarray, probabilities: np.ndarray, regions: bool) -> float:
    """Its mean over the foreground and its border.

    Where nothing is predicted, its largest value anywhere: the place where something is most likely to be missing.
    """
    if not foreground.any():
        return float(entropy_map(probabilities, regions).max())
    near = around(foreground)
    return float(entropy_map(probabilities[:, near], regions).mean(dtype=np.float64))


def around(mask: np.ndarray) -> np.ndarray:
    """The mask and the voxels up to `BORDER` steps from it"""
    near = np.zeros(mask.shape, bool)
    for found in ndimage.find_objects(mask.astype(np.uint8)):
        box = tuple(slice(max(0, s.start - BORDER), s.stop + BORDER) for s in found)
        near[box] = ndimage.binary_dilation(mask[box], iterations=BORDER)
    return near


def _box(members: Sequence[np.ndarray]) -> tuple[slice, ...]:
    """Around what any member found"""
    anywhere = np.zeros(members[0].shape, np.uint8)
    for member in members:
        anywhere |= member > 0
    found = ndimage.find_objects(anywhere)
    return found[0] if found else (slice(0, 1),) * anywhere.ndim
