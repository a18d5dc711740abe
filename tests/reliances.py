"""The rows of docs/explanation/inside-nnunet.md, and what the tests of these rows share."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "inside-nnunet.md"
PAGE_NAME = "docs/explanation/inside-nnunet.md"
LINES_ARE_OF = "2.8.1"
ROW = re.compile(r"^\| (.+) \| (.+) \| (.+) \| (.+) \| `(test_\w+)` \|$", re.MULTILINE)
PLACE = re.compile(r"`([\w.]+)` `([\w/]+\.py):(\d+)`")

RELIANCES: list[str] = []
"""Names of the tests that are marked as the test of a row."""


@dataclass(frozen=True)
class Row:
    """One reliance, as the page tells it; `test` is its name too."""

    does: str
    ours: str
    theirs: str
    breaks: str
    test: str

    @property
    def places(self) -> list[tuple[str, str, int]]:
        """Of what is relied on: name, file, line"""
        return [(name, file, int(line)) for name, file, line in PLACE.findall(self.theirs)]


def rows() -> list[Row]:
    return [Row(*cells) for cells in ROW.findall(PAGE.read_text(encoding="utf-8"))]


def installed() -> str:
    return importlib.metadata.version("nnunetv2")


def reliance(test: Callable[..., None]) -> Callable[..., None]:
    """Marks the test of one row; when it fails, the message is that row."""
    RELIANCES.append(test.__name__)

    @functools.wraps(test)
    def told(*args: Any, **kwargs: Any) -> None:
        try:
            test(*args, **kwargs)
        except Exception as error:
            row = next((r for r in rows() if r.test == test.__name__), None)
            what = f"We {row.does} ({row.ours}). What breaks: {row.breaks}" if row else "It has no row"
            raise AssertionError(
                f"nnU-Net {installed()} is not what we rely on. {what}. See {PAGE_NAME}, row {test.__name__}. "
                f"{type(error).__name__}: {error}"
            ) from error

    return told


def source_of(thing: Any) -> str:
    """Of a function or class of nnU-Net, whoever has wrapped it"""
    return textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))


def nodes(thing: Any, kind: type[ast.AST]) -> list[Any]:
    return [node for node in ast.walk(ast.parse(source_of(thing))) if isinstance(node, kind)]


def calls(function: Any, name: str | None = None) -> list[ast.Call]:
    """Calls in a function's text, in the order in which they are made; of one dotted name or of all."""
    found = nodes(function, ast.Call)
    found.sort(key=lambda node: (node.end_lineno, node.end_col_offset))
    return [node for node in found if name in (None, ast.unparse(node.func))]


def called(function: Any) -> list[str]:
    return [ast.unparse(node.func) for node in calls(function)]


def arguments(call: ast.Call) -> list[str]:
    """Text of the positional ones, then `name=` of the others"""
    return [ast.unparse(a) for a in call.args] + [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]


def strings(function: Any) -> set[str]:
    return {node.value for node in nodes(function, ast.Constant) if isinstance(node.value, str)}


def text_of(function: Any) -> str:
    """Without comments, and in one way of writing"""
    return ast.unparse(ast.parse(source_of(function)))


def in_this_order(wanted: Iterable[str], found: Iterable[str]) -> bool:
    """Whether `wanted` is there, in its order, whatever else is between"""
    rest = iter(found)
    return all(name in rest for name in wanted)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def line_of(file: Path, name: str) -> int | None:
    """Where `Class.method`, a function or a class is defined in a file; None if it is not"""
    node: Any = ast.parse(file.read_text(encoding="utf-8"))
    for part in name.split("."):
        node = next((n for n in node.body if getattr(n, "name", None) == part), None)
        if node is None:
            return None
    return node.lineno
