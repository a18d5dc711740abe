"""ImageCAS: coronary arteries in 1000 CT angiographies, with an official sheet of four splits."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas

from dataset_conversion.declare import CT, REFUSED, WARNING, Case, Dataset, Found, Problem
from dataset_conversion.find import DEPTH, by_stem, check_folder, clean, entries, twice, walk
from dataset_conversion.report import ANY

IMAGECAS = Dataset(
    name="ImageCAS",
    id=511,
    channels=(CT,),
    labels={"background": 0, "coronary_artery": 1},
    label_map={0: 0, 1: 1},
    licence="not stated in its repository; ask before passing on",
    source="https://github.com/XiaoweiXu/ImageCAS-A-Large-Scale-Dataset-and-Benchmark-for-Coronary-Artery-Segmentation",
    citation="Zeng et al., ImageCAS: A large-scale dataset and benchmark for coronary artery segmentation, CMIG 2023",
)
IMAGE, LABEL = ".img", ".label"
PARTS = {"training": "train", "train": "train", "val": "val", "validation": "val", "testing": "test", "test": "test"}
SHEETS = (".xlsx", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", type=int, choices=(1, 2, 3, 4), default=1, help="of the sheet (default: 1)")
    parser.add_argument("--sheet", type=Path, help="the split sheet, .xlsx or .csv (default: the one in the download)")
    parser.add_argument(
        "--match-by-row", action="store_true",
        help="the sheet's ids are of the older release: take its n-th row for case n",
    )  # fmt: skip


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError for a download without cases, and for a sheet that does not belong to them."""
    check_folder(source)
    folders = list(walk(source, DEPTH))
    packed = [p for f in folders for p in entries(f) if p.name.endswith(".change2zip")]
    cases, problems = _cases(folders)
    if not cases:
        hint = f"; {packed[0].name} is a part of a ZIP archive: rename it to .zip and unpack it" if packed else ""
        raise ValueError(f"{source}: no files named NUMBER.img.nii.gz{hint}")
    sheets = [p for f in folders for p in entries(f) if "split" in p.name.lower() and p.suffix in SHEETS]
    sheet = options.get("sheet") or next(iter(sheets), None)
    if sheet is None:
        told = Problem(WARNING, ANY, "no split sheet found: 5 random folds, no test cases")
        return Found(IMAGECAS, tuple(cases), (*problems, told), source=source)
    if len(sheets) > 1 and not options.get("sheet"):
        raise ValueError(
            f"{source}: {len(sheets)} split sheets: {', '.join(map(str, sheets[:3]))}; choose with --sheet"
        )
    part = _split(Path(sheet), options.get("split", 1), [c.id for c in cases], bool(options.get("match_by_row")))
    cases = [replace(case, is_test=part[case.id] == "test") for case in cases]
    folds = ({name: sorted(i for i, p in part.items() if p == name) for name in ("train", "val")},)
    return Found(IMAGECAS, tuple(cases), tuple(problems), folds, source=source)


def _cases(folders: Sequence[Path]) -> tuple[list[Case], list[Problem]]:
    cases: list[Case] = []
    problems: list[Problem] = []
    for files in map(by_stem, folders):
        images = {stem[: -len(IMAGE)]: paths for stem, paths in files.items() if stem.endswith(IMAGE)}
        labels = {stem[: -len(LABEL)]: paths for stem, paths in files.items() if stem.endswith(LABEL)}
        cases += [Case(_id(n), paths[:1], labels[n][0] if n in labels else None) for n, paths in images.items()]
        problems += [*twice(images, _id), *twice(labels, _id)]
        problems += [
            Problem(REFUSED, _id(n), f"{paths[0]}: a label without image")
            for n, paths in labels.items()
            if n not in images
        ]
    return cases, problems


def _id(number: str) -> str:
    return f"ImageCAS_{int(number):04d}" if re.fullmatch("[0-9]+", number) else f"ImageCAS_{clean(number)}"


def _split(sheet: Path, number: int, ids: list[str], by_row: bool) -> dict[str, str]:
    """Case id -> train, val or test"""
    if not sheet.is_file():
        raise ValueError(f"--sheet {sheet}: no such file")
    try:
        load = pandas.read_excel if sheet.suffix == ".xlsx" else pandas.read_csv
        table = load(sheet, header=None, dtype=str).dropna(how="all")
    except Exception as error:  # a broken sheet makes pandas and openpyxl raise anything
        raise ValueError(f"{sheet}: cannot be read as a table: {error}") from None
    rows = [[str(cell).strip() for cell in row] for row in table.to_numpy()]
    head = next((k for k, row in enumerate(rows) if row[0].lower() in ("filename", "id")), None)
    if head is None or len(rows[head]) <= number:
        raise ValueError(f"{sheet}: no header row FileName, Split-1, ... in it")
    try:
        parts = [PARTS[row[number].lower()] for row in rows[head + 1 :]]
    except KeyError as error:
        column = rows[head][number]
        raise ValueError(f"{sheet}: {error.args[0]!r} in {column}; expected Training, Val or Testing") from None
    names = [_id(row[0].split(".")[0]) for row in rows[head + 1 :]]
    if by_row:
        names = [_id(str(k)) for k in range(1, len(parts) + 1)]
    part = dict(zip(names, parts, strict=True))
    if len(part) < len(names):
        again = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{sheet}: {again} is in it more than once")
    unknown = [i for i in ids if i not in part]
    if unknown:
        raise ValueError(
            f"{sheet}: {len(unknown)} of {len(ids)} cases are not in it ({', '.join(unknown[:3])}, ...). The sheet of "
            "the older release has other ids: --match-by-row takes its n-th row for case n"
        )
    return {i: part[i] for i in ids}
