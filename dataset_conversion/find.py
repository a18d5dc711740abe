"""Files and folders in a download, whatever is wrapped around them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dataset_conversion.declare import REFUSED, WARNING, Problem
from dataset_conversion.report import ANY

DEPTH = 3
"""Folders that may be wrapped around what is looked for."""
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
NIFTI = (".nii.gz", ".nii")


def is_junk(name: str) -> bool:
    """Files that systems leave in archives; "._x" is the Mac's shadow of x."""
    return name in JUNK or name.startswith(".")


def entries(folder: Path) -> list[Path]:
    """Content of a folder without junk, sorted."""
    return sorted((p for p in folder.iterdir() if not is_junk(p.name)), key=lambda p: p.name)


def walk(root: Path, depth: int) -> Iterator[Path]:
    """root and the folders below it, no deeper than `depth`, breadth first. Links to folders above are not followed."""
    level, seen = [root], {os.path.realpath(root)}
    for _ in range(depth + 1):
        yield from level
        below = [p for folder in level for p in entries(folder) if p.is_dir()]
        level = [p for p in below if (real := os.path.realpath(p)) not in seen and not seen.add(real)]


def check_folder(folder: Path) -> None:
    """Raises ValueError if it is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}")


def marked_folder(root: Path, is_it: Callable[[Path], bool], what: str) -> Path:
    """The one folder at or below root that is looked for. Raises ValueError if there is none or more than one."""
    check_folder(root)
    found = [folder for folder in walk(root, DEPTH) if is_it(folder)]
    outermost = [f for f in found if not any(other in f.parents for other in found)]
    if not outermost:
        raise ValueError(f"{root}: no {what} in it, nor up to {DEPTH} folders below")
    if len(outermost) > 1:
        raise ValueError(f"{root}: more than one {what}: {', '.join(map(str, outermost))}; give one of them")
    return outermost[0]


def as_file(path: Path) -> Path:
    """A file, or the one file in a folder that is named like a NIfTI file, as some archives unpack."""
    if path.is_dir() and path.name.endswith(NIFTI):
        inside = [p for p in entries(path) if p.name.endswith(NIFTI)]
        if len(inside) == 1:
            return inside[0]
    return path


def nifti_stem(name: str) -> str | None:
    """ "a_t1.nii.gz" -> "a_t1"; None for other names."""
    for ending in NIFTI:
        if name.endswith(ending):
            return name[: -len(ending)]
    return None


def clean(name: str) -> str:
    """A name of a case made of signs that files, tables and shells take as they are"""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def by_stem(folder: Path, endings: tuple[str, ...] = NIFTI) -> dict[str, tuple[Path, ...]]:
    """Files with one of the endings, whatever their letters' case, by name without it; none for a missing folder."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in entries(folder) if folder.is_dir() else ():
        ending = next((e for e in endings if path.name.lower().endswith(e)), None)
        if ending is not None:
            stem = path.name[: -len(ending)]
            found[stem] = (*found.get(stem, ()), path)
    return found


def numbered(folder: Path, name: re.Pattern[str]) -> tuple[dict[str, tuple[Path, ...]], list[Problem]]:
    """NIfTI files by the number, the first group of their name without ending, and what is left out for its name."""
    found, others = {}, []
    for stem, paths in by_stem(folder).items():
        match = name.fullmatch(stem)
        if match:
            found[match[1]] = paths
        else:
            others += paths
    shown = ", ".join(p.name for p in others[:3])
    told = f"{folder}: {len(others)} files named like no case are left out: {shown}"
    return found, [Problem(WARNING, ANY, told)] if others else []


def twice(files: Mapping[str, Sequence[Path]], id_of: Callable[[str], str]) -> list[Problem]:
    """Of every name with several files: which of them is meant cannot be known."""
    return [
        Problem(REFUSED, id_of(name), f"{' and '.join(map(str, paths))}: two files of one name; remove one")
        for name, paths in files.items()
        if len(paths) > 1
    ]
