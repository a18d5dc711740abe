"""nnU-Net's rules for a dataset's labels, applied before anything is read, not after hours of conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 255
"""Label files are written as uint8."""
Labels = Mapping[str, int | list[int]]


def check_labels(labels: Any, order: Any = None) -> None:
    """labels: name -> value, or list of values for a region; order: regions_class_order. Raises ValueError for what
    nnU-Net refuses or cannot train on."""
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"labels {labels!r}; expected an object of names and values")
    for name, value in labels.items():
        _check_label(name, value)
    if labels.get("background") != 0:
        raise ValueError("labels: background must be there and 0")
    values = sorted(values_of(labels))
    if values != list(range(len(values))):
        missing = sorted(set(range(values[-1])) - set(values))
        raise ValueError(
            f"labels: values {values} are not consecutive, {missing} missing; number them 0 to {len(values) - 1}, with "
            "label_map where the files have others"
        )
    foreground = {v for name, label in labels.items() if name != "ignore" for v in numbers(label)} - {0}
    if not foreground:
        raise ValueError("labels: only background; name what is to be segmented")
    ignore = labels.get("ignore")
    if isinstance(ignore, list) or (ignore is not None and ignore <= max(foreground)):
        raise ValueError(f"labels: ignore is {ignore}; it must be one number, the highest of all")
    _check_regions(labels, order)


def _check_label(name: str, value: Any) -> None:
    if not name.strip() or not name.isprintable():
        raise ValueError(f"labels: {name!r} is not a name")
    own = numbers(value)
    if not own or not all(_is_whole(v) and 0 <= v <= LARGEST for v in own):
        raise ValueError(
            f"labels: {name} is {value!r}; expected a whole number from 0 to {LARGEST}, or a list of such for a region"
        )
    if len(set(own)) < len(own):
        raise ValueError(f"labels: {name} is {value!r}, with a value twice")


def _check_regions(labels: Labels, order: Any) -> None:
    regions = regions_of(labels)
    if not any(len(region) > 1 for region in regions):
        if order is not None:
            raise ValueError("regions_class_order: no label is a list of several values, so there are no regions")
        return
    if order is None:
        raise ValueError("labels with lists are regions; regions_class_order is missing")
    if not isinstance(order, list) or not all(map(_is_whole, order)):
        raise ValueError(f"regions_class_order {order!r}; expected a list of values")
    if len(order) != len(regions):
        raise ValueError(f"regions_class_order has {len(order)} values; expected {len(regions)}, one per region")
    outside = [v for v, region in zip(order, regions, strict=True) if v not in region]
    if outside:
        raise ValueError(
            f"regions_class_order {order}: {outside[0]} is not a value of its region; expected one of each of {regions}"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def misleading_order(labels: Labels, order: Sequence[int]) -> list[int]:
    """Values that, painted by nnU-Net in this order, get the value of other regions than their own."""
    regions = regions_of(labels)
    wrong = []
    for value in sorted(values_of(labels) - {0}):
        inside = [value in region for region in regions]
        painted = [c for c, is_in in zip(order, inside, strict=True) if is_in]
        if painted and [painted[-1] in region for region in regions] != inside:
            wrong.append(value)
    return wrong


def regions_of(labels: Labels) -> list[list[int]]:
    """Values of every label that nnU-Net makes a channel of, in its order"""
    return [numbers(label) for name, label in labels.items() if name != "ignore" and set(numbers(label)) != {0}]


def values_of(labels: Labels) -> set[int]:
    """All values that label files may have"""
    return {v for label in labels.values() for v in numbers(label)}


def numbers(label: int | list[int]) -> list[int]:
    """A label's or region's values"""
    return label if isinstance(label, list) else [label]
