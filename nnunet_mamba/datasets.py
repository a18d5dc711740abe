"""What a user names, looked up before anything heavy is imported: datasets, their plans, configurations, models, folds.

Every refusal says what is there and what to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_mamba.nnunet_folders import (
    DATASET_NAME,
    NNUNET_FOLDS,
    VARIABLES,
    Dataset,
    ModelFolder,
    dataset_names,
    models_in,
    roots,
    roots_that_are_set,
)
from nnunet_mamba.whole_files import read_json, read_object

PLANNED = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
"""Configurations that nnU-Net's planners, and ours, make."""
SHOWN = 15


def dataset_name(name_or_number: str | int) -> str:
    """`4` -> `Dataset004_Hippocampus`. Raises ValueError if there is no such dataset or more than one."""
    folders = roots_that_are_set() or roots(*VARIABLES)
    given = str(name_or_number).strip().rstrip("/")
    known = dataset_names()
    if given in known:
        found = [given]
    elif given.isascii() and given.isdecimal() and 0 < int(given) < 1000:
        found = [str(name) for name in find_candidate_datasets(int(given))]
    else:
        found = []
    if len(found) > 1:
        raise ValueError(
            f"-d {name_or_number}: {' and '.join(found)} have the same number, which nnU-Net refuses; rename or move "
            f"all but one of them in {_shown(folders)}"
        )
    if not found:
        raise ValueError(f"-d {name_or_number}: {_no_dataset(given, folders, known)}")
    return found[0]


def _no_dataset(given: str, folders: Iterable[Path], known: list[str]) -> str:
    datasets = [Dataset(name) for name in known]
    numbers = [f"{d.number} ({d.title})" for d in datasets]
    there = f"there are: {_shown(numbers)}" if known else "there is none"
    by_title = {d.title.lower(): d for d in datasets}
    near = difflib.get_close_matches(given.lower().split("_")[-1], by_title, n=1, cutoff=0.75)
    meant = f". Did you mean -d {by_title[near[0]].number}?" if near else ""
    if given.isascii() and given.isdecimal() and 0 < int(given) < 1000:
        return f"no Dataset{int(given):03d}_* in {_shown(folders)}; {there}"
    if DATASET_NAME.fullmatch(given):
        return f"no {given} in {_shown(folders)}; {there}{meant}"
    expected = "expected a number from 1 to 999, or a name such as Dataset004_Hippocampus"
    return f"{expected}; in {_shown(folders)} {there}{meant}"


def read_dataset_json(dataset: str) -> dict[str, Any]:
    """Of the raw dataset, or its copy next to the preprocessed data. Raises ValueError if it is missing or no JSON."""
    folders = Dataset(dataset)
    for path in (folders.dataset_json, folders.preprocessed_dataset_json):
        if path.is_file():
            return read_object(path)
    raise ValueError(f"{folders.dataset_json}: no such file")


def plans_file(dataset: str, *names: str) -> Path:
    """The first of these plans that is there. Raises ValueError naming what is and the command that makes them."""
    folders = Dataset(dataset)
    path = next((p for name in names if (p := folders.plans(name)).is_file()), None)
    if path is None:
        found = folders.plans_names()
        raise ValueError(
            f"{dataset} has no {' or '.join(names)}; it has {', '.join(found) or 'no plans at all'}. Make them "
            f"with nnUNetv2_plan_and_preprocess -d {folders.number} (and -pl PLANNER), or name others"
        )
    return path


def check_configuration_name(name: str, plans: Path, option: str = "-c") -> None:
    """Raises ValueError for a configuration that these plans lack or, before they are made, that no planner makes."""
    if plans.is_file():
        configurations = read_object(plans).get("configurations")
        if not isinstance(configurations, dict):
            raise ValueError(f'{plans}: these are not plans of nnU-Net: "configurations" is missing or no JSON object')
        there = list(configurations)
        said = f"{plans.stem} has {', '.join(there)}"
    else:
        there, said = list(PLANNED), f"planners make {', '.join(PLANNED)}"
    if name not in there:
        raise ValueError(f"{option} {name}: {said}{_meant(name, there)}")


def find_model(dataset: str, name: str) -> ModelFolder:
    """The model `TRAINER__PLANS__CONFIGURATION` of a dataset. Raises ValueError naming the models that are there."""
    results = Dataset(dataset).results
    folder = ModelFolder(results / name)
    if not (folder.plans.is_file() or folder.dataset_json.is_file()):
        others = models_in(results)
        raise ValueError(
            f"{folder.path}: no trained model there. In {dataset}: {_shown(others) or 'none'}{_meant(name, others)}"
        )
    return folder


def number_of_folds(dataset: str) -> int:
    """Of the dataset's split: the one that trainings use, or the one that comes with the dataset, or nnU-Net's 5."""
    split = next((path for path in Dataset(dataset).splits() if path.is_file()), None)
    return NNUNET_FOLDS if split is None else len(_read_split(split))


def _read_split(path: Path) -> list[Any]:
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(
            f'{path}: expected a list of folds, [{{"train": [...], "val": [...]}}, ...]; correct it, or delete it '
            "and nnU-Net makes a new one"
        )
    return content


def check_folds(dataset: str, folds: Iterable[int]) -> None:
    """Raises ValueError for folds that the dataset's split does not have: nnU-Net would split at random instead."""
    count = number_of_folds(dataset)
    wrong = [f for f in folds if not 0 <= f < count]
    if wrong:
        numbers = " ".join(map(str, range(count)))
        raise ValueError(f"-f {' '.join(map(str, wrong))}: the dataset is split into {count} folds; -f {numbers}")


def _meant(name: str, there: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(there), n=1)
    return f". Did you mean {near[0]}?" if near else ""


def _shown(things: Iterable[object]) -> str:
    """ "a, b, c", cut where there are many"""
    names = [str(t) for t in things]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
