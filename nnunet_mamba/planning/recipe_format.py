"""What recipes and grids may say, checked by name before anything is planned. Imports nothing heavy."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_mamba.names import networks, suffixes

NAME = re.compile(r"[A-Za-z0-9](?:_?[A-Za-z0-9.-])*")
MOST_LETTERS, MOST_VOXELS, MOST_BATCH, MOST_STAGES, MOST_WIDTH = 100, 1024, 1024, 10, 4096
MOST_KERNEL, MOST_STRIDE = 15, 8
MOST_EPOCHS = 100_000


@dataclass(frozen=True)
class Field:
    """One key of a recipe: what it means, what it may be in words, and a check that returns whether a value is that."""

    key: str
    meaning: str
    expected: str
    allowed: Callable[[Any], bool]
    needed: bool = True


def is_whole(value: Any, most: int) -> bool:
    """A whole number from 1 to `most`; true and 1.0 are none"""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_number(value: Any) -> bool:
    """A finite number > 0; true is none"""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and 0 < value < 1e300 and math.isfinite(value)


def is_name(value: Any) -> bool:
    """What can be part of a folder's name of nnU-Net, which takes names apart at two underscores"""
    return isinstance(value, str) and len(value) <= MOST_LETTERS and NAME.fullmatch(value) is not None


def is_patch(value: Any) -> bool:
    """Two or three whole numbers"""
    return isinstance(value, list) and len(value) in (2, 3) and all(is_whole(v, MOST_VOXELS) for v in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(v) for v in value)


def _are_whole(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and 1 <= len(value) <= MOST_STAGES and all(
        is_whole(v, most) for v in value
    )  # fmt: skip


def _numbers(what: str, most: int) -> str:
    return f"a list of at most {MOST_STAGES} whole numbers from 1 to {most}, {what}"


def _is_training(value: Any) -> bool:
    return isinstance(value, str) and suffixes.parse(f"nnUNetTrainer_{value}") is not None


def _are_trainers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and NAME.fullmatch(v) for v in value)


def _are_seeds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_whole(v, 2**32 - 1) for v in value)


def _are_folds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(n) is int and 0 <= n < 5 for n in value)


NAMES = "letters, digits, single underscores, dots and dashes, as in a folder's name"
TOPOLOGY = (
    Field("features_per_stage", "widths", _numbers("one per stage", MOST_WIDTH), _are_whole(MOST_WIDTH)),
    Field("kernel_sizes", "kernels, the same along every axis", _numbers("one per stage", MOST_KERNEL),
          _are_whole(MOST_KERNEL)),
    Field("strides", "strides, the same along every axis", _numbers("one per stage", MOST_STRIDE),
          _are_whole(MOST_STRIDE)),
)  # fmt: skip
RECIPE = (
    Field("name", "the recipe's own name", "a text", _is_text),
    Field("purpose", "what it is for, shown by `nnunet-mamba plan-from-recipe`", "a text", _is_text, needed=False),
    Field("source", "where the numbers are from", "a text", _is_text),
    Field("differs", "what differs from the source, shown in the preview", "a list of texts", _are_texts),
    Field("network", "one of our networks", f"one of {', '.join(n.name for n in networks.NETWORKS)}", _is_text),
    Field("configuration", "name of the new configuration in the plans", NAMES, is_name),
    Field("inherits_from", "configuration of the plans that gives spacing, normalization and all else", NAMES, is_name),
    Field("patch_size", "voxels along x y z of the image (2d: along x y of a slice)",
          f"2 or 3 whole numbers from 1 to {MOST_VOXELS}", is_patch),
    Field("batch_size", "patches in a batch", f"a whole number from 1 to {MOST_BATCH}",
          lambda v: is_whole(v, MOST_BATCH)),
    Field("topology", "stages of the network; without it nnU-Net's rules for this patch", "an object of "
          + ", ".join(f.key for f in TOPOLOGY), lambda v: isinstance(v, dict), needed=False),
    Field("base_features", "without topology: width of the first stage, doubled in the next ones; without it the "
          "network's own", f"a whole number from 1 to {MOST_WIDTH}", lambda v: is_whole(v, MOST_WIDTH), needed=False),
    Field("max_features", "without topology: most of these widths; without it the network's own",
          f"a whole number from 1 to {MOST_WIDTH}", lambda v: is_whole(v, MOST_WIDTH), needed=False),
)  # fmt: skip
DEMO = (
    *RECIPE[:4],
    Field("cpu", "the training on a CPU", "an object", lambda v: isinstance(v, dict)),
    Field("gpu", "the training on a GPU", "an object", lambda v: isinstance(v, dict)),
)
_SHRUNK = ("inherits_from", "batch_size", "base_features", "max_features", "max_patch_voxels")
TRAINING = Field(
    "training", "suffixes of the trainers' names", "suffixes as in AdamW_lr3e-3_5epochs_50its", _is_training
)
SIZE = (
    Field("configuration", "", NAMES, is_name),
    Field("inherits_from", "", NAMES, is_name, needed=False),
    *(Field(key, "", "a whole number > 0", lambda v: is_whole(v, 10**9), needed=False) for key in _SHRUNK[1:]),
    Field("coarsen", "", "a number > 0", is_number, needed=False),
)


