"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table; a vertical bar in a cell is escaped."""
    return "\n".join(line(cells) for cells in (head, ["---"] * len(head), *rows))


def line(cells: Sequence[str]) -> str:
    """One line of a table, for tables that grow"""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Text that is shown as it is, whatever names are in it: no tag, entity, link, picture, emphasis or mathematics.

    A vertical bar stays: it means something in a table only, which escapes it.
    """
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"[\\`*\[\]$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
