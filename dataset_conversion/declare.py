"""What a dataset is, and what one of its cases is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CT = "CT"
"""nnU-Net normalises a channel of exactly this name as computed tomography; "CTA" would silently get z-scores."""


@dataclass(frozen=True)
class Case:
    """One case of a download. label: None only for test cases. Cases of one patient never go to different folds;
    folds are balanced over strata (cohorts, grades). stacked: all channels are in one file, along its fourth axis."""

    id: str
    images: tuple[Path, ...]
    label: Path | None
    is_test: bool = False
    patient: str = ""
    stratum: str = ""
    stacked: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        return self.images if self.label is None else (*self.images, self.label)


@dataclass(frozen=True)
class Dataset:
    """A dataset as nnU-Net shall see it.

    labels: name -> value, or list of values for a region; regions_class_order as in nnU-Net's dataset.json.
    label_map: value in the files -> value written; nothing else may occur in the files.
    orientation: what the axes of its images are known to point to (nibabel's letters), None if not known.
    lowest: smaller image values are padding and become this, None: values stay.
    """

    name: str
    id: int
    channels: tuple[str, ...]
    labels: Mapping[str, int | list[int]]
    label_map: Mapping[int, int]
    licence: str
    source: str
    citation: str
    regions_class_order: tuple[int, ...] | None = None
    orientation: str | None = None
    lowest: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return f"Dataset{self.id:03d}_{self.name}"

    def dataset_json(self, n_training: int) -> dict[str, Any]:
        """nnU-Net's description. Its order of labels matters: regions are painted in it."""
        made: dict[str, Any] = {
            "channel_names": {str(i): name for i, name in enumerate(self.channels)},
            "labels": dict(self.labels),
            "numTraining": n_training,
            "file_ending": ".nii.gz",
            "name": self.name,
            "licence": self.licence,
            "reference": self.source,
            "citation": self.citation,
        }
        if self.regions_class_order is not None:
            made["regions_class_order"] = list(self.regions_class_order)
        return made


@dataclass(frozen=True)
class Options:
    """How to convert. See `python -m dataset_conversion NAME --help`."""

    jobs: int = 1
    skip_incomplete: bool = False
    trust_array: bool = False
    nan_to_zero: bool = False
    prefer: str | None = None
    fix_shear: bool = False
    keep_duplicates: bool = False
    link: str | None = None
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """Options of one dataset: split, year, ..."""


@dataclass(frozen=True)
class Found:
    """What a dataset's file found in a download. folds: None: folds are made from patients and strata."""

    dataset: Dataset
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...] = ()
    folds: tuple[Mapping[str, list[str]], ...] | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON files of the dataset's folder, by name."""
    source: Path | None = None
    """The download, in which nothing may be written."""


@dataclass(frozen=True, order=True)
class Problem:
    """Something to tell. level: "refused" (the case cannot be used), "repaired", "warning"."""

    level: str
    case: str
    text: str


REFUSED, REPAIRED, WARNING = "refused", "repaired", "warning"
