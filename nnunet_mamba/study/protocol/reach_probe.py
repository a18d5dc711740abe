"""The datasets of a study of reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dataset_conversion import probe
from dataset_conversion.far_marker import FarMarker
from dataset_conversion.thin_tree import ThinTree
from nnunet_mamba.nnunet_folders import Dataset

FIRST_ID = 601
NO_AXIS = -1
"""Of a task that is the same along all"""


@dataclass(frozen=True)
class Probe:
    """options: of `nnunet-mamba convert probe`; number: the place in the recipe, from 0. Raises ValueError for options
    that are not allowed.
    """

    options: Mapping[str, Any]
    number: int

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in self.options.items() if name != "task"}
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in numbers.values()):
            raise ValueError(f"probes: {dict(self.options)}; expected whole numbers besides the task")
        allowed = self.task.facts()
        unknown = [name for name in numbers if name not in allowed]
        if unknown:
            raise ValueError(f"probes: unknown {', '.join(unknown)} in {dict(self.options)}; allowed: task, "
                             f"{', '.join(allowed)}")  # fmt: skip

    @cached_property
    def task(self) -> FarMarker | ThinTree:
        return probe.task_of(self.options)

    @property
    def dataset(self) -> str:
        return Dataset.of(FIRST_ID + self.number, self.task.name).name

    @property
    def axis(self) -> int:
        return self.task.axis if isinstance(self.task, FarMarker) else NO_AXIS

    @property
    def far(self) -> int:
        """Voxels that a network has to see: a distance, or the length of a curve"""
        return self.task.distance if isinstance(self.task, FarMarker) else self.task.length

    def command(self, cases: int) -> list[str]:
        """What makes it"""
        given = [text for name, value in self.options.items() for text in (f"--{name}", str(value))]
        number = str(Dataset(self.dataset).number)
        return ["nnunet-mamba", "convert", "probe", *given, "--cases", str(cases), "--unseen", "0", "-d", number]
