"""Trainer names taken apart and put together: `nnUNetTrainerSegMamba_AdamW_bf16_lossClDice_100epochs`.

Every suffix changes one thing of nnU-Net's training. This is the list of them, read by discovery, by the command
`nnunet-mamba list --trainers`, and by the classes that do what the suffixes say (`nnunet_mamba.trainers.suffixed`).
Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from nnunet_mamba.names import networks

PRECISIONS = ("bf16", "fp16", "fp32")
LOSSES = ("Dice", "CE", "TopK10", "DiceTopK10", "ClDice", "SkeletonRecall")
"""Losses other than nnU-Net's own sum of Dice and cross-entropy. The last two are added to that sum."""
LABELS_ONLY = ("TopK10", "DiceTopK10")
"""Losses that need labels excluding each other: not for regions."""
ADAMW, AS_RELEASED = "AdamW", "asReleased"
RECIPES = (ADAMW, AS_RELEASED)
RELEASED_TRAINERS = ("nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaNoMamba")
"""Trainers whose released training differs from nnU-Net's in a way that `_asReleased` states."""


@dataclass(frozen=True)
class TrainerName:
    """A trainer name taken apart; None is nnU-Net's own value.

    `nnUNetTrainerSegMamba_lr1e-3_fg66_lossDiceTopK10_5epochs_20its`: initial learning rate 0.001, two thirds of the
    patches with foreground in them, another loss, 5 epochs of 20 iterations.
    """

    base: str
    epochs: int | None = None
    iterations: int | None = None
    initial_lr: float | None = None
    foreground: float | None = None
    loss: str | None = None
    recipe: str | None = None
    precision: str | None = None
    accumulate: int | None = None
    patience: int | None = None
    mirroring: bool | None = None
    rotation: bool | None = None
    mamba2: bool | None = None
    same_size: bool | None = None
    conv3d: bool | None = None

    @property
    def mixing(self) -> dict[str, Any]:
        """What of the network's record these suffixes replace: fields of `networks.Network`"""
        return {name: value for s in self._of_the_network() for name, value in (s.network or {}).items()}

    @property
    def is_ours(self) -> bool:
        """Whether a suffix is there that nnU-Net itself does not know."""
        return any(getattr(self, f.name) is not None for f in fields(self) if f.name not in ("base", "epochs"))

    @property
    def name(self) -> str:
        """The trainer's name. Raises ValueError for values that names cannot express."""
        return "_".join((self.base, *(text for text, _ in self.meanings())))

    def meanings(self) -> list[tuple[str, str]]:
        """Every suffix of this name, and what it means."""
        values = ((s, getattr(self, s.field)) for s in SUFFIXES)
        return [(s.write(value), s.meaning) for s, value in values if value is not None]

    def conflict(self) -> str | None:
        """Why these suffixes do not go together, in words; None if they do."""
        if self.mixing:
            refused = self._mixing_conflict()
            if refused is not None:
                return refused
        if self.recipe == AS_RELEASED:
            if self.base not in RELEASED_TRAINERS:
                return f"_{AS_RELEASED} is the released training of SegMamba; it goes with {RELEASED_TRAINERS[0]} only"
            if self.initial_lr is not None or self.loss is not None:
                return f"_{AS_RELEASED} sets learning rate and loss itself: leave out _lr and _loss"
        if self.patience is not None and self.epochs is not None and self.patience >= self.epochs:
            return (
                f"_stop{self.patience} waits {self.patience} epochs for a better one: it never stops a training of "
                f"{self.epochs}"
            )
        return None

    def _mixing_conflict(self) -> str | None:
        found = self._of_the_network()
        given = " and ".join(f"_{s.write(True)}" for s in found)
        kind = next((kind for kind in networks.with_twins() if kind.trainer == self.base), None)
        if kind is None:
            return f"{given} changes the layers of our networks; {self.base} has none of them"
        if kind.mixer == "none":
            own = kind.trainer.removesuffix(networks.NO_MAMBA)
            return f"{kind.trainer} has no Mamba layers that {given} could change; it goes with {own}"
        if sum("mixer" in (s.network or ()) for s in found) > 1:
            return f"{given} both say what stands in the place of the Mamba layers; leave one of them out"
        if self.same_size and self.conv3d:
            return "_SameSize has a convolution of the volume and no scan that _Conv3d could change; leave _Conv3d out"
        if self.mixing.get("mixer") == kind.published_mixer:
            return f"{kind.title} has what {given} asks for as published; leave it out"
        return None

    def _of_the_network(self) -> list[Suffix]:
        return [s for s in SUFFIXES if s.network and getattr(self, s.field)]


@dataclass(frozen=True)
class Suffix:
    """One thing that names can change. `form` is for people, `pattern` matches what stands between underscores.

    `network`: what it replaces of the network's record; planners have such a suffix too, and its value is True.
    """

    field: str
    form: str
    meaning: str
    pattern: re.Pattern[str]
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    network: Mapping[str, Any] | None = None


def _lr_digits(value: float) -> str:
    """0.0025 -> "lr25e-4" """
    if not value > 0:
        raise ValueError(f"learning rate {value}; expected a number > 0")
    _, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    mantissa = "".join(map(str, digits))
    return f"lr{mantissa}" if exponent == 0 else f"lr{mantissa}e{exponent}"


def _percent(share: float) -> str:
    percent = round(100 * share)
    if not 0 <= percent <= 100:
        raise ValueError(f"foreground oversampling {share}; expected a share between 0 and 1")
    return f"fg{percent}"


def _loss_name(loss: str) -> str:
    if loss not in LOSSES and not DICE_CE_WEIGHTS.fullmatch(loss):
        raise ValueError(f"loss {loss!r}; expected one of {', '.join(LOSSES)}, or weights like Dice1CE2")
    return f"loss{loss}"


