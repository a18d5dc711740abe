"""An error message that is known: its words, why it comes, what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """`examples`: literal lines as they are printed, the first the page's title; `pattern` must match each of them."""

    key: str
    examples: tuple[str, ...]
    pattern: str
    cause: str
    remedy: str

    def matches(self, text: str) -> bool:
        return re.search(self.pattern, text, re.IGNORECASE) is not None
