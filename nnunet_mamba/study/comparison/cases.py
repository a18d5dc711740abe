"""Patients and cohorts of cases, from the table that a conversion leaves in the dataset's folder or from a user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

FILE = "cases.csv"
COLUMNS = ("case", "patient", "cohort")


@dataclass(frozen=True)
class Groups:
    """Case -> patient and case -> cohort; cases without an entry are patients of their own, in no cohort."""

    patient: dict[str, str] = field(default_factory=dict)
    cohort: dict[str, str] = field(default_factory=dict)

    def patients(self, cases: Sequence[str]) -> list[str]:
        return [self.patient.get(case, case) for case in cases]

    def cohorts(self, cases: Sequence[str]) -> dict[str, list[str]]:
        """Cases of every cohort; empty if there are fewer than two"""
        names = sorted({self.cohort[c] for c in cases if c in self.cohort})
        found = {name: [c for c in cases if self.cohort.get(c) == name] for name in names}
        return found if len(found) > 1 else {}


def read_groups(path: Path, cases: Sequence[str]) -> Groups:
    """A CSV file with the columns case and patient or cohort or both.

    Raises ValueError for other columns, cases that are there twice, and a table that has none of the cases.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    unknown = [c for c in table.columns if c not in COLUMNS]
    if "case" not in table or unknown or len(table.columns) < 2:
        raise ValueError(f"{path}: columns {', '.join(table.columns)}; expected case and patient, cohort or both")
    names = [str(name) for name in table["case"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: {twice[0]} is there twice")
    if not set(names) & set(cases):
        raise ValueError(f"{path}: none of the compared cases is there, {cases[0]} for instance")
    columns = {name: dict(zip(table["case"], table[name], strict=True)) for name in table.columns if name != "case"}
    known = {name: {case: value for case, value in values.items() if value} for name, values in columns.items()}
    return Groups(known.get("patient", {}), known.get("cohort", {}))