def _counted(word: str) -> Callable[[int], str]:
    return lambda count: f"{word}{count}"


DICE_CE_WEIGHTS = re.compile(r"Dice(?P<dice>[1-9]\d*)CE(?P<ce>[1-9]\d*)")
SUFFIXES = (
    Suffix("mamba2", "_Mamba2", "Mamba-2 in the place of Mamba layers; our own definition where there is no paper",
           re.compile("Mamba2"), lambda _: True, lambda _: "Mamba2", {"mixer": "mamba2"}),
    Suffix("same_size", "_SameSize", "convolutions with as many parameters in the place of the Mamba layers: a control "
           "of the same size", re.compile("SameSize"), lambda _: True, lambda _: "SameSize", {"mixer": "conv"}),
    Suffix("conv3d", "_Conv3d", "before the scan, a convolution of the volume (2d: of the slice) instead of one along "
           "the sequence of tokens", re.compile("Conv3d"), lambda _: True, lambda _: "Conv3d", {"conv3d": True}),
    Suffix("recipe", "_AdamW, _asReleased",
           "AdamW: AdamW 1e-4 with 10 epochs of linear warm-up, then cosine to 1e-6 instead of SGD 1e-2 with "
           "polynomial decay. asReleased: SegMamba's released training, cross-entropy on the full resolution only",
           re.compile("|".join(RECIPES)), str, str),
    Suffix("initial_lr", "_lr1e-3", "initial (AdamW: highest) learning rate; nnU-Net: 1e-2",
           re.compile(r"lr([1-9]\d*(?:e-?\d+)?)"), float, _lr_digits),
    Suffix("precision", "_bf16, _fp16, _fp32",
           "precision of the training steps; otherwise bf16 where the GPU has it, else fp16, and fp32 on a CPU",
           re.compile("|".join(PRECISIONS)), str, str),
    Suffix("accumulate", "_accum4", "gradients of this many batches per step; an epoch takes that many times as long",
           re.compile(r"accum([2-9]|[1-9]\d+)"), int, _counted("accum")),
    Suffix("patience", "_stop50", "stop after this many epochs without a better pseudo Dice and keep the best weights",
           re.compile(r"stop([1-9]\d*)"), int, _counted("stop")),
    Suffix("foreground", "_fg66", "percentage of patches that must contain foreground; nnU-Net: 33",
           re.compile(r"fg(\d{1,2}|100)"), lambda v: int(v) / 100, _percent),
    Suffix("loss", "_loss" + ", _loss".join((*LOSSES, "Dice1CE2")),
           "another loss than Dice + cross-entropy. TopK10: the hardest tenth of the voxels; ClDice, SkeletonRecall: "
           "added to Dice + cross-entropy for thin vessels; Dice1CE2: weights of the two",
           re.compile(rf"loss((?:{'|'.join(LOSSES)})|{re.sub(r'[?]P<[a-z]+>', '?:', DICE_CE_WEIGHTS.pattern)})"),
           str, _loss_name),
    Suffix("mirroring", "_NoMirroring", "no mirroring in training, so none in prediction: for left and right labels",
           re.compile("NoMirroring"), lambda _: False, lambda _: "NoMirroring"),
    Suffix("rotation", "_NoRotation", "no rotation in training: for long, narrow patches, out of which it turns what "
           "matters", re.compile("NoRotation"), lambda _: False, lambda _: "NoRotation"),
    Suffix("epochs", "_100epochs", "length in epochs; nnU-Net: 1000",
           re.compile(r"([1-9]\d*)epochs?"), int, lambda n: f"{n}epoch{'s' if n > 1 else ''}"),
    Suffix("iterations", "_20its", "iterations per epoch, after the number of epochs; nnU-Net: 250",
           re.compile(r"([1-9]\d*)its"), int, lambda n: f"{n}its"),
)  # fmt: skip
"""In the order in which a name has them: one training, one name, one folder of results."""


def parse(class_name: str) -> TrainerName | None:
    """Take the suffixes off a trainer name; None where there are none, or one that is not in the list.

    Any order is read; `TrainerName.name` is the one that counts.
    """
    base, *tokens = class_name.split("_")
    if not base or not tokens:
        return None
    values: dict[str, Any] = {}
    for token in tokens:
        suffix, value = _read(token)
        if suffix is None or suffix.field in values:
            return None
        values[suffix.field] = value
    if "iterations" in values and "epochs" not in values:
        return None
    return TrainerName(base, **values)


def extended(trainer: str, more: str) -> str:
    """The trainer's name with further suffixes, "AdamW_lr3e-3_5epochs", all in the order that names have.

    Raises ValueError for suffixes that are not known or do not go together.
    """
    name = f"{trainer}_{more}"
    parts = parse(name)
    if parts is None:
        wrong = ", ".join(f"_{token}" for token in unknown_suffixes(name)) or name
        raise ValueError(f"{wrong}: no suffixes of a trainer's name; all of them: nnunet-mamba list --trainers")
    conflict = parts.conflict()
    if conflict is not None:
        raise ValueError(f"{name}: {conflict}")
    return parts.name


def unknown_suffixes(class_name: str) -> list[str]:
    """What stands between the underscores of a name and is not a suffix"""
    return [token for token in class_name.split("_")[1:] if _read(token)[0] is None]


def _read(token: str) -> tuple[Suffix | None, Any]:
    for suffix in SUFFIXES:
        match = suffix.pattern.fullmatch(token)
        if match is not None:
            return suffix, suffix.read(match[1] if match.groups() else match[0])
    return None, None
