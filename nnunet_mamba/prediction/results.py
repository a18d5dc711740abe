"""The folder of results: whose files are there, which cases are done, and that only one command at a time writes there.

A case is noted in prediction.json before its files are moved to their places, its label map last. So wherever a command
is killed, the same command goes on: what is noted is ours to write again, and a case without its label map is not done.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.prediction.images import Case
from nnunet_mamba.study.evaluation.output import writable_folder
from nnunet_mamba.whole_files import read_object, write_json

try:
    import fcntl
except ImportError:  # Windows: two commands with one folder are not noticed there
    fcntl = None

RECORD, VOLUMES, PAGE = "prediction.json", "volumes.csv", "predictions.html"
UNCERTAINTY = "uncertainty"
"""Folder"""
UNFINISHED = ".unfinished_"
HEADERS = (".mhd", ".nhdr", ".hdr")
"""Of images whose voxels lie in another file of the same name"""


@dataclass(frozen=True)
class CaseFiles:
    """Of one case. sources: path, size and time of all that it is read from; doubts: None where no map is asked for."""

    sources: list[list[Any]]
    labels: Path
    picture: Path
    doubts: Path | None

    @property
    def places(self) -> list[Path]:
        return [p for p in (self.doubts, self.picture, self.labels) if p is not None]


class Results:
    """What one command finds and leaves in a folder. cases: of prediction.json, by name."""

    def __init__(self, out: Path, about: Mapping[str, Any], cases: Sequence[Case], ending: str, maps: bool):
        """about: what decides over all results; maps: whether maps of the uncertainty are asked for.

        Raises ValueError where the folder holds results of something else, or a file would be overwritten that is not
        a result of the same image.
        """
        self.out = out
        self._content = _content(out, about)
        self.files = {
            case.name: CaseFiles(
                _sources(case), out / f"{case.name}{ending}", out / f"{case.name}.png",
                out / UNCERTAINTY / f"{case.name}{ending}" if maps else None,
            )
            for case in cases
        }  # fmt: skip
        self._check(cases)

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Those whose label maps are there"""
        return {name: of for name, of in self._content["cases"].items() if (self.out / of["result"]).is_file()}

    def done(self, name: str) -> bool:
        """Whether a case has been predicted from the same files, and all that is asked for is there"""
        files, noted = self.files[name], self.cases.get(name)
        if noted is None or noted["sources"] != files.sources:
            return False
        return files.doubts is None or (noted["uncertainty"] and files.doubts.is_file())

    def keep(self, name: str, labels: Path, picture: Path, doubts: Path | None, found: Mapping[str, Any]) -> None:
        """Notes a case and moves its complete files to their places. Raises OSError where there is no room."""
        files = self.files[name]
        earlier = self.out / UNCERTAINTY / files.labels.name
        stale = files.doubts is None and self._content["cases"].get(name, {}).get("uncertainty")
        self._content["cases"][name] = {
            "sources": files.sources, "result": files.labels.name, "picture": files.picture.name,
            "uncertainty": doubts is not None, "written": _stamp(labels), **found,
        }  # fmt: skip
        write_json(self.out / RECORD, self._content, indent=2)
        if stale:
            earlier.unlink(missing_ok=True)  # of the image that was there before
        if doubts is not None and files.doubts is not None:
            files.doubts.parent.mkdir(exist_ok=True)
            doubts.replace(files.doubts)
        picture.replace(files.picture)
        labels.replace(files.labels)

    def _check(self, cases: Sequence[Case]) -> None:
        given = {source.path.resolve() for case in cases for source in case.channels}
        folders = {s.within.resolve() for case in cases for s in case.channels if s.within is not None}
        if self.out.resolve() in folders:
            raise ValueError(f"-o {self.out}: the folder of the images; give another folder")
        if not self._content["cases"]:
            for path in (self.out / VOLUMES, self.out / PAGE):
                if path.exists():
                    raise ValueError(f"-o {self.out}: {path} is there already; give another folder")
        if (self.out / UNCERTAINTY).exists() and not (self.out / UNCERTAINTY).is_dir():
            raise ValueError(f"-o {self.out}: {self.out / UNCERTAINTY} is a file; give another folder")
        for name, files in self.files.items():
            noted = self._content["cases"].get(name)
            for path in files.places:
                if path.resolve() in given or (path.exists() and noted is None):
                    raise ValueError(f"-o {self.out}: {path} is there already; give another folder")
            if noted is not None:
                self._check_same(name, files, noted)

    def _check_same(self, name: str, files: CaseFiles, noted: Mapping[str, Any]) -> None:
        """That nobody else's work is replaced"""
        before, now = ([path for path, *_ in sources] for sources in (noted["sources"], files.sources))
        if before != now:
            raise ValueError(
                f"-o {self.out}: {files.labels} is of another image, {before[0]}; give another folder, or predict both "
                "with one command"
            )
        if files.labels.is_file() and not self.done(name) and _stamp(files.labels) != noted["written"]:
            raise ValueError(
                f"-o {self.out}: {files.labels} was changed after it had been predicted; move it away, or give another "
                "folder"
            )


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Makes the folder, keeps others out while the block lasts, and removes what a killed command has left.

    Raises ValueError where nothing can be written, or another command is at it.
    """
    writable_folder(out, RECORD, VOLUMES, PAGE)
    if fcntl is None:
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"-o {out}: another nnunet-mamba predict writes there; give another folder") from None
        except OSError:  # a file system that locks no folders
            pass
        else:
            for left in out.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(folder)


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder in `out` for files that are not complete"""
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _content(out: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    path = out / RECORD
    if out.exists() and not out.is_dir():
        raise ValueError(f"-o {out}: a file; expected a folder")
    if not path.is_file():
        return {**about, "cases": {}}
    there = read_object(path)
    same = all(there.get(key) == value for key, value in about.items() if key != "versions")
    if not same or not isinstance(there.get("cases"), dict):
        raise ValueError(f"-o {out}: holds predictions of another model, or with other settings; give another folder")
    return there


def _sources(case: Case) -> list[list[Any]]:
    found = []
    for source in case.channels:
        for path in source.series.files if source.series else _with_voxels(source.path):
            found.append([str(path.resolve()), *_stamp(path)])
    return found


def _with_voxels(path: Path) -> list[Path]:
    """An image's file, and those that its voxels may lie in"""
    if not path.name.lower().endswith(HEADERS):
        return [path]
    return [path, *(p for p in sorted(path.parent.glob(f"{path.stem}.*")) if p != path and p.is_file())]


def _stamp(path: Path) -> list[int]:
    """By which a file that was changed is told"""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
