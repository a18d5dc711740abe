"""AIIB 2023: airways in CT of fibrotic lungs, 120 training cases."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.declare import CT, REFUSED, Case, Dataset, Found, Problem
from dataset_conversion.find import marked_folder, numbered, twice

AIIB23 = Dataset(
    name="AIIB23",
    id=513,
    channels=(CT,),
    labels={"background": 0, "airway": 1},
    label_map={0: 0, 1: 1},
    licence="registration and agreement; may not be passed on",
    source="https://codalab.lisn.upsaclay.fr/competitions/13238",
    citation="Nan et al., Hunting imaging biomarkers in pulmonary fibrosis: Benchmarks of the AIIB23 challenge, 2024",
)
NAME = re.compile(r"AIIB23_([0-9]+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own"""


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError for another layout than the release's."""
    root = marked_folder(source, lambda f: (f / "img").is_dir() and (f / "gt").is_dir(), "AIIB23 release (img and gt)")
    (images, told), (labels, more) = numbered(root / "img", NAME), numbered(root / "gt", NAME)
    cases = [Case(_id(n), paths[:1], labels[n][0] if n in labels else None) for n, paths in images.items()]
    problems = [*told, *more, *twice(images, _id), *twice(labels, _id)]
    problems += [
        Problem(REFUSED, _id(n), f"{paths[0]}: a label without image") for n, paths in labels.items() if n not in images
    ]
    return Found(AIIB23, tuple(cases), tuple(problems), source=source)


def _id(number: str) -> str:
    return f"AIIB23_{int(number):03d}"
