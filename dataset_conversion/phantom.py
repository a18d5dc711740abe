"""Invented volumes: shapes of known contrast in noise, the same to the last bit on every machine.

All numbers are whole numbers from the start, drawn by PCG64, so that no machine's rounding is in them.
"""

from __future__ import annotations

import numpy as np

BACKGROUND = 200
"""Mean of the noise: far enough from 0 for nnU-Net, which cuts away borders of zeros"""
CURVE, LANDMARK = 80, 160
"""What tubes and curves, and what markers and roots are brighter by"""
DRAWS, TOP = 4, 34
"""The noise of a voxel is the sum of so many whole numbers from 0 to TOP: nearly normal, standard deviation 20."""


def random_of(seed: int, part: int, number: int) -> np.random.Generator:
    """Of one case: the same whatever cases there are besides. part: 0 training, 1 unseen"""
    return np.random.Generator(np.random.PCG64([seed, part, number]))


def noisy(random: np.random.Generator, contrast: np.ndarray) -> np.ndarray:
    """int16 image of a contrast, with noise of mean BACKGROUND and standard deviation 20.2, any shape"""
    noise = np.full(contrast.shape, BACKGROUND - DRAWS * TOP // 2, np.int16)
    for _ in range(DRAWS):
        noise += random.integers(0, TOP + 1, contrast.shape, dtype=np.uint8)
    return noise + contrast.astype(np.int16)


def checked(name: str, value: int, least: int, most: int, unit: str = "voxels") -> int:
    """Raises ValueError, naming the option, for a value outside of what is allowed."""
    if not least <= value <= most:
        raise ValueError(f"--{name} {value}: expected {least} to {most}{f' {unit}' if unit else ''}")
    return value


def round_up(value: int, step: int) -> int:
    """The next multiple of step"""
    return -(-value // step) * step
