"""What a user names, looked up before anything heavy is imported: datasets, their plans, configurations, models, folds.

Every refusal says what is there and what to type.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_mamba.checks import NNUNET_FOLDERS, nnunet_folder, nnunet_folders
from nnunet_mamba.whole_files import read_json, read_object

NAME = re.compile(r"Dataset\d{3}_.+")
PLANNED = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
"""Configurations that nnU-Net's planners, and ours, make."""
NNUNET_FOLDS = 5
SHOWN = 15


def dataset_name(name_or_number: str | int) -> str:
    """`4` -> `Dataset004_Hippocampus`. Raises ValueError if there is no such dataset or more than one."""
    folders = [Path(os.environ[v]) for v in NNUNET_FOLDERS if os.environ.get(v)]
    if not folders:
        nnunet_folders(*NNUNET_FOLDERS)
    given = str(name_or_number).strip().rstrip("/")
    there = (p for folder in folders for p in folder.glob("Dataset*") if p.is_dir())
    known = sorted({p.name for p in there if NAME.fullmatch(p.name)})
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
    numbers = [f"{int(name[7:10])} ({name[11:]})" for name in known]
    there = f"there are: {_shown(numbers)}" if known else "there is none"
    by_title = {name[11:].lower(): name for name in known}
    near = difflib.get_close_matches(given.lower().split("_")[-1], by_title, n=1, cutoff=0.75)
    meant = f". Did you mean -d {int(by_title[near[0]][7:10])}?" if near else ""
    if given.isascii() and given.isdecimal() and 0 < int(given) < 1000:
        return f"no Dataset{int(given):03d}_* in {_shown(folders)}; {there}"
    if NAME.fullmatch(given):
        return f"no {given} in {_shown(folders)}; {there}{meant}"
    expected = "expected a number from 1 to 999, or a name such as Dataset004_Hippocampus"
    return f"{expected}; in {_shown(folders)} {there}{meant}"


def read_dataset_json(dataset: str) -> dict[str, Any]:
    """Of the raw dataset, or its copy beside the preprocessed data. Raises ValueError if it is missing or no JSON."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        path = nnunet_folder(variable) / dataset / "dataset.json"
        if path.is_file():
            return read_object(path)
    raise ValueError(f"{nnunet_folder('nnUNet_raw') / dataset / 'dataset.json'}: no such file")


def plans_file(dataset: str, *names: str) -> Path:
    """The first of these plans that is there. Raises ValueError naming what is and the command that makes them."""
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    path = next((p for name in names if (p := folder / f"{name}.json").is_file()), None)
    if path is None:
        found = sorted(p.stem for p in folder.glob("*lans*.json"))
        raise ValueError(
            f"{dataset} has no {' or '.join(names)}; it has {', '.join(found) or 'no plans at all'}. Make them "
            f"with nnUNetv2_plan_and_preprocess -d {int(dataset[7:10])} (and -pl PLANNER), or name others"
        )
    return path


def check_configuration_name(name: str, plans: Path, option: str = "-c") -> None:
    """Raises ValueError for a configuration that these plans lack or, before they are made, that no planner makes."""
    if plans.is_file():
        configurations = read_object(plans).get("configurations")
        if not isinstance(configurations, dict):
            raise ValueError(f'{plans}: these are no plans of nnU-Net: "configurations" is missing or no JSON object')
        there = list(configurations)
        said = f"{plans.stem} has {', '.join(there)}"
    else:
        there, said = list(PLANNED), f"planners make {', '.join(PLANNED)}"
    if name not in there:
        raise ValueError(f"{option} {name}: {said}{_meant(name, there)}")


def model_folder(dataset: str, name: str) -> Path:
    """`nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`. Raises ValueError naming the models that are there."""
    folder = nnunet_folder("nnUNet_results") / dataset
    if not any((folder / name / file).is_file() for file in ("plans.json", "dataset.json")):
        others = sorted(p.parent.name for p in folder.glob("*__*__*/plans.json"))
        raise ValueError(
            f"{folder / name}: no trained model there. In {dataset}: {_shown(others) or 'none'}{_meant(name, others)}"
        )
    return folder / name


def number_of_folds(dataset: str) -> int:
    """Of the dataset's split: the one that trainings use, or the one that comes with the dataset, or nnU-Net's 5."""
    folders = [Path(os.environ[v]) for v in ("nnUNet_preprocessed", "nnUNet_raw") if os.environ.get(v)]
    for folder in folders:
        split = folder / dataset / "splits_final.json"
        if split.is_file():
            return len(_read_split(split))
    return NNUNET_FOLDS


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
