"""The description of `convert generic`: checked like data, before a file is looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.labels import LARGEST, check_labels, values_of

NEEDED = ("name", "images", "label", "labels")
KEYS = (*NEEDED, "id", "test_images", "label_map", "regions_class_order", "patient", "stratum", "orientation", "lowest",
        "licence", "source", "citation")  # fmt: skip
TEXTS = ("label", "patient", "stratum", "orientation", "licence", "source", "citation")
CASE = "{case}"
NAME = re.compile(r"[A-Za-z0-9]{1,100}")
AXES = ("RL", "AP", "SI")
MOST_CHANNELS = 100


def load(path: Path) -> dict[str, Any]:
    """Raises ValueError, beginning with the option and the file, for what cannot become a dataset of nnU-Net."""
    try:
        text = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except OSError as error:
        raise ValueError(f"--describe {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--describe {path}: not JSON: {error}") from None
    try:
        _check(text)
    except ValueError as error:
        raise ValueError(f"--describe {path}: {error}") from None
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON allows a key twice, of which Python takes the last"""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} is in it twice")
    return made


def _check(text: Any) -> None:
    if not isinstance(text, dict):
        raise ValueError(f"expected an object with {', '.join(NEEDED)}")
    missing, unknown = [k for k in NEEDED if k not in text], [k for k in text if k not in KEYS]
    if missing or unknown:
        told = f"{', '.join(missing)} missing" if missing else f"unknown {', '.join(unknown)}"
        raise ValueError(f"{told}; allowed: {', '.join(KEYS)}")
    for key in TEXTS:
        if key in text and not (isinstance(text[key], str) and text[key].isprintable()):
            raise ValueError(f"{key} {text[key]!r}; expected text of one line")
    name, number = text["name"], text.get("id", 1)
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"name {name!r}; expected letters and digits only, at most 100")
    if not _is_whole(number, 1, 999):
        raise ValueError(f"id {number!r}; expected a whole number from 1 to 999")
    _check_paths(text)
    check_labels(text["labels"], text.get("regions_class_order"))
    for key, check in CHECKS.items():
        if key in text:
            check(key, text[key])
    if "label_map" in text:
        _check_map(text["label_map"], values_of(text["labels"]))


def _check_paths(text: Mapping[str, Any]) -> None:
    for key in ("images", "test_images"):
        channels = text.get(key, text["images"])
        if not isinstance(channels, dict) or not 0 < len(channels) <= MOST_CHANNELS:
            raise ValueError(f"{key} {channels!r}; expected an object of channel names and paths")
        for name, path in channels.items():
            if not name.strip() or not name.isprintable():
                raise ValueError(f"{key}: {name!r} is not a name")
            _check_path(path)
        if len(set(channels.values())) < len(channels):
            raise ValueError(f"{key}: two channels of the same files")
    _check_path(text["label"])
    if text["label"] in text["images"].values():
        raise ValueError("label and an image are the same files")
    if list(text.get("test_images", text["images"])) != list(text["images"]):
        raise ValueError("test_images: expected the same channels as images")


def _check_path(path: Any) -> None:
    if not isinstance(path, str) or CASE not in path:
        raise ValueError(f"{path!r} has no {CASE}")
    if "\0" in path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r}; expected a path below -i, of files in it")


def _check_map(known: Any, values: set[int]) -> None:
    if not isinstance(known, dict) or not known:
        raise ValueError(f'label_map {known!r}; expected an object like {{"255": 1}}')
    for source, target in known.items():
        if not re.fullmatch(r"-?[0-9]{1,18}", source):
            raise ValueError(f"label_map: {source!r} is not a whole number")
        if not _is_whole(target, 0, LARGEST) or target not in values:
            raise ValueError(f"label_map: {source} -> {target!r}, which labels lack; they have {sorted(values)}")
    if len({int(source) for source in known}) < len(known):
        raise ValueError("label_map: a value twice")


def _check_expression(key: str, value: str) -> None:
    try:
        if not re.compile(value).groups:
            raise ValueError(f"{key}: {value!r} has no group in parentheses")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{key}: {error}") from None


def _check_orientation(key: str, value: str) -> None:
    if sorted(next((axis for axis in AXES if c in axis), "") for c in value) != sorted(AXES):
        raise ValueError(f"{key} {value!r}; expected three letters of R or L, A or P, S or I, such as LPS")


def _check_lowest(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e30:
        raise ValueError(f"{key} {value!r}; expected a number")


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "patient": _check_expression,
    "stratum": _check_expression,
    "orientation": _check_orientation,
    "lowest": _check_lowest,
}
