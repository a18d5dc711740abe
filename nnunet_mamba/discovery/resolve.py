"""Our names in nnU-Net's class lookup; everything else goes to nnU-Net unchanged."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from nnunet_mamba import registry, trainer_names

FUNCTION = "recursive_find_python_class"
EXPECTED_PARAMETERS = ["folder", "class_name"]
SECOND_WAY = Path(__file__).parent / "ext_trainer"
PREFIXES = ("nnUNetTrainer", "nnUNetPlanner")
TRAINER_FOLDER, PLANNER_FOLDER = "nnUNetTrainer", "experiment_planning"
NEAR = 0.75
"""Similarity (difflib) above which an unknown name counts as a misspelling of one of ours."""


def load(place: str) -> type:
    """The class at "module:attribute"."""
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def wrap_lookup(module: ModuleType) -> None:
    """Wrap the lookup function of nnU-Net's module, also where other modules of nnU-Net have imported it by name."""
    original = getattr(module, FUNCTION, None)
    if getattr(original, "knows_nnunet_mamba", False):
        return
    if original is None or list(inspect.signature(original).parameters)[:2] != EXPECTED_PARAMETERS:
        warnings.warn(
            f"nnunet_mamba: this nnU-Net has no {FUNCTION}(folder, class_name, ...) in {module.__name__}, so it cannot "
            f"find our trainers by itself. Set nnUNet_extTrainer={SECOND_WAY} instead, or install nnunetv2 2.8",
            stacklevel=2,
        )
        return
    wrapped = _with_our_names(original)
    for other in [module, *(m for name, m in list(sys.modules.items()) if name.startswith("nnunetv2.") and m)]:
        if getattr(other, FUNCTION, None) is original:
            setattr(other, FUNCTION, wrapped)


def _with_our_names(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def recursive_find_python_class(folder: str, class_name: str, *args: Any, **kwargs: Any) -> Any:
        place = registry.locate(class_name)
        if place is not None:
            return load(place)
        _refuse(folder, class_name)
        return original(folder, class_name, *args, **kwargs)

    recursive_find_python_class.knows_nnunet_mamba = True  # type: ignore[attr-defined]
    return recursive_find_python_class


def check_trainer(class_name: str) -> None:
    """Raises ValueError for a trainer that neither we nor nnU-Net know. Imports no trainer."""
    if registry.locate(class_name) is not None:
        return
    folder = str(Path(_spec_origin("nnunetv2")).parent / "training" / TRAINER_FOLDER)
    _refuse(folder, class_name)
    if not any(_defines(path, class_name) for path in _searched(folder)):
        raise ValueError(
            f"{class_name!r} is not known to nnU-Net or to nnunet_mamba; ours: {', '.join(registry.trainers())}, with "
            "the suffixes of nnunet-mamba list --trainers"
        )


def _spec_origin(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def _refuse(folder: str, class_name: str) -> None:
    """Raises ValueError for a name that is nearly one of ours."""
    refused = refusal(folder, class_name)
    if refused is not None:
        raise ValueError(f"{class_name}: {refused}. All suffixes: nnunet-mamba list --trainers")
    meant = suggestion(folder, class_name)
    if meant is not None:
        raise ValueError(f"{class_name!r} is not known to nnU-Net or to nnunet_mamba. Did you mean {meant}?")


def refusal(folder: str, class_name: str) -> str | None:
    """What is wrong with the suffixes of one of our trainers' names; None if nothing is or somebody else defines it."""
    base, _, suffixes = class_name.partition("_")
    variant = trainer_names.parse(class_name)
    ours = base in registry.trainers() or (base == registry.STOCK_TRAINER and variant is not None and variant.is_ours)
    if Path(folder).name != TRAINER_FOLDER or not suffixes or not ours:
        return None
    if any(_defines(path, class_name) for path in _searched(folder)):
        return None
    unknown = trainer_names.unknown_suffixes(class_name)
    if unknown:
        known = ", ".join(s.form for s in trainer_names.SUFFIXES)
        return f"_{unknown[0]} is no suffix of our trainers; expected {known}"
    if variant is None:
        return "a suffix stands twice, or _its without a number of epochs"
    conflict = variant.conflict()
    if conflict is None and sorted(variant.name.split("_")) != sorted(class_name.split("_")):
        return f"one training has one name, and this one is written {variant.name}"
    return conflict or f"the suffixes have an order, so that one training has one name: {variant.name}"


def suggestion(folder: str, class_name: str) -> str | None:
    """One of our names that `class_name` is probably meant to be; None if somebody else defines `class_name`.

    Answered before nnU-Net imports its trainer variants one after the other, which takes 15 to 20 s.
    """
    kind = Path(folder).name
    if kind not in (TRAINER_FOLDER, PLANNER_FOLDER):
        return None
    names = registry.planners() if kind == PLANNER_FOLDER else registry.trainers()
    variant = trainer_names.parse(class_name)
    base = class_name if variant is None else variant.base
    short = {_without_prefix(name).lower(): name for name in names}
    near = difflib.get_close_matches(_without_prefix(base).lower(), short, n=1, cutoff=NEAR)
    if not near or any(_defines(path, class_name) for path in _searched(folder)):
        return None
    return short[near[0]] + class_name[len(base) :]


def _without_prefix(name: str) -> str:
    return next((name[len(prefix) :] for prefix in PREFIXES if name.lower().startswith(prefix.lower())), name)


def _searched(folder: str) -> Iterator[Path]:
    yield Path(folder)
    for path in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep):
        if path.strip():
            yield Path(path)


def _defines(folder: Path, class_name: str) -> bool:
    """Whether a Python file below this folder defines the name, by its text: importing would take seconds."""
    pattern = re.compile(rf"^\s*(class\s+{re.escape(class_name)}\b|{re.escape(class_name)}\s*=)", re.MULTILINE)
    return any(pattern.search(path.read_text(encoding="utf-8", errors="replace")) for path in folder.rglob("*.py"))
