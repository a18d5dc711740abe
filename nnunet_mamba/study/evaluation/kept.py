"""Scores of finished cases in a file, a line each: whatever ends an evaluation, the next one goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nnunet_mamba.study import evaluation
from nnunet_mamba.study.evaluation.evaluate import CaseScores, Question
from nnunet_mamba.version import __version__

COMPUTED_BY = ("monai", "numpy", "scipy", "scikit-image", "surface-distance-based-measures", "torch")


class Kept:
    """keys: case -> `key_of`, with which a line counts."""

    def __init__(self, file: Path, keys: Mapping[str, str]):
        self.file, self.keys = file, keys

    def read(self) -> dict[str, CaseScores]:
        """Of the cases whose scores are there and still right"""
        known = {}
        try:
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return {}
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # a line that was being written, or of another version
                entry = json.loads(line)
                if entry["key"] == self.keys.get(entry["case"]):
                    known[entry["case"]] = CaseScores(**entry["scores"])
        return known

    def add(self, case: str, scores: CaseScores) -> None:
        """Begins with a new line: the one before may have no end. A full disk is reported when results are written."""
        line = json.dumps({"case": case, "key": self.keys[case], "scores": asdict(scores)})
        with suppress(OSError), self.file.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}")

    def remove(self) -> None:
        """When all is written"""
        self.file.unlink(missing_ok=True)


def key_of(pair: tuple[Path, Path], asked: Question) -> str:
    """Changes with the question, with either file, and with what computes the scores"""
    files = [[str(p), *_state(p)] for p in pair]
    known = None if asked.known is None else sorted(asked.known)
    how = [list(asked.masks.items()), asked.metrics, asked.rule.both, asked.rule.one, asked.ignore, known,
           asked.unknown_is_background]  # fmt: skip
    return hashlib.sha256(json.dumps([files, how, code_version()]).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    try:
        return path.stat().st_size, path.stat().st_mtime_ns
    except OSError:  # a link to nowhere, which is reported when it is read
        return 0, 0


@cache
def code_version() -> str:
    """Of everything a score depends on: this package, its evaluation's own text, and the libraries it calls"""
    sources = sorted(Path(evaluation.__path__[0]).glob("*.py"))
    text = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return " ".join([__version__, text, *(f"{name} {_installed(name)}" for name in COMPUTED_BY)])


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
