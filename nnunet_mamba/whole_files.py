"""Text and JSON files, written whole or not at all, and read with a message that names the file and what is wrong."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN = 80
"""Characters of a value in a message."""


def read_json(path: Path) -> Any:
    """Raises ValueError for a file that cannot be read, is not JSON, or has a name in an object twice."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ValueError naming the file and what is wrong."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {short(content)}; expected an object, {{...}}")
    return content


def short(value: Any) -> str:
    """A value as JSON writes it, cut where it is long"""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def write_text(path: Path, text: str) -> None:
    """The file whole, or as it was. Several processes may write it at once: one of them wins.

    Raises ValueError if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def write_json(
    path: Path, content: Mapping[str, Any] | Sequence[Any], indent: int | None = 4, allow_nan: bool = True
) -> None:
    """The same with JSON. allow_nan: NaN and infinity are written, as Python reads them."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=allow_nan) + "\n")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two alike, JSON's readers silently take the last"""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(f'"{twice}" is there twice')
    return dict(pairs)
