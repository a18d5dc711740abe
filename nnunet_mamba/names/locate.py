"""What a class name stands for: where its class lives if it is one of ours, and what was meant if it is nearly one.

Stock nnU-Net looks classes up by name: trainers, planners, label managers. Which networks and suffixes there are stands
in `networks` and `suffixes`. Imports nothing heavy.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from nnunet_mamba.names import networks, planners, suffixes

TRAINERS = "nnunet_mamba.trainers"
PLANNERS = "nnunet_mamba.planning"
LABEL_MANAGERS = "nnunet_mamba.study.calibration.label_manager"
"""Modules whose attributes are the classes, made when they are asked for."""

STOCK_TRAINER = "nnUNetTrainer"
THRESHOLDS = "LabelManagerThresholds"
PREFIXES = ("nnUNetTrainer", "nnUNetPlanner")
TRAINER_FOLDER, PLANNER_FOLDER = "nnUNetTrainer", "experiment_planning"
NEAR = 0.78
"""Similarity (difflib) above which an unknown name counts as a misspelling of one of ours."""


def locate(class_name: str) -> str | None:
    """Where the class of this name lives, as "module:attribute"; None for a name that is not ours.

    The stock trainer is ours only with a suffix that nnU-Net lacks (`nnUNetTrainer_5epochs_20its`) and that a fair
    comparison needs.
    """
    if planners.parse(class_name) is not None:
        return f"{PLANNERS}:{class_name}"
    if parse_thresholds(class_name) is not None:
        return f"{LABEL_MANAGERS}:{class_name}"
    if class_name in networks.trainers() or _has_our_suffixes(class_name):
        return f"{TRAINERS}:{class_name}"
    return None


def _has_our_suffixes(class_name: str) -> bool:
    parts = suffixes.parse(class_name)
    if parts is None or parts.name != class_name or parts.conflict() is not None:
        return False
    return parts.base in networks.trainers() or (parts.base == STOCK_TRAINER and parts.is_ours)


def thresholds_name(thresholds: Sequence[float]) -> str:
    """(0.42, 0.5) -> the label manager `LabelManagerThresholds_420_500`. Raises ValueError outside of 0 to 1."""
    if not thresholds or any(not 0 < t < 1 for t in thresholds):
        raise ValueError(f"thresholds {tuple(thresholds)}; expected numbers between 0 and 1")
    return THRESHOLDS + "".join(f"_{round(1000 * t)}" for t in thresholds)


def parse_thresholds(class_name: str) -> tuple[float, ...] | None:
    """`LabelManagerThresholds_420_500` -> (0.42, 0.5); None for other names."""
    name, *numbers = class_name.split("_")
    if name != THRESHOLDS or not numbers or not all(n.isdecimal() and 0 < int(n) < 1000 for n in numbers):
        return None
    return tuple(int(n) / 1000 for n in numbers)


def check_trainer(class_name: str) -> None:
    """Raises ValueError for a trainer that neither we nor nnU-Net know. Imports no trainer."""
    if locate(class_name) is not None:
        return
    folder = str(Path(_spec_origin("nnunetv2")).parent / "training" / TRAINER_FOLDER)
    refuse_misspelt(folder, class_name)
    if not any(_defines(path, class_name) for path in _searched(folder)):
        raise ValueError(
            f"{class_name!r} is not known to nnU-Net or to nnunet_mamba; ours: {', '.join(networks.trainers())}, with "
            "the suffixes of nnunet-mamba list --trainers"
        )


def _spec_origin(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def refuse_misspelt(folder: str, class_name: str) -> None:
    """Raises ValueError for a name that is nearly one of ours."""
    refused = refusal(folder, class_name)
    if refused is not None:
        raise ValueError(f"{class_name}: {refused}. All suffixes: nnunet-mamba list --trainers")
    meant = suggestion(folder, class_name)
    if meant is not None:
        raise ValueError(f"{class_name!r} is not known to nnU-Net or to nnunet_mamba. Did you mean {meant}?")


def refusal(folder: str, class_name: str) -> str | None:
    """What is wrong with the suffixes of one of our names; None if nothing is or somebody else defines it."""
    if Path(folder).name == PLANNER_FOLDER:
        wrong = planners.refusal(class_name)
        return None if wrong is None or any(_defines(path, class_name) for path in _searched(folder)) else wrong
    base, _, rest = class_name.partition("_")
    parts = suffixes.parse(class_name)
    ours = base in networks.trainers() or (base == STOCK_TRAINER and parts is not None and parts.is_ours)
    if Path(folder).name != TRAINER_FOLDER or not rest or not ours:
        return None
    if any(_defines(path, class_name) for path in _searched(folder)):
        return None
    unknown = suffixes.unknown_suffixes(class_name)
    if unknown:
        known = ", ".join(s.form for s in suffixes.SUFFIXES)
        return f"_{unknown[0]} is not a suffix of our trainers; expected {known}"
    if parts is None:
        return "a suffix stands twice, or _its without a number of epochs"
    conflict = parts.conflict()
    if conflict is None and sorted(parts.name.split("_")) != sorted(class_name.split("_")):
        return f"one training has one name, and this one is written {parts.name}"
    return conflict or f"the suffixes have an order, so that one training has one name: {parts.name}"


def suggestion(folder: str, class_name: str) -> str | None:
    """One of our names that `class_name` is probably meant to be; None if somebody else defines `class_name`.

    Answered before nnU-Net imports its trainer variants one after the other, which takes 15 to 20 s.
    """
    kind = Path(folder).name
    if kind not in (TRAINER_FOLDER, PLANNER_FOLDER):
        return None
    names = networks.planners() if kind == PLANNER_FOLDER else networks.trainers()
    parts = suffixes.parse(class_name.removesuffix(f"_{planners.TORCHRES}"))
    base = class_name.removesuffix(f"_{planners.TORCHRES}") if parts is None else parts.base
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
