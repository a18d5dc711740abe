"""BraTS 2018 to 2024: glioma in four MR sequences. The year is recognised by names and confirmed by labels.

Labels keep their order of 2023: 1 necrotic core, 2 edema, 3 enhancing tumour (4 until 2021), 4 resection cavity in
2024. The challenge scores overlapping regions, and so does nnU-Net when trained on them: whole tumour, tumour core,
enhancing tumour. With this order of labels they are painted as 2, 1, 3; the plain order 1, 2, 3 gives wrong maps
without an error.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.check import check_label, label_array
from dataset_conversion.declare import REFUSED, REPAIRED, Case, Dataset, Found, Problem
from dataset_conversion.find import DEPTH, as_file, by_stem, check_folder, entries, twice, walk
from dataset_conversion.grid import UnreadableError, Volume
from dataset_conversion.volumes import read
from dataset_conversion.written import write_checked

OLD = ("t1", "t1ce", "t2", "flair")
NEW = ("t1n", "t1c", "t2w", "t2f")
FIRST_2024_TIME_POINT = 100
SEG_355 = "BraTS20_Training_355/W39_1998.09.19_Segm"


@dataclass(frozen=True, eq=False)
class Year:
    """How a year names its cases and files, and what its labels are."""

    year: int
    pattern: re.Pattern[str]
    modalities: tuple[str, ...]
    joint: str
    label_map: Mapping[int, int]
    n_cases: str

    @property
    def has_cavity(self) -> bool:
        return 4 in self.label_map.values()

    @property
    def example(self) -> str:
        """The name of a case"""
        return {
            2018: "Brats18_TCIA01_100_1", 2019: "BraTS19_TCIA01_100_1", 2020: "BraTS20_Training_001",
            2021: "BraTS2021_00001", 2023: "BraTS-GLI-00001-000", 2024: "BraTS-GLI-00001-100",
        }[self.year]  # fmt: skip


_FOUR = {0: 0, 1: 1, 2: 2, 4: 3}
_THREE = {0: 0, 1: 1, 2: 2, 3: 3}
YEARS = (
    Year(2018, re.compile(r"^Brats18_\w+$"), OLD, "_", _FOUR, "285"),
    Year(2019, re.compile(r"^BraTS19_\w+$"), OLD, "_", _FOUR, "335"),
    Year(2020, re.compile(r"^BraTS20_(Training|Validation)_\d{3}$"), OLD, "_", _FOUR, "369 + 125"),
    Year(2021, re.compile(r"^BraTS2021_\d{5}$"), OLD, "_", _FOUR, "1251 + 219"),
    Year(2023, re.compile(r"^BraTS-GLI-\d{5}-0\d{2}$"), NEW, "-", _THREE, "1251 + 219"),
    Year(2024, re.compile(r"^BraTS-GLI-\d{5}-[1-9]\d{2}$"), NEW, "-", {**_THREE, 4: 4}, "1350"),
)
REGIONS = {"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
CITATION = (
    "Menze et al., IEEE TMI 2015; Bakas et al., Scientific Data 2017; Baid et al., arXiv:2107.02314 (2021); "
    "de Verdier et al., arXiv:2405.18368 (2024)"
)
OTHER_TASKS = {
    "PED": "1 enhancing, 2 non-enhancing, 3 cyst, 4 edema", "MEN": "meningioma", "MET": "metastases",
    "SSA": "another population, for the organisers' own task", "GoAT": "mixed tumour types",
}  # fmt: skip
MEANS_OTHER = re.compile(r"BraTS-?(PED|MEN|MET|SSA|GoAT)", re.IGNORECASE)
NNUNET137 = {1: 2, 2: 1, 3: 3}
"""Labels in the order of nnU-Net's own BraTS dataset 137: 1 edema, 2 necrotic core, 3 enhancing tumour."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--year", type=int, choices=[y.year for y in YEARS], help="default: recognised")
    parser.add_argument(
        "--label-order", choices=("native", "nnunet137"), default="native",
        help="1 necrosis 2 edema 3 enhancing, or 1 edema 2 necrosis as in nnU-Net's dataset 137 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--back", type=Path, metavar="FOLDER",
        help="instead: bring nnU-Net's predictions in FOLDER back to the challenge's labels, into -o (needs --year)",
    )  # fmt: skip


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError if no year's cases are found, more than one year's, or another task's."""
    check_folder(source)
    folders = _case_folders(source, options.get("year"))
    year = next(iter({y for y, _ in folders}))
    strata, patients = _grades(source), _same_patients(source)
    cases: list[Case] = []
    problems: list[Problem] = []
    seen: dict[str, list[Path]] = defaultdict(list)
    for _, folder in folders:
        seen[folder.name].append(folder)
    for folder in (f for name in sorted(seen) for f in seen[name]):
        where = (source.absolute().name, *folder.relative_to(source).parts)
        case, told = _case(year, folder, any("validation" in part.lower() for part in where), strata, patients)
        cases.append(case)
        problems += told
    dataset = _dataset(year, options.get("label_order", "native"))
    return Found(dataset, tuple(cases), tuple(problems), source=source)


