"""Whose a target folder is: claimed before the long checks, and of its files only those of own records are deleted.

While a conversion is not complete its folder holds a hidden one with a lock and a record per case. A record names the
case's files before the first of them is there, so every file of an unfinished conversion is in one.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dataset_conversion.declare import Case, Dataset

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WORK = ".conversion"
"""Folder of temporary files and records; gone when the conversion is complete."""
LOCK = "lock"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def check_apart(source: Path, target: Path) -> None:
    """Raises ValueError if the download and the target are one folder, or one lies in the other."""
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ValueError(f"{target}: in the download {source}, or around it; choose another folder with -o")


@contextmanager
def claimed(target: Path, dataset: Dataset, resume: bool) -> Iterator[Path]:
    """Hold the target folder; gives its folder for records. It goes away again if nothing was written.

    Raises ValueError if somebody else has the folder or its id, or if it is complete or, without `resume`, unfinished.
    """
    check_free(target, dataset, resume)
    made = _make(target / WORK)
    with _locked(target):
        try:
            _check_free(target, dataset, resume)  # whoever was faster has ended since, or has another name
            yield target / WORK
        except BaseException:
            if not is_begun(target):
                shutil.rmtree(target / WORK, ignore_errors=True)
                for folder in reversed(made):
                    with suppress(OSError):  # not empty, so somebody else's, or gone
                        folder.rmdir()
            raise


def check_free(target: Path, dataset: Dataset, resume: bool) -> None:
    """Raises ValueError if the target cannot be begun (or, with `resume`, gone on with)."""
    if is_begun(target):
        with _locked(target):  # of one that is running nobody may be told to remove it
            pass
    _check_free(target, dataset, resume)


def _check_free(target: Path, dataset: Dataset, resume: bool) -> None:
    _check_id(target, dataset)
    for path in (target.parent, target):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: a file; expected a folder")
    if not target.exists():
        return
    if (target / "dataset.json").exists() and not is_begun(target):
        raise ValueError(f"{target}: is there already, and complete; remove it, or choose another id with -d")
    if not (target / WORK).is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: is there, and not by this command; remove it, or choose another id with -d")
    if is_begun(target) and not resume:
        raise ValueError(f"{target}: an unfinished conversion; go on with --resume, or remove it")


def is_begun(target: Path) -> bool:
    """Whether an unfinished conversion has written something, with which `--resume` goes on"""
    return any((target / WORK).glob("*.json"))


def _check_id(target: Path, dataset: Dataset) -> None:
    same_id = [p.name for p in target.parent.glob(f"Dataset{dataset.id:03d}_*") if p.name != target.name]
    if same_id:
        raise ValueError(f"id {dataset.id} is taken by {same_id[0]} in {target.parent}; choose another with -d")


def _make(folder: Path) -> list[Path]:
    """A folder and those above it, as far as they are missing; what was made, outermost first"""
    made = []
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            with suppress(FileExistsError):
                path.mkdir()
                made.append(path)
    return made


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    path = target / WORK / LOCK
    with path.open("a") as file:
        if not _lock(file) or not path.exists():
            raise ValueError(
                f"{target}: another conversion into it is running; wait for it, or choose another id with -d"
            )
        yield


def _lock(file: IO[Any]) -> bool:
    """Until the file is closed or the process ends, however it ends; True too where the system has no such locks"""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def record_of(target: Path, case: str) -> Path:
    """Where the record of a case is"""
    return target / WORK / f"{case}.json"


def recorded(record: Path) -> dict[str, Any]:
    """A record's content: files (name below the target -> `size_and_checksum`) and signature; empty if it is none"""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        return known if isinstance(known["files"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def size_and_checksum(path: Path) -> list[int]:
    """Of a file as it is on the disk, for its case's record"""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
        return [file.tell(), checksum]


def remove_files(target: Path, names: Sequence[str]) -> None:
    """Files of an own record"""
    for name in names:
        (target / name).unlink(missing_ok=True)


def remove_others(target: Path, cases: Sequence[Case]) -> None:
    """Files of cases that an earlier, interrupted run wrote and this one leaves out.

    Raises ValueError if there are files that no record has: nnU-Net would take them for cases.
    """
    ids = {case.id for case in cases}
    own: set[str] = set()
    for record in (target / WORK).glob("*.json"):
        files = recorded(record).get("files", {})
        if record.stem in ids:
            own |= set(files)
        else:
            remove_files(target, list(files))
            record.unlink()
    foreign = sorted(
        f"{folder}/{path.name}" for folder in FOLDERS for path in (target / folder).glob("*.nii.gz")
        if f"{folder}/{path.name}" not in own
    )  # fmt: skip
    if foreign:
        raise ValueError(
            f"{target}: {len(foreign)} files in it are not of this conversion ({', '.join(foreign[:3])}): move them "
            "away, then go on with --resume"
        )
