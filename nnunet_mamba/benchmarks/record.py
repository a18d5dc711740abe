"""A file of figures that grows with every step, so that what was measured outlives a crash."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nnunet_mamba.whole_files import write_json


class Row(Protocol):
    """One measured line"""

    def as_json(self) -> dict[str, Any]: ...


@dataclass
class Record:
    """The machine, what was measured on it, and a row per measurement; written to `path` after each, if there is one"""

    path: Path | None
    content: dict[str, Any]
    rows: list[Any] = field(default_factory=list)

    def begin(self, machine: dict[str, Any], **more: Any) -> None:
        self.content |= {"machine": machine, **more, "rows": []}
        self._flush()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.content["rows"].append(row.as_json())
        self._flush()

    @property
    def has_a_wrong_result(self) -> bool:
        return any(row["note"].startswith("wrong") for row in self.content["rows"])

    def _flush(self) -> None:
        if self.path is not None:
            write_json(self.path, self.content)