def _case_folders(source: Path, wanted: int | None) -> list[tuple[Year, Path]]:
    found, others = [], set()
    for folder in walk(source, DEPTH + 1):
        match = MEANS_OTHER.search(folder.name)
        if match:
            others.add(next(k for k in OTHER_TASKS if k.lower() == match[1].lower()))
            continue
        year = next((y for y in YEARS if y.pattern.match(folder.name)), None)
        if year is not None and (wanted is None or year.year == wanted):
            found.append((year, folder))
    if others and not found:
        task = min(others)
        raise ValueError(
            f"{source}: BraTS-{task}, not the adult glioma task (GLI): {OTHER_TASKS[task]}. Its labels mean something "
            "else; describe it for `convert generic` instead"
        )
    if not found:
        names = ", ".join(y.example for y in YEARS)
        raise ValueError(f"{source}: no BraTS cases found; looked for folders named like {names}")
    years = sorted({y.year for y, _ in found})
    if len(years) > 1:
        raise ValueError(f"{source}: cases of BraTS {', '.join(map(str, years))}; choose one with --year")
    # a folder named like the case and holding one named the same
    return [(y, f) for y, f in found if f.parent.name != f.name]


def _case(
    year: Year, folder: Path, unlabelled: bool, strata: Mapping[str, str], patients: Mapping[str, str]
) -> tuple[Case, list[Problem]]:
    """unlabelled: whether a case without label is one for test here, not one that lacks it"""
    name = folder.name
    inner = folder / name
    found = by_stem(inner if inner.is_dir() else folder)
    problems: list[Problem | None] = [*twice(found, lambda stem: name)]
    files = {stem: paths[0] for stem, paths in found.items()}
    images = []
    for modality in year.modalities:
        path = files.pop(f"{name}{year.joint}{modality}", None)
        if path is None:
            problems.append(Problem(REFUSED, name, f"{folder}: {name}{year.joint}{modality}.nii.gz is missing"))
            continue
        images.append(as_file(path))
        if path.is_dir() and images[-1] != path:
            problems.append(Problem(REPAIRED, name, f"{path.name} is a folder; the one file in it is used"))
    label = files.pop(f"{name}{year.joint}seg", None)
    is_test = label is None and unlabelled
    if label is None and not is_test:
        label, told = _misnamed_label(name, folder, files, images)
        problems.append(told)
    grade = strata.get(name) or next((p.name for p in folder.parents if p.name in ("HGG", "LGG")), "")
    # the last part of a GLI name is the time point: the same patient again
    patient = patients.get(name) or (name.rsplit("-", 1)[0] if year.joint == "-" else name)
    made = Case(name, tuple(images), as_file(label) if label else None, is_test, patient, grade)
    return made, [p for p in problems if p is not None]


def _misnamed_label(
    name: str, folder: Path, files: Mapping[str, Path], images: Sequence[Path]
) -> tuple[Path | None, Problem | None]:
    """The only other file, if it can only be the label: BraTS20_Training_355 is released so."""
    if len(files) == 1 and images:
        stem, path = next(iter(files.items()))
        try:
            label, image = read(as_file(path)), read(images[0])
            fits = label.geometry.shape == image.geometry.shape and set(np.unique(label.array)) <= {0, 1, 2, 4}
        except UnreadableError:
            fits = False
        if fits or f"{name}/{stem}" == SEG_355:
            return path, Problem(REPAIRED, name, f"{path.name} is taken for the missing segmentation")
    return None, Problem(REFUSED, name, f"{folder}: no segmentation")


