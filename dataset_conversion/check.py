"""Everything about one case that must hold before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.declare import REFUSED, REPAIRED, WARNING, Case, Dataset, Options, Problem
from dataset_conversion.volumes import SAME, Geometry, UnreadableError, Volume, read

ROUND = 1e-3
"""Float labels this near to an integer are meant to be it."""
MOST_SHOWN = 8
FEW = 1000


Tell = Callable[[str, str], None]
"""Reports a problem: its level, and what it is."""


@dataclass(frozen=True)
class Checked:
    """What is known of a case after reading all its files. digest: of its image voxels, to find duplicates."""

    case: Case
    problems: tuple[Problem, ...]
    grid: Geometry | None = None
    digest: str = ""
    values: tuple[int, ...] = ()

    @property
    def is_usable(self) -> bool:
        return not any(p.level == REFUSED for p in self.problems)


def check_case(case: Case, dataset: Dataset, options: Options) -> Checked:
    """Read every file of a case and say what is wrong. Never raises for what is in the files."""
    problems: list[Problem] = []

    def tell(level: str, text: str) -> None:
        problems.append(Problem(level, case.id, text))

    if len(case.images) != len(dataset.channels):
        tell(REFUSED, f"{len(case.images)} images; expected {len(dataset.channels)}: {', '.join(dataset.channels)}")
    if case.label is None and not case.is_test:
        tell(REFUSED, "no label")
    grid: Geometry | None = None
    digests = []
    values: tuple[int, ...] = ()
    for path in case.files:
        volume = _read(path, options, tell)
        if volume is None:
            continue
        for repair in volume.repairs:
            tell(REPAIRED, repair)
        if grid is None:
            grid = volume.geometry
            _check_orientation(path, grid, dataset, tell)
        else:
            _check_grid(path, volume.geometry, grid, options, tell)
        if path == case.label:
            values = _check_label(path, volume, dataset.label_map, tell)
        else:
            _check_image(path, volume, dataset, options, tell)
            digests.append(volume.digest())
    return Checked(case, tuple(problems), grid, " ".join(digests), values)


def _read(path: Path, options: Options, tell: Tell) -> Volume | None:
    try:
        return read(path, options.prefer, options.fix_shear)
    except UnreadableError as error:
        tell(REFUSED, str(error))
    except MemoryError:
        tell(REFUSED, f"{path}: not enough memory to read it")
    return None


def _check_orientation(path: Path, grid: Geometry, dataset: Dataset, tell: Tell) -> None:
    if dataset.orientation is not None and grid.orientation != dataset.orientation:
        tell(
            WARNING,
            f"{path}: axes point to {grid.orientation}; {dataset.name} has {dataset.orientation}. Kept as it is: check "
            "that it is not a wrong header",
        )


def _check_grid(path: Path, grid: Geometry, first: Geometry, options: Options, tell: Tell) -> None:
    if grid.shape != first.shape:
        tell(REFUSED, f"{path}: on another grid, {_size(grid)} voxels; the case's first image has {_size(first)}")
        return
    apart = grid.distance(first)
    if apart == 0:
        return
    if apart <= SAME:
        tell(REPAIRED, f"{path.name}: {apart:.1g} mm off the first image; takes its geometry")
    elif options.trust_array:
        tell(REPAIRED, f"{path.name}: {apart:.3g} mm off the first image; takes its geometry (--trust-array)")
    else:
        tell(
            REFUSED,
            f"{path}: lies up to {apart:.3g} mm off the case's first image though the sizes are equal; if the voxels "
            "belong together, --trust-array gives it the first image's geometry",
        )


def _check_image(path: Path, volume: Volume, dataset: Dataset, options: Options, tell: Tell) -> None:
    if volume.array.dtype.kind == "f":
        bad = int(np.count_nonzero(~np.isfinite(volume.array)))
        if bad and options.nan_to_zero:
            tell(REPAIRED, f"{path.name}: {bad} voxels are not finite numbers; set to 0 (--nan-to-zero)")
        elif bad:
            tell(REFUSED, f"{path}: {bad} voxels are NaN or infinite; --nan-to-zero sets them to 0")
    if dataset.lowest is not None:
        below = int(np.count_nonzero(volume.array < dataset.lowest))
        if below:
            tell(REPAIRED, f"{path.name}: {below} voxels below {dataset.lowest:g}, padding; set to {dataset.lowest:g}")


def _check_label(path: Path, volume: Volume, allowed: Mapping[int, int], tell: Tell) -> tuple[int, ...]:
    array = volume.array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            tell(REFUSED, f"{path}: a label with NaN or infinite voxels")
            return ()
        off = float(np.abs(array - np.rint(array)).max())
        if off > ROUND:
            tell(REFUSED, f"{path}: labels are no whole numbers (up to {off:.3g} off)")
            return ()
        if off > 0:
            tell(REPAIRED, f"{path.name}: labels up to {off:.1g} off whole numbers; rounded")
    values = _values(np.rint(array) if array.dtype.kind == "f" else array)
    wrong = [v for v in values if v not in allowed]
    if wrong:
        shown = ", ".join(map(str, wrong[:MOST_SHOWN])) + (", ..." if len(wrong) > MOST_SHOWN else "")
        tell(REFUSED, f"{path}: label values {shown}; allowed: {', '.join(map(str, sorted(allowed)))}")
    if values == (0,):
        tell(WARNING, f"{path.name}: the label is empty")
    return values


def _values(array: np.ndarray) -> tuple[int, ...]:
    """Different values, sorted. Label maps have few and small ones, which can be counted; sorting voxels is slow."""
    least, most = int(array.min()), int(array.max())
    if most - least < FEW:
        counts = np.bincount((array.reshape(-1) - array.dtype.type(least)).astype(np.int64))
        return tuple(int(v) + least for v in np.flatnonzero(counts))
    return tuple(int(v) for v in np.unique(array))


def _size(grid: Geometry) -> str:
    return "x".join(map(str, grid.shape))


def label_array(volume: Volume, label_map: Mapping[int, int]) -> np.ndarray:
    """Checked labels as uint8 in the values that are written."""
    array = volume.array
    if array.dtype.kind == "f":
        array = np.rint(array)
    made = np.zeros(array.shape, np.uint8)
    for source, target in label_map.items():
        if target:
            made[array == source] = target
    return made


def image_array(volume: Volume, dataset: Dataset, options: Options) -> np.ndarray:
    """Checked image voxels in a type that holds them: small integers as they are, whole numbers as int16 where they
    fit, all else float32."""
    array = volume.array
    if array.dtype.kind == "f" and options.nan_to_zero:
        array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    if dataset.lowest is not None:
        array = np.maximum(array, np.asarray(dataset.lowest, array.dtype))
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.newbyteorder("=") in (np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32)):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "iu":
        limits = np.iinfo(np.int16)
        if limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(np.int16)
    return array.astype(np.float32)
