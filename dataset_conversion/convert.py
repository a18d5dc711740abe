"""The engine: check every case before anything is written, then write every case so that a crash does no harm.

A case's files are written under temporary names, read back and renamed; a record of the case follows. `dataset.json`,
without which nnU-Net sees no dataset, and the splits come last. Results depend neither on the number of jobs nor on
interruptions.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from dataset_conversion import splits
from dataset_conversion.check import Checked, check_case, image_array, label_array, volumes_of
from dataset_conversion.declare import REFUSED, WARNING, Case, Dataset, Found, Options, Problem
from dataset_conversion.grid import Geometry
from dataset_conversion.nifti import pair_of
from dataset_conversion.ownership import (
    WORK,
    check_apart,
    check_free,
    claimed,
    record_of,
    recorded,
    remove_files,
    remove_others,
    size_and_checksum,
)
from dataset_conversion.report import ANY, Report
from dataset_conversion.workers import in_processes
from dataset_conversion.written import differs, write_checked

ENDING = ".nii.gz"
REPORT = "conversion_report.json"
CASES = "cases.csv"
"""Patients and cohorts, where the dataset has such."""
ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
"""Names of cases that every file system, nnU-Net and a table take as they are"""
LONGEST_ID = 200
LIKE_A_FILE = (".nii", ".hdr", ".img", ".nia")
"""How no name of a case may end: SimpleITK, and so nnU-Net, writes x.nii.gz where x.nii.nii.gz is meant."""
R = TypeVar("R")


class RefusedError(ValueError):
    """Some cases cannot be used, and nothing was written. `report` says which and why."""

    def __init__(self, report: Report):
        n = len(report.refused_cases - {ANY})
        hint = "mend them, or leave them out with --skip-incomplete"
        if not report.is_convertible:
            hint = "--skip-incomplete does not help: what is left is not a dataset"
        super().__init__(f"{report.summary()}\n\nnothing written: {n} of {report.found} cases refused; {hint}")
        self.report = report


def plan(found: Found, options: Options) -> Report:
    """Check everything, write nothing. The report's cases are those that would be written."""
    duplicates = [*_bad_ids(found.cases), *_same_ids(found.cases)]
    checked = _each(partial(check_case, dataset=found.dataset, options=options), found.cases, options, "checking")
    problems = [*found.problems, *duplicates, *(p for c in checked for p in c.problems)]
    refused = {p.case for p in problems if p.level == REFUSED}
    problems += _same_content(sorted(checked, key=lambda c: (c.case.id in refused, c.case.id)), options)
    refused = {p.case for p in problems if p.level == REFUSED}
    kept = tuple(c for c in found.cases if c.id not in refused)
    training = [c for c in kept if not c.is_test]
    folds = _folds(found, kept)
    if not training:
        problems.append(Problem(REFUSED, ANY, "no case to train with is left"))
    elif not folds:
        problems.append(Problem(WARNING, ANY, "one patient only: no folds; train with fold all"))
    elif any(not fold["train"] for fold in folds):
        problems.append(Problem(REFUSED, ANY, "a split without training cases: choose another, or all folds"))
    elif any(not fold["val"] for fold in folds):
        problems.append(Problem(WARNING, ANY, "a split without validation cases: nothing tells how good a model is"))
    return Report(found.dataset, len(found.cases), kept, len(folds), tuple(problems))


def dry_run(found: Found, raw: Path, options: Options, resume: bool = False) -> Report:
    """As `convert`, but writes nothing at all."""
    check_free(_target(found, raw), found.dataset, resume)
    return plan(found, options)


