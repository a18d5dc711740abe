"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """`state`: ok, note (works, could be better) or problem. `remedy`: what to type or change; "" where nothing is."""

    area: str
    name: str
    state: str
    text: str
    remedy: str = ""
