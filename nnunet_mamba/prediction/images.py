"""What is to be predicted: from files and folders that a user names to cases with their channels.

A case's channels are told apart by nnU-Net's numbers (`scan_0000.nii.gz`), else by the channels' names in the files'
names (`scan_flair.nii.gz`), else by the order in which exactly one case's files are given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.nnunet_folders import FIRST_CHANNEL
from nnunet_mamba.prediction.dicom import Series, find_series, holds_dicom, is_dicom

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl.gz", ".gipl", ".hdr")
NUMBERED = re.compile(r"(.*)_(\d{4})")
SHOWN = 5


@dataclass(frozen=True)
class Source:
    """One channel of one case: a file, or a DICOM series. within: the folder that was given, if one was."""

    path: Path
    series: Series | None = None
    within: Path | None = None

    @property
    def stem(self) -> str:
        """Its name without what formats add"""
        name = self.path.name
        ending = next((e for e in ENDINGS if name.lower().endswith(e)), "") if self.series is None else ""
        return name[: len(name) - len(ending)]


@dataclass(frozen=True)
class Case:
    """A name for the results, and one source per channel, in the model's order."""

    name: str
    channels: tuple[Source, ...]


def check_there(paths: Sequence[Path]) -> None:
    """Raises ValueError for what does not exist; before anything heavy is imported."""
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0]}: no such file or folder{more}")


def cases_of(paths: Sequence[Path], channels: Sequence[str], series: str | None = None) -> list[Case]:
    """paths: files and folders; channels: their names, in the model's order; series: number of a DICOM series.

    Raises ValueError in one sentence for what is no image, and where channels are missing or cannot be told apart.
    """
    check_there(paths)
    named = [p.resolve() if p.name in ("", "..") else p for p in paths]  # results are called like their folders
    sources = [source for path in named for source in _sources(path, series)]
    twice = _first_twice([s.path.resolve() for s in sources])
    if twice is not None:
        raise ValueError(f"{twice} is given twice")
    cases = _single(sources, channels[0]) if len(channels) == 1 else _grouped(sources, channels)
    return _with_own_names(cases)


def _sources(path: Path, series: str | None) -> list[Source]:
    if path.is_file():
        if is_dicom(path):
            raise ValueError(f"{path}: one DICOM file; give the folder of its series")
        if not path.name.lower().endswith((*ENDINGS, ".img", ".img.gz", ".hdr.gz")):
            raise ValueError(
                f"{path}: no image that is known; expected {', '.join(ENDINGS)} or a folder of DICOM files"
            )
        return [Source(path)]
    if not path.is_dir():
        raise ValueError(f"{path}: neither a file nor a folder")
    if holds_dicom(path):
        return [Source(path, find_series(path, series))]
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    files = [Source(p, within=path) for p in inside if p.is_file() and p.name.lower().endswith(ENDINGS)]
    below = [Source(p, find_series(p, series), path) for p in inside if p.is_dir() and holds_dicom(p)]
    if not (files or below):
        raise ValueError(f"{path}: no images there; expected {', '.join(ENDINGS)}, or DICOM files in it or one below")
    return [*files, *below]


def left_out(paths: Sequence[Path]) -> list[Path]:
    """What of the folders is not predicted, though images may be there: beside a series, or two folders down"""
    found = []
    for path in [p for p in paths if p.is_dir()]:
        inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        if holds_dicom(path):
            found += [p for p in inside if p.is_dir() or p.name.lower().endswith(ENDINGS)]
        else:
            found += [p for p in inside if p.is_dir() and not holds_dicom(p)]
    return found


def _single(sources: Sequence[Source], channel: str) -> list[Case]:
    cases = []
    for source in sources:
        match = NUMBERED.fullmatch(source.stem)
        if match and f"_{match[2]}" != FIRST_CHANNEL and any(s.stem == match[1] + FIRST_CHANNEL for s in sources):
            raise ValueError(
                f"{source.path}: a second channel of {match[1]}; this model has one, {channel}: leave it out"
            )
        cases.append(Case(source.stem.removesuffix(FIRST_CHANNEL), (source,)))
    return cases


