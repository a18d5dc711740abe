"""The engine: check every case before anything is written, then write every case so that a crash does no harm.

A case's files are written under temporary names and renamed; a record of the case follows. `dataset.json`, without
which nnU-Net sees no dataset, and the splits come last. Results depend neither on the number of jobs nor on
interruptions.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from dataset_conversion import splits
from dataset_conversion.check import Checked, check_case, image_array, label_array
from dataset_conversion.declare import REFUSED, WARNING, Case, Dataset, Found, Options, Problem
from dataset_conversion.report import ANY, Report
from dataset_conversion.volumes import read, write

WORK = ".conversion"
"""Folder of temporary files and records; gone when the conversion is complete."""
ENDING = ".nii.gz"
REPORT = "conversion_report.json"
CASES = "cases.csv"
"""Patients and cohorts, where the dataset has such."""
T = TypeVar("T")
R = TypeVar("R")


class RefusedError(ValueError):
    """Some cases cannot be used, and nothing was written. `report` says which and why."""

    def __init__(self, report: Report):
        n = len(report.refused_cases - {ANY})
        super().__init__(
            f"{report.summary()}\n\nnothing written: {n} of {report.found} cases refused; mend them, or leave them out "
            "with --skip-incomplete"
        )
        self.report = report


def plan(found: Found, options: Options) -> Report:
    """Check everything, write nothing. The report's cases are those that would be written."""
    duplicates = _same_ids(found.cases)
    checked = list(_each(partial(check_case, dataset=found.dataset, options=options), found.cases, options, "checking"))
    problems = [*found.problems, *duplicates, *(p for c in checked for p in c.problems)]
    problems += _same_content(checked, options)
    refused = {p.case for p in problems if p.level == REFUSED}
    kept = tuple(c for c in found.cases if c.id not in refused)
    training = [c for c in kept if not c.is_test]
    if not training:
        problems.append(Problem(REFUSED, ANY, "no case to train with is left"))
    elif not _folds(found, kept):
        problems.append(Problem(WARNING, ANY, "one patient only: no folds; train with fold all"))
    return Report(found.dataset, len(found.cases), kept, len(_folds(found, kept)), tuple(problems))


def convert(found: Found, raw: Path, options: Options, resume: bool = False) -> Report:
    """Check, then write the dataset below `raw` (nnUNet_raw).

    Raises RefusedError, with nothing written, if a case cannot be used and `skip_incomplete` is not set; ValueError if
    the dataset is there already; OSError if writing fails, after which `resume` goes on.
    """
    target = raw / found.dataset.folder
    _check_target(target, raw, found.dataset, resume)
    report = plan(found, options)
    if report.refused_cases and (not options.skip_incomplete or not report.is_convertible):
        raise RefusedError(report)
    work = target / WORK
    work.mkdir(parents=True, exist_ok=True)
    job = partial(write_case, dataset=found.dataset, options=options, target=target)
    for _ in _each(job, report.cases, options, "writing"):
        pass
    _remove_others(target, report.cases)
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


def write_case(case: Case, dataset: Dataset, options: Options, target: Path) -> str:
    """Write one case unless its record says that it is there, made from the same files in the same way."""
    record = target / WORK / f"{case.id}.json"
    signature = _signature(case, dataset, options)
    if _is_there(record, signature, target):
        return case.id
    grid = None
    written: dict[str, int] = {}
    folder = "Ts" if case.is_test else "Tr"
    for channel, path in enumerate(case.images):
        volume = read(path, options.prefer, options.fix_shear)
        name = f"images{folder}/{case.id}_{channel:04d}{ENDING}"
        moved = grid is not None and volume.geometry != grid
        grid = grid or volume.geometry
        array = image_array(volume, dataset, options)
        if volume.copyable and not moved and array is volume.array:
            _place(target, name, written, partial(_copy, path, options.link))
        else:
            _place(target, name, written, partial(write, array=array, grid=grid))
    if case.label is not None:
        volume = read(case.label, options.prefer, options.fix_shear)
        array = label_array(volume, dataset.label_map)
        name = f"labels{folder}/{case.id}{ENDING}"
        _place(target, name, written, partial(write, array=array, grid=grid or volume.geometry))
    _write_json(record, {"signature": signature, "files": written})
    return case.id