def convert(found: Found, raw: Path, options: Options, resume: bool = False) -> Report:
    """Check, then write the dataset below `raw` (nnUNet_raw).

    Raises RefusedError, with nothing written, if a case cannot be used and `skip_incomplete` is not set; ValueError if
    the dataset is there already or another conversion is at it; OSError if writing fails, after which `resume` goes on.
    """
    target = _target(found, raw)
    with claimed(target, found.dataset, resume) as work:
        report = plan(found, options)
        if report.refused_cases and (not options.skip_incomplete or not report.is_convertible):
            raise RefusedError(report)
        job = partial(write_case, dataset=found.dataset, options=options, target=target)
        _each(job, report.cases, options, "writing")
        remove_others(target, report.cases)
        training = [c for c in report.cases if not c.is_test]
        for name, content in found.files.items():
            _write_json(target / name, content)
        _write_json(target / REPORT, report.as_json())
        _write_cases(target / CASES, report.cases)
        folds = _folds(found, report.cases)
        if folds:
            _write_json(target / "splits_final.json", folds)
        _write_json(target / "dataset.json", found.dataset.dataset_json(len(training)))
        shutil.rmtree(work)
    return report


def _target(found: Found, raw: Path) -> Path:
    """The dataset's folder. Raises ValueError if it and the download are not apart."""
    target = raw / found.dataset.folder
    if found.source is not None:
        check_apart(found.source, target)
    return target


def write_case(case: Case, dataset: Dataset, options: Options, target: Path) -> str:
    """Write one case unless its record says that it is there, made from the same files in the same way."""
    record = record_of(target, case.id)
    signature = _signature(case, dataset, options)
    if _is_there(record, signature, target):
        return case.id
    names = [f"{kind}{'Ts' if case.is_test else 'Tr'}/{case.id}" for kind in ("images", "labels")]
    images = [f"{names[0]}_{channel:04d}{ENDING}" for channel in range(len(dataset.channels))]
    label = f"{names[1]}{ENDING}"
    _begin(record, target, images if case.label is None else [*images, label])
    written: dict[str, list[int]] = {}
    grid: Geometry | None = None
    channel = 0
    for path in case.images:
        for volume in volumes_of(path, case.stacked, options):
            moved = grid is not None and volume.geometry != grid
            grid = grid or volume.geometry
            array = image_array(volume, dataset, options)
            keep = volume.copyable and not moved and array is volume.array
            make = partial(_copy, path, options.link) if keep else write_checked
            _place(target, images[channel], written, partial(make, array=array, grid=grid))
            channel += 1
    if case.label is not None:
        (volume,) = volumes_of(case.label, False, options)
        array = label_array(volume, dataset.label_map)
        _place(target, label, written, partial(write_checked, array=array, grid=grid or volume.geometry))
    _write_json(record, {"signature": signature, "files": written})
    return case.id


def _begin(record: Path, target: Path, names: list[str]) -> None:
    """A record that names a case's files before they are there; others that an earlier record has go."""
    remove_files(target, [name for name in recorded(record).get("files", {}) if name not in names])
    _write_json(record, {"signature": None, "files": dict.fromkeys(names)})


def _write_cases(path: Path, cases: Sequence[Case]) -> None:
    if not any(case.patient or case.stratum for case in cases):
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("case", "patient", "cohort"))
        table.writerows((case.id, case.patient, case.stratum) for case in sorted(cases, key=lambda c: c.id))


def _place(target: Path, name: str, written: dict[str, list[int]], make: Callable[[Path], None]) -> None:
    """A file under a temporary name, then under its own: whole or not there"""
    unfinished, final = target / WORK / name.replace("/", "_"), target / name
    unfinished.unlink(missing_ok=True)
    try:
        make(unfinished)
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(final)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    written[name] = size_and_checksum(final)


def _copy(source: Path, link: str | None, path: Path, array: np.ndarray, grid: Geometry) -> None:
    """The file as it is, or written anew where SimpleITK reads another thing in it than what was checked"""
    if link == "sym":
        path.symlink_to(source.resolve())
    elif link == "hard":
        try:
            path.hardlink_to(source)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise OSError(f"{source}: on another file system than the target; --link hard is impossible") from None
    else:
        shutil.copyfile(source, path)
    if differs(path, array, grid) is not None:
        path.unlink()
        write_checked(path, array, grid)


def _signature(case: Case, dataset: Dataset, options: Options) -> list[Any]:
    """Changes when the sources or the way of converting do"""
    paths = [path for file in case.files for path in pair_of(file) or (file,)]
    stats = [path.stat() for path in paths]
    files = [[str(p), s.st_size, s.st_mtime_ns] for p, s in zip(paths, stats, strict=True)]
    how = [sorted(dataset.label_map.items()), dataset.lowest, options.prefer, options.fix_shear, options.nan_to_zero,
           options.trust_array, options.link, case.is_test]  # fmt: skip
    return json.loads(json.dumps([files, how]))