_TRAINERS = "a list of names of trainers"
STUDY = (
    *RECIPE[:4],
    Field("configuration", "that of the plans, or one made smaller", "an object", lambda v: isinstance(v, dict)),
    TRAINING,
    Field("seeds", "the first for all trainers", "a list of whole numbers", _are_seeds),
    Field("pairs", "control last: the difference of each is a row of the table", "a list of pairs of names of trainers",
          lambda v: isinstance(v, list) and bool(v) and all(_are_trainers(p) and len(p) == 2 for p in v)),
    Field("folds", "of nnU-Net's split; without it all five", "a list of whole numbers from 0 to 4",
          _are_folds, needed=False),
    Field("others", "trained and shown, without a place in the question", _TRAINERS, _are_trainers, needed=False),
    Field("repeated", "trained with every seed", _TRAINERS, _are_trainers, needed=False),
)  # fmt: skip


STAGES = (
    SIZE[0],
    *(f for f in RECIPE if f.key in ("inherits_from", "batch_size")),
    next(f for f in SIZE if f.key == "coarsen"),
    Field("topology", "", "an object of " + ", ".join(f.key for f in TOPOLOGY), lambda v: isinstance(v, dict)),
)
TRAINED = (
    Field("name", "", NAMES, is_name),
    Field("trainer", "", "a trainer's name", lambda v: isinstance(v, str) and NAME.fullmatch(v) is not None),
    Field("keywords", "", "an object", lambda v: isinstance(v, dict), needed=False),
)
REACH = (
    *RECIPE[:4],
    Field("probes", "options of `nnunet-mamba convert probe`, one object for each dataset", "a list of objects",
          lambda v: isinstance(v, list) and bool(v) and all(isinstance(p, dict) for p in v)),
    Field("cases", "of each dataset; a fifth of them is never trained on", "a whole number from 10 to 9999",
          lambda v: is_whole(v, 9999) and v >= 2 * 5),
    Field("configuration", "stages and batch of all networks; the patch is the whole volume", "an object",
          lambda v: isinstance(v, dict)),
    TRAINING,
    Field("seeds", "all for every network", "a list of whole numbers", _are_seeds),
    Field("networks", "trainers, with keywords of the network that its plan shall have", "a list of objects",
          lambda v: isinstance(v, list) and bool(v) and all(isinstance(n, dict) for n in v)),
    Field("solved", "least mean Dice of a training that counts as solved", "a number from 0 to 1",
          lambda v: is_number(v) and v <= 1),
    Field("guessed", "Dice without seeing what is far", "a number from 0 to 1", lambda v: is_number(v) and v <= 1),
)  # fmt: skip


def check_recipe(recipe: Mapping[str, Any]) -> networks.Network:
    """The recipe's network. Raises ValueError naming what is missing, unknown, or of another kind."""
    what = f"recipe {_short(recipe.get('name', '?'))}"
    _check(recipe, RECIPE, what, "not a recipe for plans")
    if recipe["configuration"] == recipe["inherits_from"]:
        raise ValueError(
            f"{what}: configuration and inherits_from are both {recipe['inherits_from']}, and nothing inherits from "
            "itself; give the new configuration a name of its own"
        )
    if "topology" in recipe:
        _check_topology(recipe["topology"], what)
        too_much = [key for key in ("base_features", "max_features") if key in recipe]
        if too_much:
            raise ValueError(f"{what}: {', '.join(too_much)}: topology has the widths already; leave one of them out")
    return networks.network(recipe["network"])


