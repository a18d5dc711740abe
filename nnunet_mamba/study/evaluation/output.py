"""Where results go: asked for before anything is computed, written whole, and safe to open in a spreadsheet."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_mamba.whole_files import read_object, write_text

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that spreadsheets take for a formula."""


def writable_folder(path: Path, *names: str) -> Path:
    """The folder, made if it is not there. Raises ValueError if nothing can be written there, or not these files."""
    taken = [str(path / name) for name in names if (path / name).is_dir()]
    if taken:
        raise ValueError(f"{taken[0]}: a folder, where results are to be written; remove it or choose another -o")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"-o {path}: nothing can be written there: {error.strerror or error}") from None
    return path


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """The index's names as text: what begins like a formula gets an apostrophe before it."""
    safe = table.copy()
    safe.index = pd.MultiIndex.from_tuples(
        [tuple(map(as_text, names)) for names in table.index], names=table.index.names
    )
    write_text(path, safe.to_csv())


def as_text(name: Any) -> str:
    """A name that no spreadsheet calculates"""
    text = str(name)
    return f"'{text}" if text.startswith(FORMULA) else text


def keep_other_results(folder: Path, content: Mapping[str, Any]) -> list[str]:
    """Rename an earlier evaluation of other metrics, masks or rules; lines that say so."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return []
    try:
        earlier = read_object(path)
        same = all(earlier[key] == content[key] for key in ("definitions", "empty_masks", "masks"))
    except (ValueError, KeyError):
        same = False
    if same:
        return []
    number = next(n for n in range(1, 10**6) if not (folder / f"evaluation_{n}.json").exists())
    for ending in ("json", "csv"):
        if (folder / f"evaluation.{ending}").is_file():
            (folder / f"evaluation.{ending}").replace(folder / f"evaluation_{number}.{ending}")
    return [f"An earlier evaluation of other metrics, masks or rules is kept: {folder / f'evaluation_{number}.csv'}"]
