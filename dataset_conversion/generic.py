"""Any folder of images and labels, described by a small JSON file. Covers private data."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.declare import REFUSED, WARNING, Case, Dataset, Found, Problem
from dataset_conversion.description import CASE, load
from dataset_conversion.find import check_folder, clean, is_junk
from dataset_conversion.labels import misleading_order, values_of
from dataset_conversion.report import ANY, printable

EXAMPLE = {
    "name": "Colon",
    "id": 530,
    "images": {"CT": "{case}/ct.nii.gz"},
    "label": "{case}/tumour.nii.gz",
    "labels": {"background": 0, "tumour": 1},
    "patient": "^(P\\d+)_",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--describe", type=Path, metavar="JSON", help="what is where; required")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"""Any folder of images and labels, described by --describe FILE:
{json.dumps(EXAMPLE, indent=2)}

images: channel name -> path below -i with {CASE} for the case's name; nnU-Net normalises a channel named CT as CT,
others by z-score. test_images: the same for cases without labels. patient, stratum: regular expressions on the case's
name whose first group says whose it is and what to balance folds over. label_map: value in the files -> value written.
labels: a list of values makes a region; then regions_class_order is needed, as in nnU-Net's dataset.json."""


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError for a description that is incomplete, that nnU-Net would refuse, or that matches nothing."""
    if options.get("describe") is None:
        raise ValueError("--describe JSON is missing; see `convert generic --help` for an example")
    text = load(Path(options["describe"]))
    check_folder(source)
    files = sorted(
        p.relative_to(source).as_posix() for p in source.rglob("*")
        if p.is_file() and not any(is_junk(part) for part in p.relative_to(source).parts)
    )  # fmt: skip
    cases, problems = _cases(source, files, text, text["images"], text["label"])
    if not cases:
        shown = [printable(file) for file in files[:3]]
        raise ValueError(f"{source}: no file matches {next(iter(text['images'].values()))!r}; found {shown}, ...")
    if "test_images" in text:
        tests, told = _cases(source, files, text, text["test_images"], None)
        cases, problems = [*cases, *tests], [*problems, *told]
    order = text.get("regions_class_order")
    wrong = misleading_order(text["labels"], order) if order else []
    if wrong:
        told = f"regions_class_order {order}: painted so, label {wrong[0]} becomes one of other regions"
        problems.append(Problem(WARNING, ANY, told))
    values = values_of(text["labels"])
    label_map = text.get("label_map", {v: v for v in values})
    lost = sorted(values - set(label_map.values()))
    if lost:
        problems.append(Problem(WARNING, ANY, f"label_map: nothing becomes {lost[0]}, which labels have"))
    dataset = Dataset(
        name=text["name"],
        id=text.get("id", 530),
        channels=tuple(text["images"]),
        labels=text["labels"],
        label_map={int(k): v for k, v in label_map.items()},
        regions_class_order=None if order is None else tuple(order),
        licence=text.get("licence", ""),
        source=text.get("source", ""),
        citation=text.get("citation", ""),
        orientation=text.get("orientation"),
        lowest=text.get("lowest"),
    )
    return Found(dataset, tuple(cases), tuple(problems), source=source)


def _cases(
    source: Path, files: list[str], text: Mapping[str, Any], images: Mapping[str, str], label: str | None
) -> tuple[list[Case], list[Problem]]:
    """Cases with a file of any channel or a label; what is missing of them the checks tell."""
    known = set(files)
    patterns = [*images.values(), *([label] if label is not None else [])]
    names = sorted({match["case"] for p in patterns for file in files if (match := _pattern(p).fullmatch(file))})
    cases, problems = [], []
    for name in names:
        paths = [image.replace(CASE, name) for image in images.values()]
        own = None if label is None else label.replace(CASE, name)
        if not known & set(paths):
            problems.append(Problem(REFUSED, clean(name), f"{source / str(own)}: a label without image"))
            continue
        cases.append(
            Case(
                clean(name),
                tuple(source / p for p in paths if p in known),
                source / own if own in known else None,
                is_test=label is None,
                patient=_group(text.get("patient"), name),
                stratum=_group(text.get("stratum"), name),
            )
        )
    return cases, problems


def _pattern(path: str) -> re.Pattern[str]:
    escaped, case = re.escape(path), re.escape(CASE)
    return re.compile(escaped.replace(case, "(?P<case>[^/]+)", 1).replace(case, "(?P=case)"), re.DOTALL)


def _group(pattern: str | None, name: str) -> str:
    match = re.search(pattern, name) if pattern else None
    return (match[1] or "") if match else ""
