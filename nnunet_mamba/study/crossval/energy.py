"""Energy of a command, if codecarbon is installed: of the whole machine, so run nothing else at the same time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

ENERGY = "energy"
"""Folder of the records, one per step."""


@contextlib.contextmanager
def measured(target: Path) -> Iterator[None]:
    """Append codecarbon's record of what runs meanwhile to `target`, a CSV file; do nothing where it is missing."""
    try:
        from codecarbon import EmissionsTracker  # pyright: ignore[reportMissingImports]
    except ImportError:
        yield
        return
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    target.parent.mkdir(parents=True, exist_ok=True)
    tracker = EmissionsTracker(
        project_name=target.stem, output_dir=str(target.parent), output_file=target.name, log_level="error",
        allow_multiple_runs=True, on_csv_write="append",
    )  # fmt: skip
    tracker.start()
    try:
        yield
    finally:
        tracker.stop()