def _check_topology(topology: Mapping[str, Any], what: str) -> None:
    _check(topology, TOPOLOGY, f"{what}: topology")
    n = len(topology["features_per_stage"])
    if len(topology["kernel_sizes"]) != n or len(topology["strides"]) != n:
        raise ValueError(f"{what}: topology needs as many kernel_sizes and strides as widths, {n}")
    if n < 2:
        raise ValueError(f"{what}: topology has {n} stage; expected 2 to {MOST_STAGES}")


def makes_its_data(recipe: Mapping[str, Any]) -> bool:
    """Whether a study is about invented data, and needs no download"""
    return "probes" in recipe


def check_reach(recipe: Mapping[str, Any]) -> None:
    """Raises ValueError for what is not a recipe of a study on invented data; the probes check their options."""
    what = f"recipe {_short(recipe.get('name', '?'))}"
    _check(recipe, REACH, what, "not a recipe for a study of reach")
    configuration = recipe["configuration"]
    _check(configuration, STAGES, f"{what}: configuration")
    _check_topology(configuration["topology"], f"{what}: configuration")
    for kind in recipe["networks"]:
        _check(kind, TRAINED, f"{what}: networks")
    names = [kind["name"] for kind in recipe["networks"]]
    if len(set(names)) < len(names):
        raise ValueError(f"{what}: networks {', '.join(names)}: names of two networks are the same")


def check_study(recipe: Mapping[str, Any]) -> None:
    """Raises ValueError for what is not a recipe of `nnunet-mamba study`."""
    what = f"recipe {_short(recipe.get('name', '?'))}"
    _check(recipe, STUDY, what, "not a recipe for a study")
    _check_part(recipe["configuration"], f"{what}: configuration", SIZE)
    named = {name for pair in recipe["pairs"] for name in pair} | set(recipe.get("others", ()))
    strangers = [name for name in recipe.get("repeated", ()) if name not in named]
    if strangers:
        raise ValueError(f"{what}: repeated {', '.join(strangers)}; expected trainers of pairs or others")


def check_demo(recipe: Mapping[str, Any]) -> None:
    """Raises ValueError for what is not a recipe of `nnunet-mamba demo`."""
    what = f"recipe {_short(recipe.get('name', '?'))}"
    _check(recipe, DEMO, what, "not a recipe for the demo")
    for part in ("cpu", "gpu"):
        _check_part(recipe[part], f"{what}: {part}", (*SIZE, TRAINING))


def _check_part(part: Mapping[str, Any], what: str, fields: Sequence[Field]) -> None:
    _check(part, fields, what)
    missing = [key for key in _SHRUNK if key not in part]
    if "inherits_from" in part and missing:
        raise ValueError(f"{what}: {', '.join(missing)} missing, which belong to inherits_from")


def _check(given: Mapping[str, Any], fields: Sequence[Field], what: str, otherwise: str = "") -> None:
    missing = [f.key for f in fields if f.needed and f.key not in given]
    if missing:
        raise ValueError(f"{what}: {', '.join(missing)} missing{'; ' if otherwise else ''}{otherwise}")
    known = [f.key for f in fields]
    check_keys(given, known, what)
    for field in fields:
        if field.key in given and not field.allowed(given[field.key]):
            raise ValueError(f"{what}: {field.key} {_short(given[field.key])}; expected {field.expected}")


def check_keys(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raises ValueError for keys that are not known, with the one that was probably meant."""
    unknown = [key for key in given if key not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f". Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{what}: unknown {', '.join(map(_short, unknown))}; allowed: {', '.join(known)}{meant}")


def _short(value: Any) -> str:
    """A value as it is printed, cut where it is long; names as they are"""
    text = value if isinstance(value, str) and NAME.fullmatch(value) else repr(value)
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "..."
