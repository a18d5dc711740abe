"""What can be known to fail before a training starts, said at once and in numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NNUNET_FOLDERS = {
    "nnUNet_raw": "datasets",
    "nnUNet_preprocessed": "its plans and preprocessed data",
    "nnUNet_results": "trained models",
}
"""Environment variable -> what nnU-Net keeps in the folder it names."""


def nnunet_folder(variable: str) -> Path:
    """The folder an environment variable of nnU-Net names. Raises ValueError if it is not set, or names a file."""
    return nnunet_folders(variable)[0]


def nnunet_folders(*variables: str) -> list[Path]:
    """The same for several. Raises ValueError with one line to type for all that are not set."""
    unset = [v for v in variables if not os.environ.get(v)]
    if unset:
        first, *others = unset
        nor = f", nor is {' or '.join(others)}" if others else ""
        raise ValueError(
            f"the environment variable {first} is not set{nor}; nnU-Net keeps {NNUNET_FOLDERS[first]} there. Type, "
            f"with your own folders: {export_line(*unset)}"
        )
    folders = [Path(os.environ[v]) for v in variables]
    for variable, folder in zip(variables, folders, strict=True):
        if folder.is_file():
            raise ValueError(f"{variable}={folder} is a file, not a folder: {export_line(variable)}")
    return folders


def export_line(*variables: str) -> str:
    """What to type where variables of nnU-Net are missing"""
    return "export " + " ".join(f"{v}=$HOME/nnunet/{v.removeprefix('nnUNet_')}" for v in variables)


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
