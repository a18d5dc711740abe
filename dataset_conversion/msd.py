"""Datasets of the Medical Segmentation Decathlon, whose images hold their channels along a fourth axis.

What is written is what nnU-Net's own converter, nnUNetv2_convert_MSD_dataset, writes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.declare import REFUSED, WARNING, Case, Dataset, Found, Problem
from dataset_conversion.find import by_stem, clean, marked_folder, twice
from dataset_conversion.labels import check_labels, values_of
from dataset_conversion.report import ANY

TASK = re.compile(r"Task(\d{2,3})_([A-Za-z0-9]+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own"""


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError if there is no task or its dataset.json is not one of the Decathlon's."""
    root = marked_folder(source, lambda f: (f / "dataset.json").is_file() and (f / "imagesTr").is_dir(), "MSD task")
    match = TASK.fullmatch(root.name)
    if match is None or not int(match[1]) > 0:
        raise ValueError(f"{root}: expected a folder named like Task04_Hippocampus, as released")
    text = _load(root / "dataset.json")
    labels = by_stem(root / "labelsTr")
    images, tests = by_stem(root / "imagesTr"), by_stem(root / "imagesTs")
    problems = [*twice(labels, clean), *twice(images, clean), *twice(tests, clean)]
    cases = [Case(clean(n), paths[:1], _first(labels.get(n)), stacked=True) for n, paths in images.items()]
    cases += [Case(clean(n), paths[:1], None, is_test=True, stacked=True) for n, paths in tests.items()]
    for name, paths in labels.items():
        if name not in images:
            problems.append(Problem(REFUSED, clean(name), f"{paths[0]}: a label without image"))
    for name in text["training"]:
        if name not in images and name not in labels:
            problems.append(Problem(REFUSED, clean(name), f"{root}: in its dataset.json, but neither image nor label"))
    for name in text["test"]:
        if name not in tests:
            problems.append(Problem(WARNING, ANY, f"{root}: the test image {name} of its dataset.json is not there"))
    dataset = Dataset(
        name=match[2],
        id=int(match[1]),
        channels=text["channels"],
        labels=text["labels"],
        label_map={v: v for v in values_of(text["labels"])},
        licence=str(text.get("licence", "CC BY-SA 4.0")),
        source=str(text.get("reference", "http://medicaldecathlon.com")),
        citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022",
    )
    return Found(dataset, tuple(cases), tuple(problems), source=source)


def _first(paths: tuple[Path, ...] | None) -> Path | None:
    return None if paths is None else paths[0]


def _load(path: Path) -> dict[str, Any]:
    """dataset.json with labels name -> value, channels in order, and names of cases for training and test"""
    try:
        text = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(text, dict):
        raise ValueError(f"{path}: expected an object with modality and labels")
    try:
        channels = _numbered(text, "modality")
        labels = {name: value for value, name in _numbered(text, "labels").items()}
        if len(labels) < len(text["labels"]):
            raise ValueError("labels: a name twice")
        check_labels(labels)
        if list(channels) != list(range(len(channels))):
            raise ValueError(f"modality: numbers {list(channels)}; expected 0, 1, ...")
        listed = {part: _listed(text, part) for part in ("training", "test")}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return {**text, "channels": tuple(channels.values()), "labels": labels, **listed}


def _numbered(text: Mapping[str, Any], key: str) -> dict[int, str]:
    """{"0": "background", ...} in the order of its numbers"""
    known = text.get(key)
    if not isinstance(known, dict) or not known or not all(isinstance(v, str) and v for v in known.values()):
        raise ValueError(f'{key} is {known!r}; expected an object like {{"0": "name"}}')
    wrong = [k for k in known if not re.fullmatch(r"[0-9]{1,3}", k)]
    if wrong:
        raise ValueError(f'{key}: {wrong[0]!r} is not a number; expected an object like {{"0": "name"}}')
    return {int(k): known[k] for k in sorted(known, key=int)}


def _listed(text: Mapping[str, Any], part: str) -> list[str]:
    """Names of the cases that dataset.json lists"""
    names = []
    entries = text.get(part, [])
    if not isinstance(entries, list):
        raise ValueError(f"{part}: expected a list of paths of images")
    for entry in entries:
        path = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(path, str):
            raise ValueError(f"{part}: {entry!r}; expected paths of images")
        names.append(re.sub(r"\.nii(\.gz)?$", "", path.rsplit("/", 1)[-1]))
    return names