def _dataset(year: Year, order: str) -> Dataset:
    swap = NNUNET137 if order == "nnunet137" else {1: 1, 2: 2, 3: 3}
    label_map = {source: swap.get(target, target) for source, target in year.label_map.items()}
    labels: dict[str, int | list[int]] = {"background": 0}
    labels |= {name: sorted(swap[v] for v in values) for name, values in REGIONS.items()}
    # for each region the label that is painted: what of it no later region paints over
    painted = [swap[2], swap[1], swap[3]]
    if year.has_cavity:
        labels["resection_cavity"] = [4]
        painted.append(4)
    return Dataset(
        name=f"BraTS{year.year}",
        id=500 + year.year - 2000,
        channels=("T1", "T1ce", "T2", "FLAIR"),
        labels=labels,
        label_map=label_map,
        regions_class_order=tuple(painted),
        licence="registration and the challenge's terms; may not be passed on",
        source="https://www.synapse.org/brats" if year.year >= 2023 else "https://www.med.upenn.edu/cbica/brats",
        citation=CITATION,
        orientation="LPS",
        notes=(
            f"BraTS {year.year} as released has {year.n_cases} cases",
            f"labels written: {', '.join(f'{s} -> {t}' for s, t in label_map.items())}; bring predictions back with "
            f"--back FOLDER --year {year.year}" + ("" if order == "native" else f" --label-order {order}"),
        ),
    )


def _same_patients(source: Path) -> dict[str, str]:
    """2020: cases of the same TCIA subject, by the table that comes with the data"""
    return _column(source, "TCGA_TCIA_subject_ID")


def _grades(source: Path) -> dict[str, str]:
    return _column(source, "Grade")


def _column(source: Path, name: str) -> dict[str, str]:
    known = {row.get("BraTS_2020_subject_ID", ""): row.get(name, "") for row in _mapping(source)}
    return {case: value for case, value in known.items() if case and value not in ("", "NA")}


def _mapping(source: Path) -> list[dict[str, str]]:
    for folder in walk(source, DEPTH):
        path = folder / "name_mapping.csv"
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8-sig") as file:
                    return list(csv.DictReader(file))
            except (UnicodeDecodeError, csv.Error) as error:
                raise ValueError(f"{path}: no table in UTF-8, save it as such: {error}") from None
    return []


def convert_back(predictions: Path, target: Path, year: int, order: str = "native") -> int:
    """nnU-Net's predictions (0 to 3, 4 in 2024) in the challenge's labels and names; the number of files written.

    Raises ValueError, with nothing written, for a folder without predictions or with values that no region has, and
    for a target that holds the predictions or files of that name: converted twice, labels are swapped back.
    """
    known = next(y for y in YEARS if y.year == year)
    label_map = {written: source for source, written in _dataset(known, order).label_map.items()}
    paths = [p for p in entries(predictions) if p.name.endswith(".nii.gz")] if predictions.is_dir() else []
    if not paths:
        raise ValueError(f"--back {predictions}: no .nii.gz files there")
    if target.exists() and not target.is_dir():
        raise ValueError(f"-o {target}: a file; expected a folder")
    if target.resolve() == predictions.resolve():
        raise ValueError(f"-o {target}: the folder of the predictions; choose another, they would be lost")
    there = [path.name for path in paths if (target / path.name).exists()]
    if there:
        raise ValueError(
            f"-o {target}: {there[0]} is there already ({len(there)} of {len(paths)}); choose an empty folder"
        )
    for path in paths:
        _prediction(path, label_map)
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        volume = _prediction(path, label_map)
        array = label_array(volume, label_map)
        partial = target / f".{path.name}"
        try:
            write_checked(partial, array, volume.geometry)
            partial.replace(target / path.name)
        finally:
            partial.unlink(missing_ok=True)
    return len(paths)


def _prediction(path: Path, label_map: Mapping[int, int]) -> Volume:
    """Checked as labels are. Raises ValueError naming the file."""
    try:
        volume = read(path)
    except UnreadableError as error:
        raise ValueError(str(error)) from None
    refused: list[str] = []
    check_label(path, volume, label_map, lambda level, text: refused.append(text) if level == REFUSED else None)
    if refused:
        raise ValueError("; ".join(refused))
    return volume