def _grouped(sources: Sequence[Source], channels: Sequence[str]) -> list[Case]:
    """Cases of several channels; a folder that was given is looked at on its own"""
    cases: list[Case] = []
    for folder in dict.fromkeys(s.within for s in sources):
        cases += _told_apart([s for s in sources if s.within == folder], folder, channels)
    return cases


def _told_apart(sources: Sequence[Source], folder: Path | None, channels: Sequence[str]) -> list[Case]:
    numbered = [NUMBERED.fullmatch(s.stem) for s in sources]
    if all(numbered):
        keys = [(m[1], int(m[2])) for m in numbered if m]
        above = next((s for s, (_, k) in zip(sources, keys, strict=True) if k >= len(channels)), None)
        if above is not None:
            raise ValueError(f"{above.path}: the model has {len(channels)} channels, _0000 to _{len(channels) - 1:04d}")
        return _by_key(sources, keys, folder, channels)
    named = [_channel_in(s.stem, channels) for s in sources]
    if all(key is not None for key in named):
        return _by_key(sources, [key for key in named if key is not None], folder, channels)
    wanted = ", ".join(channels)
    if folder is None and len(sources) == len(channels) and not any(numbered) and not any(named):
        return [Case(sources[0].stem, tuple(sources))]
    odd = next(s.path.name for s, key in zip(sources, numbered if any(numbered) else named, strict=True) if not key)
    raise ValueError(
        f"{folder or 'the files'}: which channel {odd} is cannot be told; this model needs {len(channels)} per case, "
        f"{wanted}: name them CASE_0000, CASE_0001, ..., or put these words into the names, or give the files of one "
        "case alone, in this order"
    )


def _by_key(
    sources: Sequence[Source], keys: Sequence[tuple[str, int]], folder: Path | None, channels: Sequence[str]
) -> list[Case]:
    found: dict[str, dict[int, Source]] = {}
    for source, (case, number) in zip(sources, keys, strict=True):
        other = found.setdefault(case, {}).get(number)
        if other is not None:
            raise ValueError(
                f"{other.path} and {source.path} are both channel {number} ({channels[number]}) of one case"
            )
        found[case][number] = source
    cases = []
    for case, of_case in found.items():
        missing = [f"{k} ({channels[k]})" for k in range(len(channels)) if k not in of_case]
        if missing:
            there = ", ".join(s.path.name for s in of_case.values())
            raise ValueError(
                f"{case or (folder.name if folder else there)}: channel {' and '.join(missing)} is missing; "
                f"there is {there}"
            )
        name = case or (folder.name if folder is not None else of_case[0].stem)
        cases.append(Case(name, tuple(of_case[k] for k in range(len(channels)))))
    return cases


def _channel_in(stem: str, channels: Sequence[str]) -> tuple[str, int] | None:
    """The rest of a name and the number of the one channel whose name is in it, as whole words"""
    words = re.split(r"[^A-Za-z0-9]+", stem)
    found = []
    for number, channel in enumerate(channels):
        wanted = re.sub(r"[^a-z0-9]", "", channel.lower())
        for start in range(len(words)):
            for end in range(start + 1, len(words) + 1):
                if wanted and "".join(words[start:end]).lower() == wanted:
                    found.append((number, words[:start] + words[end:]))
    if len({number for number, _ in found}) != 1:
        return None
    number, rest = found[0]
    return "_".join(word for word in rest if word), number


def _with_own_names(cases: Sequence[Case]) -> list[Case]:
    """Results lie in one folder: cases of one name get that of their folder before it"""
    names = [c.name.lower() for c in cases]  # not all file systems tell letters' cases apart
    own = [
        c
        if names.count(c.name.lower()) == 1
        else Case(f"{c.channels[0].path.resolve().parent.name}_{c.name}", c.channels)
        for c in cases
    ]
    twice = _first_twice([c.name.lower() for c in own])
    if twice is not None:
        files = [str(c.channels[0].path) for c in own if c.name.lower() == twice][:SHOWN]
        raise ValueError(f"{' and '.join(files)} would have one name in the results; predict them one after the other")
    return list(own)


def _first_twice(things: Sequence[object]) -> object | None:
    return next((t for i, t in enumerate(things) if t in things[:i]), None)
