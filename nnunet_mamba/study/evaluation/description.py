"""What a dataset.json says about label maps: masks, the values that may be there, and how their files' names end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet_folders import DATASET_JSON
from nnunet_mamba.whole_files import short

HIGHEST = 2**31 - 1
ENDING = re.compile(r"(\.\w+)+")
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", ".png", ".bmp", ".tif", ".tiff")
"""Of files that nnU-Net reads."""
EXAMPLE = '"labels": {"background": 0, "tumour": 1}'


@dataclass(frozen=True)
class Description:
    """masks: the values of every foreground label or region; values: all that a label map may hold, None for any.

    ending: what follows a case's name in a file's, such as `.nii.gz`; "" where the dataset.json does not say.
    """

    masks: Mapping[str, tuple[int, ...]]
    values: frozenset[int] | None
    ignore: int | None = None
    ending: str = ""


def describe(content: Mapping[str, Any], where: str | Path) -> Description:
    """nnU-Net's dataset.json, or the decathlon's with `{"0": "background"}`. Raises ValueError naming `where`."""
    try:
        found = _values_by_name(content.get("labels"))
        ignore = _ignore(found)
        masks = {name: v for name, v in found.items() if name != "ignore" and set(v) != {0}}
        if not masks:
            raise ValueError(f"labels {short(content['labels'])} name no foreground; expected {EXAMPLE} for instance")
        return Description(masks, frozenset(v for of in found.values() for v in of) | {0}, ignore, _ending(content))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def masks_of(labels: Any) -> dict[str, tuple[int, ...]]:
    """Label values of every foreground label or region of a dataset.json, in its order."""
    return dict(describe({"labels": labels}, DATASET_JSON).masks)


def value_names(masks: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """Label value -> what it is called; after all regions that it is in"""
    return {v: " + ".join(n for n, of in masks.items() if v in of) for values in masks.values() for v in values}


def ending_of(content: Mapping[str, Any], where: str | Path) -> str:
    """How the names of a dataset's files end. Raises ValueError where its dataset.json does not say."""
    try:
        ending = _ending(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not ending:
        raise ValueError(f'{where}: has no "file_ending"; expected ".nii.gz" for instance')
    return ending


def _values_by_name(labels: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"labels are {short(labels)}; expected {EXAMPLE} for instance")
    if all(name.isdecimal() for name in labels) and not any(_is_number(v) for v in labels.values()):
        labels = _turned(labels)
    found = {}
    for name, value in labels.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        values = tuple(_number(name, v) for v in (value if several else [value]))
        if not values or not name.strip() or not _is_text(name):
            raise ValueError(f"label {name!r} is {short(value)}; expected a name, and a number or a list of numbers")
        found[name] = values
    if "background" in found and set(found["background"]) != {0}:
        raise ValueError(f'"background" is {short(labels["background"])}; in nnU-Net it is 0')
    return found


def _turned(labels: Mapping[str, Any]) -> dict[str, str]:
    """The decathlon's labels, value -> name, as nnU-Net's"""
    names = list(labels.values())
    wrong = [n for n in names if not isinstance(n, str) or names.count(n) > 1]
    if wrong:
        raise ValueError(f"labels {short(labels)}: {short(wrong[0])} is not a name, or one of two labels")
    return {name: value for value, name in labels.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, list)) or (isinstance(value, str) and value.isdecimal())


def _is_text(name: str) -> bool:
    """Whether it can be written: JSON can hold halves of signs"""
    return name.encode("utf-8", "ignore").decode() == name


def _number(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 10:
        value = int(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, (bool, str)) or not whole or not 0 <= value <= HIGHEST:
        raise ValueError(f"label {name!r} is {short(value)}; expected a whole number from 0 to {HIGHEST}")
    return int(value)


def _ignore(found: Mapping[str, tuple[int, ...]]) -> int | None:
    if "ignore" not in found:
        return None
    value, *more = found["ignore"]
    others = {v for name, of in found.items() if name != "ignore" for v in of}
    if more or value == 0 or value in others:
        raise ValueError(f'"ignore" is {short(list(found["ignore"]))}; expected one value that no other label has')
    return value


def _ending(content: Mapping[str, Any]) -> str:
    if "file_ending" not in content:
        return ""
    ending = content["file_ending"]
    if not isinstance(ending, str) or not ENDING.fullmatch(ending):
        raise ValueError(f'"file_ending" is {short(ending)}; expected ".nii.gz" for instance')
    if not ending.lower().endswith(ENDINGS):
        raise ValueError(
            f'"file_ending" is {short(ending)}, which nnU-Net does not read; expected {", ".join(ENDINGS)}'
        )
    return ending