def _write_cases(path: Path, cases: Sequence[Case]) -> None:
    if not any(case.patient or case.stratum for case in cases):
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("case", "patient", "cohort"))
        table.writerows((case.id, case.patient, case.stratum) for case in sorted(cases, key=lambda c: c.id))


def _place(target: Path, name: str, written: dict[str, int], make: Callable[[Path], None]) -> None:
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
    written[name] = final.stat().st_size


def _copy(source: Path, link: str | None, path: Path) -> None:
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


def _signature(case: Case, dataset: Dataset, options: Options) -> list[Any]:
    """Changes when the sources or the way of converting do"""
    stats = [path.stat() for path in case.files]
    files = [[str(p), s.st_size, s.st_mtime_ns] for p, s in zip(case.files, stats, strict=True)]
    how = [sorted(dataset.label_map.items()), dataset.lowest, options.prefer, options.fix_shear, options.nan_to_zero,
           options.trust_array, options.link, case.is_test]  # fmt: skip
    return json.loads(json.dumps([files, how]))


def _is_there(record: Path, signature: list[Any], target: Path) -> bool:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        files = known["files"].items()
        return known["signature"] == signature and all((target / n).stat().st_size == size for n, size in files)
    except (OSError, ValueError, KeyError):
        return False


def _check_target(target: Path, raw: Path, dataset: Dataset, resume: bool) -> None:
    same_id = [p.name for p in raw.glob(f"Dataset{dataset.id:03d}_*") if p.name != target.name]
    if same_id:
        raise ValueError(f"id {dataset.id} is taken by {same_id[0]} in {raw}; choose another with -d")
    if not target.exists():
        return
    if (target / "dataset.json").exists() and not (target / WORK).exists():
        raise ValueError(f"{target}: is there already, and complete; remove it, or choose another id with -d")
    if not (target / WORK).is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: is there, and not by this command; remove it, or choose another id with -d")
    if not resume:
        raise ValueError(f"{target}: an unfinished conversion; go on with --resume, or remove it")


def _remove_others(target: Path, cases: Sequence[Case]) -> None:
    """Files of cases that an earlier, interrupted run wrote and this one leaves out"""
    ids = {case.id: case.is_test for case in cases}
    for folder, is_test in (("imagesTr", False), ("labelsTr", False), ("imagesTs", True), ("labelsTs", True)):
        for path in (target / folder).glob(f"*{ENDING}"):
            name = path.name[: -len(ENDING)]
            if ids.get(name[:-5] if folder.startswith("images") else name) != is_test:
                path.unlink()


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
    """The same images under two names: in two folds they would leak."""
    first: dict[str, str] = {}
    problems = []
    for one in sorted(checked, key=lambda c: c.case.id):
        if not one.digest:
            continue
        known = first.setdefault(one.digest, one.case.id)
        if known != one.case.id:
            level = WARNING if options.keep_duplicates else REFUSED
            hint = "" if options.keep_duplicates else "; --keep-duplicates keeps both"
            problems.append(Problem(level, one.case.id, f"the same images as {known}{hint}"))
    return problems


def _folds(found: Found, kept: Sequence[Case]) -> list[dict[str, list[str]]]:
    training = [c for c in kept if not c.is_test]
    if found.folds is None:
        return splits.folds(training)
    ids = {c.id for c in training}
    return [{part: [i for i in names if i in ids] for part, names in fold.items()} for fold in found.folds]


def _each(job: Callable[[T], R], items: Iterable[T], options: Options, title: str) -> Iterator[R]:
    """In order, in one or more processes, with a progress bar where a person is looking"""
    items = list(items)
    bar = partial(tqdm, total=len(items), desc=title, unit="case", disable=None)
    if options.jobs == 1 or len(items) < 2:
        yield from bar(map(job, items))
        return
    with ProcessPoolExecutor(min(options.jobs, len(items)), get_context("spawn")) as pool:
        try:
            yield from bar(pool.map(job, items))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_json(path: Path, content: Any) -> None:
    """Whole or not there"""
    partial_file = path.with_name(f".{path.name}.partial")
    try:
        partial_file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial_file, path)  # noqa: PTH105
    except BaseException:
        partial_file.unlink(missing_ok=True)
        raise
