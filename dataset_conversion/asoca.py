"""ASOCA: coronary arteries in CT angiography, 20 normal and 20 diseased patients (and 20 for test, without labels)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_conversion import splits
from dataset_conversion.declare import CT, REFUSED, Case, Dataset, Found, Problem
from dataset_conversion.find import DEPTH, by_stem, clean, entries, marked_folder, twice, walk

PADDING = -1024.0
"""HU of air; scanners fill what lies outside their field of view with less."""
ASOCA = Dataset(
    name="ASOCA",
    id=510,
    channels=(CT,),
    labels={"background": 0, "coronary_artery": 1},
    label_map={0: 0, 1: 1},
    licence="registration and agreement; may not be passed on",
    source="UK Data Service ReShare 855916; https://asoca.grand-challenge.org",
    citation="Gharleghi et al., Annotated computed tomography coronary angiogram images and associated data of normal "
    "and diseased arteries, Scientific Data 2023",
    lowest=PADDING,
)
COHORTS = {"normal": "Normal", "diseased": "Diseased"}
NUMBER = re.compile(r"([0-9]+)\Z")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", choices=("5-fold", "80-20"), default="5-fold",
        help="5 folds with both cohorts in each, or the first of them as one fixed split (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--keep-padding", action="store_true", help=f"keep values below {PADDING:g} HU")


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError if the download is not recognised."""
    dataset = replace(ASOCA, lowest=None) if options.get("keep_padding") else ASOCA
    root = marked_folder(source, _is_root, "ASOCA release (folders Normal and Diseased, or Train and Train_Masks)")
    cases, problems = _release_2020(root) if _has_2020(root) else _release(root)
    training = [c for c in cases if not c.is_test]
    folds = None
    if options.get("split") == "80-20":
        folds = tuple(splits.folds(training)[:1])
    names = {c.id: str(c.images[0].relative_to(root)) for c in cases if c.is_test}
    files = {"test_names.json": names} if names else {}
    return Found(dataset, tuple(cases), tuple(problems), folds, files, source)


def _is_root(folder: Path) -> bool:
    return _has_2020(folder) or all(_cohort_folder(folder, cohort) for cohort in COHORTS)


def _has_2020(folder: Path) -> bool:
    return (folder / "Train").is_dir() and (folder / "Train_Masks").is_dir()


def _cohort_folder(root: Path, cohort: str) -> Path | None:
    """`Normal`, `ASOCA_Normal`, `ASOCA Normal`, ..."""
    names = {cohort, f"asoca_{cohort}", f"asoca {cohort}", f"asoca-{cohort}"}
    return _only([p for p in entries(root) if p.is_dir() and p.name.lower() in names])


def _only(folders: list[Path]) -> Path | None:
    """None if there is none. Raises ValueError if there are several: which of them is meant cannot be known."""
    if len(folders) > 1:
        raise ValueError(f"{' and '.join(map(str, folders))}: two folders for one thing; move one away")
    return folders[0] if folders else None


def _release(root: Path) -> tuple[list[Case], list[Problem]]:
    cases: list[Case] = []
    problems: list[Problem] = []
    for cohort, name in COHORTS.items():
        folder = _cohort_folder(root, cohort)
        assert folder is not None
        inner = [f for f in walk(folder, DEPTH) if f.is_dir()]
        images, labels = (_only([f for f in inner if f.name == part]) for part in ("CTCA", "Annotations"))
        if images is None or labels is None:
            raise ValueError(f"{folder}: expected folders CTCA and Annotations in it")
        found, told = _paired(images, labels, lambda stem, name=name: f"{name}_{_numbered(stem)}", name)
        cases += found
        problems += told
        for test in (f for f in inner if f.name.lower().startswith("testset")):
            found, told = _tests(test, lambda stem, name=name: f"Test_{name}_{_numbered(stem)}", name)
            cases += found
            problems += told
    return cases, problems


def _release_2020(root: Path) -> tuple[list[Case], list[Problem]]:
    """`Train/0.nrrd` ... without cohorts in the names, which are not made up here"""
    cases, problems = _paired(root / "Train", root / "Train_Masks", lambda stem: f"ASOCA_{_numbered(stem)}", "")
    tests, told = _tests(root / "Test", lambda stem: f"Test_ASOCA_{_numbered(stem)}", "")
    return [*cases, *tests], [*problems, *told]


def _paired(images: Path, labels: Path, id_of: Callable[[str], str], cohort: str) -> tuple[list[Case], list[Problem]]:
    found, known = by_stem(images, (".nrrd",)), by_stem(labels, (".nrrd",))
    problems = [*twice(found, id_of), *twice(known, id_of)]
    problems += [
        Problem(REFUSED, id_of(stem), f"{paths[0]}: a label without image")
        for stem, paths in known.items()
        if stem not in found
    ]
    cases = [
        Case(id_of(stem), paths[:1], known[stem][0] if stem in known else None, stratum=cohort)
        for stem, paths in found.items()
    ]
    return cases, problems


def _tests(folder: Path, id_of: Callable[[str], str], cohort: str) -> tuple[list[Case], list[Problem]]:
    found = by_stem(folder, (".nrrd",))
    cases = [Case(id_of(stem), paths[:1], None, is_test=True, stratum=cohort) for stem, paths in found.items()]
    return cases, twice(found, id_of)


def _numbered(stem: str) -> str:
    """The number that a file's name ends in, with two digits, or the name"""
    number = NUMBER.search(stem)
    return f"{int(number[1]):02d}" if number else clean(stem)