def _is_there(record: Path, signature: list[Any], target: Path) -> bool:
    known = recorded(record)
    try:
        return known["signature"] == signature and all(
            size_and_checksum(target / name) == state for name, state in known["files"].items()
        )
    except (OSError, KeyError):
        return False


def _bad_ids(cases: Sequence[Case]) -> list[Problem]:
    problems = []
    for case in cases:
        if case.id == "" or not ID.fullmatch(case.id):
            problems.append(Problem(REFUSED, case.id, "its name has other signs than letters, digits, _ . -"))
        elif case.id.lower().endswith(LIKE_A_FILE):
            told = f"its name ends with one of {' '.join(LIKE_A_FILE)}, with which SimpleITK writes to other names"
            problems.append(Problem(REFUSED, case.id, told))
        elif len(case.id) > LONGEST_ID:
            problems.append(Problem(REFUSED, case.id, f"its name has {len(case.id)} signs; allowed: {LONGEST_ID}"))
    return problems


def _same_ids(cases: Sequence[Case]) -> list[Problem]:
    where: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        where[case.id].append(case)
    return [
        Problem(REFUSED, name, f"found {len(same)} times: {', '.join(str(c.images[0]) for c in same if c.images)}")
        for name, same in where.items()
        if len(same) > 1
    ]


def _same_content(checked: Sequence[Checked], options: Options) -> list[Problem]:
    """The same images under two names: in two folds they would leak. checked: those that are refused last, so that they
    take no other along."""
    first: dict[str, Checked] = {}
    owners: dict[str, str] = {}
    labels = {one.label: one.case.id for one in checked if one.label}
    problems = []
    for one in checked:
        mistaken = {labels[digest] for digest in one.digest.split() if digest in labels} - {one.case.id}
        if mistaken:
            told = f"an image holds the same voxels as the label of {', '.join(sorted(mistaken))}"
            problems.append(Problem(WARNING, one.case.id, told))
        known = first.setdefault(one.digest, one) if one.digest else one
        if known.case.id != one.case.id:
            level = WARNING if options.keep_duplicates else REFUSED
            other = ", with another label: which of them is right?" if known.label != one.label else ""
            hint = "" if options.keep_duplicates else "; --keep-duplicates keeps both"
            problems.append(Problem(level, one.case.id, f"the same images as {known.case.id}{other}{hint}"))
            continue
        shared = {owners.setdefault(digest, one.case.id) for digest in one.digest.split()} - {one.case.id}
        if shared:
            problems.append(Problem(WARNING, one.case.id, f"shares an image with {', '.join(sorted(shared))}"))
    return problems


def _folds(found: Found, kept: Sequence[Case]) -> list[dict[str, list[str]]]:
    training = [c for c in kept if not c.is_test]
    if found.folds is None:
        return splits.folds(training)
    ids = {c.id for c in training}
    return [{part: [i for i in names if i in ids] for part, names in fold.items()} for fold in found.folds]


def _each(job: Callable[[Case], R], cases: Sequence[Case], options: Options, title: str) -> list[R]:
    """In order, in one or more processes, with a progress bar where a person is looking"""
    with tqdm(total=len(cases), desc=title, unit="case", disable=None) as bar:
        if options.jobs > 1 and len(cases) > 1:
            return in_processes(job, cases, min(options.jobs, len(cases)), lambda case: case.id, bar.update)
        results = []
        for case in cases:
            results.append(job(case))
            bar.update()
        return results


def _write_json(path: Path, content: Any) -> None:
    """Whole or not there"""
    partial_file = path.with_name(f".{path.name}.partial")
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        partial_file.write_bytes(text.encode("utf-8", "backslashreplace"))  # paths may be no UTF-8
        os.replace(partial_file, path)  # noqa: PTH105
    except BaseException:
        partial_file.unlink(missing_ok=True)
        raise
