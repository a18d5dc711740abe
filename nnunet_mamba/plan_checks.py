"""Labels and configurations that can be known to fail before a training starts, said at once and in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_labels(labels: Mapping[str, Any], regions_class_order: list[int] | None) -> None:
    """Raises ValueError for a dataset.json label set that nnU-Net cannot train on."""
    values: set[int] = set()
    regions = 0
    for name, value in labels.items():
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        if not numbers or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in numbers):
            raise ValueError(f'label "{name}" is {value!r}; expected a number >= 0 or, for a region, a list of numbers')
        regions += isinstance(value, (list, tuple)) and len(numbers) > 1
        values.update(numbers)
    if "background" not in labels or labels["background"] not in (0, [0]):
        raise ValueError(f'dataset.json labels {dict(labels)} need "background": 0')
    missing = sorted(set(range(max(values) + 1)) - values)
    if missing:
        raise ValueError(
            f"label values {sorted(values)} are not consecutive: {missing} missing. Renumber the label files and "
            f"dataset.json to 0..{len(values) - 1}"
        )
    if len(values) < 2:
        raise ValueError(f"dataset.json labels {dict(labels)} name no foreground")
    if "ignore" in labels and labels["ignore"] != max(values):
        raise ValueError(f'"ignore" is {labels["ignore"]}; nnU-Net expects it to be the highest value, {max(values)}')
    if regions:
        expected = sum(name not in ("background", "ignore") for name in labels)
        if regions_class_order is None or len(regions_class_order) != expected:
            raise ValueError(
                f"labels contain regions, so dataset.json needs regions_class_order with {expected} entries (one per "
                f"region, painted in that order, later over earlier); given: {regions_class_order}"
            )


def has_regions(labels: Mapping[str, Any]) -> bool:
    """Whether nnU-Net trains on regions: some label is a list of several values"""
    return any(isinstance(label, (list, tuple)) and len(label) > 1 for label in labels.values())


def check_configuration(name: str, configuration: Mapping[str, Any]) -> None:
    """Raises ValueError for a plan configuration whose numbers contradict each other."""
    patch, spacing = list(configuration["patch_size"]), list(configuration["spacing"])
    if len(patch) != len(spacing) or len(patch) not in (2, 3):
        raise ValueError(
            f"configuration {name}: patch_size {patch} and spacing {spacing} must have the same 2 or 3 entries"
        )
    if any(not isinstance(p, int) or p < 1 for p in patch):
        raise ValueError(f"configuration {name}: patch_size {patch}; expected whole numbers >= 1")
    if any(not s > 0 for s in spacing):
        raise ValueError(f"configuration {name}: spacing {spacing}; expected numbers > 0 (millimetres)")
    batch = configuration["batch_size"]
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"configuration {name}: batch_size {batch!r}; expected a whole number >= 1")
