"""A grid of training settings as a JSON file, checked before anything is planned. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnunet_mamba.names import suffixes
from nnunet_mamba.planning.recipe_format import (
    MOST_BATCH,
    MOST_VOXELS,
    check_keys,
    is_name,
    is_number,
    is_patch,
    is_whole,
)
from nnunet_mamba.whole_files import read_object

SETTINGS = ("patch_size", "batch_size", "foreground_oversampling", "initial_lr", "loss")
KEYS = ("purpose", "plans", "configuration", "trainer", *SETTINGS)
MOST_VARIANTS = 200
EXAMPLE = {
    "plans": "nnUNetSegMambaPlans",
    "configuration": "3d_fullres",
    "trainer": "nnUNetTrainerSegMamba_50epochs",
    "patch_size": [[96, 96, 96], [128, 128, 96]],
    "batch_size": [2, 4],
    "foreground_oversampling": [0.33, 0.66],
    "initial_lr": [0.01, 0.001],
    "loss": ["Dice", "CE", "TopK10", "DiceTopK10"],
}


def load_grid(path: Path) -> dict[str, Any]:
    """A grid file. Raises ValueError naming what is unknown, missing, of another kind, or too much."""
    grid = read_object(path)
    check_keys(grid, KEYS, str(path))
    for key in ("configuration", "trainer"):
        if not isinstance(grid.get(key), str):
            raise ValueError(f"{path}: {key} is missing, for example {EXAMPLE[key]!r}")
    for key in ("configuration", "trainer", "plans"):
        if key in grid and not is_name(grid[key]):
            raise ValueError(f"{path}: {key}: {grid[key]!r}; expected a name, for example {EXAMPLE[key]!r}")
    if not isinstance(grid.get("purpose", ""), str):
        raise ValueError(f"{path}: purpose: {grid['purpose']!r}; expected a text")
    for key in SETTINGS:
        if key in grid:
            _check_values(path, key, grid[key])
    if not any(key in grid for key in SETTINGS):
        raise ValueError(f"{path}: nothing to vary; give at least one of {', '.join(SETTINGS)}")
    number = variants(grid)
    if number > MOST_VARIANTS:
        sizes = " x ".join(f"{len(grid[key])} {key}" for key in SETTINGS if key in grid)
        raise ValueError(
            f"{path}: {number} variants ({sizes}); at most {MOST_VARIANTS}, each is a training of its own: leave "
            "values out, or make several grids"
        )
    return grid


def variants(grid: Mapping[str, Any]) -> int:
    """How many combinations a grid has"""
    return math.prod(len(grid[key]) for key in SETTINGS if key in grid)


def _is_loss(value: Any) -> bool:
    return isinstance(value, str) and (
        value in suffixes.LOSSES or suffixes.DICE_CE_WEIGHTS.fullmatch(value) is not None
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "patch_size": (is_patch, f"2 or 3 whole numbers from 1 to {MOST_VOXELS}, voxels along x y z"),
    "batch_size": (lambda v: is_whole(v, MOST_BATCH), f"whole numbers > 0, at most {MOST_BATCH}"),
    "foreground_oversampling": (_is_share, "a share between 0 and 1"),
    "initial_lr": (lambda v: is_number(v) and 1e-9 <= v <= 100, "a number from 1e-9 to 100"),
    "loss": (_is_loss, f"one of {', '.join(suffixes.LOSSES)}, or weights like Dice1CE2"),
}
"""What a single value of each setting may be, and that in words"""


def _check_values(path: Path, key: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {key}: {values!r}; expected a list of values")
    allowed, words = ALLOWED[key]
    for place, value in enumerate(values):
        if not allowed(value):
            raise ValueError(f"{path}: {key} {value!r}; expected {words}")
        if value in values[:place]:
            raise ValueError(f"{path}: {key} {value!r} is there twice")
