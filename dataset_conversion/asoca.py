"""ASOCA: coronary arteries in CT angiography, 20 normal and 20 diseased patients (and 20 for test, without labels)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_conversion import splits
from dataset_conversion.declare import CT, REFUSED, Case, Dataset, Found, Problem
from dataset_conversion.find import DEPTH, entries, marked_folder, walk

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
NUMBER = re.compile(r"(\d+)$")


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
    return Found(dataset, tuple(cases), tuple(problems), folds, files)


def _is_root(folder: Path) -> bool:
    return _has_2020(folder) or all(_cohort_folder(folder, cohort) for cohort in COHORTS)


def _has_2020(folder: Path) -> bool:
    return (folder / "Train").is_dir() and (folder / "Train_Masks").is_dir()


def _cohort_folder(root: Path, cohort: str) -> Path | None:
    """`Normal`, `ASOCA_Normal`, `ASOCA Normal`, ..."""
    names = {cohort, f"asoca_{cohort}", f"asoca {cohort}", f"asoca-{cohort}"}
    return next((p for p in entries(root) if p.is_dir() and p.name.lower() in names), None)


def _release(root: Path) -> tuple[list[Case], list[Problem]]:
    cases, problems = [], []
    for cohort, name in COHORTS.items():
        folder = _cohort_folder(root, cohort)
        assert folder is not None
        inner = [f for f in walk(folder, DEPTH) if f.is_dir()]
        images = next((f for f in inner if f.name == "CTCA"), None)
        labels = next((f for f in inner if f.name == "Annotations"), None)
        if images is None or labels is None:
            raise ValueError(f"{folder}: expected folders CTCA and Annotations in it")
        known = {p.stem: p for p in _volumes(labels)}
        for path in _volumes(images):
            number = NUMBER.search(path.stem)
            case = f"{name}_{int(number[1]):02d}" if number else f"{name}_{path.stem}"
            cases.append(Case(case, (path,), known.pop(path.stem, None), stratum=name))
        problems += [Problem(REFUSED, p.stem, f"{p}: a label without image") for p in known.values()]
        for test in (f for f in inner if f.name.lower().startswith("testset")):
            for path in _volumes(test):
                number = NUMBER.search(path.stem)
                case = f"Test_{name}_{int(number[1]):02d}" if number else f"Test_{name}_{path.stem}"
                cases.append(Case(case, (path,), None, is_test=True, stratum=name))
    return cases, problems


def _release_2020(root: Path) -> tuple[list[Case], list[Problem]]:
    """`Train/0.nrrd` ... without cohorts in the names, which are not made up here"""
    known = {p.stem: p for p in _volumes(root / "Train_Masks")}
    cases = [_case_2020(p, known.pop(p.stem, None), "") for p in _volumes(root / "Train")]
    problems = [Problem(REFUSED, p.stem, f"{p}: a label without image") for p in known.values()]
    if (root / "Test").is_dir():
        cases += [_case_2020(p, None, "Test_") for p in _volumes(root / "Test")]
    return cases, problems


def _case_2020(path: Path, label: Path | None, prefix: str) -> Case:
    number = NUMBER.search(path.stem)
    name = f"{int(number[1]):02d}" if number else path.stem
    return Case(f"{prefix}ASOCA_{name}", (path,), label, is_test=bool(prefix))


def _volumes(folder: Path) -> list[Path]:
    return [p for p in entries(folder) if p.suffix.lower() == ".nrrd"]
