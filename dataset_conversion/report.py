"""What was found, repaired, warned about and refused, for machines and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataset_conversion.declare import REFUSED, REPAIRED, WARNING, Case, Dataset, Problem

LEVELS = (REFUSED, REPAIRED, WARNING)
MOST_SHOWN = 20
ANY = "(dataset)"
"""In the place of a case: the whole of them. No case can have this name."""


def printable(text: str) -> str:
    """In one line of what UTF-8 can hold: names of files may be anything"""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Report:
    """The outcome. cases: those that are (or would be) written."""

    dataset: Dataset
    found: int
    cases: tuple[Case, ...]
    folds: int
    problems: tuple[Problem, ...]

    @property
    def refused_cases(self) -> set[str]:
        return {p.case for p in self.problems if p.level == REFUSED}

    @property
    def is_convertible(self) -> bool:
        """Whether anything is left when refused cases are left out"""
        return ANY not in self.refused_cases

    def as_json(self) -> dict[str, Any]:
        """Without paths of this machine's time or order: equal input gives an equal report"""
        return {
            "dataset": self.dataset.folder,
            "found": self.found,
            "training": sum(not c.is_test for c in self.cases),
            "test": sum(c.is_test for c in self.cases),
            "folds": self.folds,
            "notes": list(self.dataset.notes),
            **{level: self._entries(level) for level in LEVELS},
        }

    def _entries(self, level: str) -> list[dict[str, str]]:
        return [
            {"case": printable(p.case), "what": printable(p.text)} for p in sorted(self.problems) if p.level == level
        ]

    def summary(self) -> str:
        """A page to read"""
        made = self.as_json()
        lines = [
            f"{made['dataset']}: {made['found']} cases found, {made['training']} for training, {made['test']} for "
            f"test, {made['folds']} folds",
            *(f"  note: {note}" for note in made["notes"]),
        ]
        for level in LEVELS:
            entries: Sequence[dict[str, str]] = made[level]
            if entries:
                n_cases = len(Counter(e["case"] for e in entries))
                lines.append(f"  {level}: {len(entries)} in {n_cases} {'case' if n_cases == 1 else 'cases'}")
                lines += [f"    {e['case']}: {e['what']}" for e in entries[:MOST_SHOWN]]
                if len(entries) > MOST_SHOWN:
                    lines.append(f"    ... and {len(entries) - MOST_SHOWN} more, in the JSON report")
        return "\n".join(lines)
