"""Any folder of images and labels, described by a small JSON file. Covers private data."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.declare import Case, Dataset, Found
from dataset_conversion.find import is_junk

EXAMPLE = {
    "name": "Colon",
    "id": 530,
    "images": {"CT": "{case}/ct.nii.gz"},
    "label": "{case}/tumour.nii.gz",
    "labels": {"background": 0, "tumour": 1},
    "patient": "^(P\\d+)_",
}
NEEDED = ("name", "images", "label", "labels")
KEYS = (*NEEDED, "id", "test_images", "label_map", "regions_class_order", "patient", "stratum", "orientation", "lowest",
        "licence", "source", "citation")  # fmt: skip
NAME = re.compile(r"^[A-Za-z0-9]+$")
CASE = "{case}"


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
    """Raises ValueError for a description that is incomplete or matches nothing."""
    if options.get("describe") is None:
        raise ValueError("--describe JSON is missing; see `convert generic --help` for an example")
    text = _load(Path(options["describe"]))
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder")
    files = sorted(
        p.relative_to(source).as_posix() for p in source.rglob("*")
        if p.is_file() and not any(is_junk(part) for part in p.relative_to(source).parts)
    )  # fmt: skip
    cases = _cases(source, files, text, text["images"], text["label"])
    if not cases:
        raise ValueError(f"{source}: no file matches {next(iter(text['images'].values()))!r}; found {files[:3]}, ...")
    if "test_images" in text:
        cases += _cases(source, files, text, text["test_images"], None)
    values = {v for label in text["labels"].values() for v in (label if isinstance(label, list) else [label])}
    label_map = {int(k): int(v) for k, v in text.get("label_map", {v: v for v in values}).items()}
    dataset = Dataset(
        name=text["name"],
        id=int(text.get("id", 530)),
        channels=tuple(text["images"]),
        labels=text["labels"],
        label_map=label_map,
        regions_class_order=tuple(text["regions_class_order"]) if "regions_class_order" in text else None,
        licence=text.get("licence", ""),
        source=text.get("source", ""),
        citation=text.get("citation", ""),
        orientation=text.get("orientation"),
        lowest=text.get("lowest"),
    )
    return Found(dataset, tuple(cases))


def _load(path: Path) -> dict[str, Any]:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--describe {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--describe {path}: not JSON: {error}") from None
    if not isinstance(text, dict):
        raise ValueError(f"--describe {path}: expected an object with {', '.join(NEEDED)}")
    missing, unknown = [k for k in NEEDED if k not in text], [k for k in text if k not in KEYS]
    if missing or unknown:
        told = f"{', '.join(missing)} missing" if missing else f"unknown {', '.join(unknown)}"
        raise ValueError(f"--describe {path}: {told}; allowed: {', '.join(KEYS)}")
    if not NAME.match(text["name"]):
        raise ValueError(f"--describe {path}: name {text['name']!r}; expected letters and digits only")
    patterns = [*text["images"].values(), *text.get("test_images", {}).values(), text["label"]]
    for pattern in patterns:
        if CASE not in pattern:
            raise ValueError(f"--describe {path}: {pattern!r} has no {CASE}")
    regions = any(isinstance(v, list) for v in text["labels"].values())
    if regions and "regions_class_order" not in text:
        raise ValueError(f"--describe {path}: labels with lists are regions; regions_class_order is missing")
    if text["labels"].get("background") != 0:
        raise ValueError(f"--describe {path}: labels: background must be there and 0")
    for key in ("patient", "stratum"):
        try:
            if key in text and not re.compile(text[key]).groups:
                raise ValueError(f"--describe {path}: {key}: {text[key]!r} has no group in parentheses")
        except re.error as error:
            raise ValueError(f"--describe {path}: {key}: {error}") from None
    if "test_images" in text and list(text["test_images"]) != list(text["images"]):
        raise ValueError(f"--describe {path}: test_images: expected the same channels as images")
    return text


def _cases(
    source: Path, files: list[str], text: Mapping[str, Any], images: Mapping[str, str], label: str | None
) -> list[Case]:
    first = next(iter(images.values()))
    pattern = re.compile("^" + re.escape(first).replace(re.escape(CASE), r"(?P<case>[^/]+)", 1)
                         .replace(re.escape(CASE), r"(?P=case)") + "$")  # fmt: skip
    names = [match["case"] for file in files if (match := pattern.match(file))]
    known = set(files)
    cases = []
    for name in names:
        paths = [image.replace(CASE, name) for image in images.values()]
        own = None if label is None else label.replace(CASE, name)
        cases.append(
            Case(
                re.sub(r"[^A-Za-z0-9_.-]", "_", name),
                tuple(source / p for p in paths if p in known),
                source / own if own in known else None,
                is_test=label is None,
                patient=_group(text.get("patient"), name),
                stratum=_group(text.get("stratum"), name),
            )
        )
    return cases


def _group(pattern: str | None, name: str) -> str:
    match = re.search(pattern, name) if pattern else None
    return match[1] if match else ""
