"""Everything about one case that must hold before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.declare import REFUSED, REPAIRED, WARNING, Case, Dataset, Options, Problem
from dataset_conversion.grid import Geometry, UnreadableError, Volume
from dataset_conversion.volumes import read, read_stack

ROUND = 1e-3
"""Float labels this near to an integer are meant to be it."""
FLOAT32 = float(np.finfo(np.float32).max)
EXACT = 2**24
"""Up to which float32 holds every whole number"""
MOST_SHOWN = 8
FEW = 1000


Tell = Callable[[str, str], None]
"""Reports a problem: its level, and what it is."""


@dataclass(frozen=True)
class Checked:
    """What is known of a case after reading all its files. digest, label: of the voxels of its images and of its label,
    to find duplicates."""

    case: Case
    problems: tuple[Problem, ...]
    grid: Geometry | None = None
    digest: str = ""
    label: str = ""
    values: tuple[int, ...] = ()

    @property
    def is_usable(self) -> bool:
        return not any(p.level == REFUSED for p in self.problems)


def check_case(case: Case, dataset: Dataset, options: Options) -> Checked:
    """Read every file of a case and say what is wrong. Never raises for what is in the files."""
    problems: list[Problem] = []

    def tell(level: str, text: str) -> None:
        problems.append(Problem(level, case.id, text))

    channels = f"expected {len(dataset.channels)}: {', '.join(dataset.channels)}"
    if len(case.images) != (1 if case.stacked else len(dataset.channels)):
        tell(REFUSED, f"{len(case.images)} images; {channels}")
    if case.label is None and not case.is_test:
        tell(REFUSED, "no label")
    grid: Geometry | None = None
    digests, label = [], ""
    values: tuple[int, ...] = ()
    for path, is_label in ((p, p is case.label) for p in case.files):
        volumes = _read(path, case.stacked and not is_label, options, tell)
        if not volumes:
            continue
        if case.stacked and not is_label and len(volumes) != len(dataset.channels):
            tell(REFUSED, f"{path}: {len(volumes)} images in it; {channels}")
        for repair in volumes[0].repairs:
            tell(REPAIRED, repair)
        if grid is None:
            grid = volumes[0].geometry
            _check_orientation(path, grid, dataset, tell)
        else:
            _check_grid(path, volumes[0].geometry, grid, options, tell)
        if is_label:
            label = volumes[0].digest()
            values = check_label(path, volumes[0], dataset.label_map, tell)
        else:
            for volume in volumes:
                _check_image(path, volume, dataset, options, tell)
            digests += [volume.digest() for volume in volumes]
    if label in digests:
        tell(REFUSED, f"{case.label}: the label holds the same voxels as an image")
    if len(set(digests)) < len(digests):
        tell(WARNING, "two of its images hold the same voxels")
    return Checked(case, tuple(problems), grid, " ".join(digests), label, values)


def volumes_of(path: Path, stacked: bool, options: Options) -> tuple[Volume, ...]:
    """What a file of a case holds: one volume, or one per channel. Raises UnreadableError."""
    if stacked:
        return read_stack(path, options.prefer, options.fix_shear)
    return (read(path, options.prefer, options.fix_shear),)


def _read(path: Path, stacked: bool, options: Options, tell: Tell) -> tuple[Volume, ...]:
    try:
        return volumes_of(path, stacked, options)
    except UnreadableError as error:
        tell(REFUSED, str(error))
    except MemoryError:
        tell(REFUSED, f"{path}: not enough memory to read it")
    return ()


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
    if apart <= first.same:
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
        beyond = 0
        if volume.array.dtype.itemsize > 4:
            beyond = int(np.count_nonzero(np.isfinite(volume.array) & (np.abs(volume.array) > FLOAT32)))
        if beyond:
            tell(REFUSED, f"{path}: {beyond} voxels beyond {FLOAT32:.2g}, the largest number of float32")
    elif volume.array.dtype.itemsize > 2 and (volume.array.max() > EXACT or volume.array.min() < -EXACT):
        tell(WARNING, f"{path.name}: whole numbers beyond {EXACT}, which are written as float32 and may lose units")
    if dataset.lowest is not None:
        below = int(np.count_nonzero(volume.array < dataset.lowest))
        if below:
            tell(REPAIRED, f"{path.name}: {below} voxels below {dataset.lowest:g}, padding; set to {dataset.lowest:g}")


def check_label(path: Path, volume: Volume, allowed: Mapping[int, int], tell: Tell) -> tuple[int, ...]:
    """Different values of a label file, after telling what is wrong with them"""
    array = volume.array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            tell(REFUSED, f"{path}: a label with NaN or infinite voxels")
            return ()
        off = float(np.abs(array - np.rint(array)).max())
        if off > ROUND:
            tell(REFUSED, f"{path}: labels are not whole numbers (up to {off:.3g} off)")
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
    if most - least >= FEW:
        return tuple(int(v) for v in np.unique(array))
    flat = array.reshape(-1)
    inside = flat[flat != 0]
    if inside.dtype.kind == "i":  # differences may not fit into small types
        inside = inside.astype(np.int64)
    counts = np.bincount((inside - inside.dtype.type(least)).astype(np.int64))
    found = {int(v) + least for v in np.flatnonzero(counts)}
    return tuple(sorted(found | {0} if inside.size < flat.size else found))


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
        array = _at_least(array, dataset.lowest)
    if array.dtype.newbyteorder("=") in (np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32)):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "iu":
        limits = np.iinfo(np.int16)
        if limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(np.int16)
    return array.astype(np.float32)


def _at_least(array: np.ndarray, lowest: float) -> np.ndarray:
    """Values below `lowest` set to it, in a type that holds both; the array itself if there are none"""
    if array.min() >= lowest:
        return array
    if array.dtype.kind != "f":
        limits = np.iinfo(array.dtype)
        if not (float(lowest).is_integer() and limits.min <= lowest <= limits.max):
            array = array.astype(np.float64)
    return np.maximum(array, array.dtype.type(lowest))
