"""A grid of training settings as plan configurations and trainer names that nnU-Net's own commands know.

Patch and batch belong to the plan, so each pair becomes a configuration; learning rate, foreground oversampling and
loss belong to the trainer and go into its name. Every combination is one variant.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnunet_mamba import markdown
from nnunet_mamba.names import networks, suffixes
from nnunet_mamba.names.locate import STOCK_TRAINER, locate
from nnunet_mamba.nnunet_folders import FoldFolder, Model, ModelFolder
from nnunet_mamba.plan_checks import has_regions
from nnunet_mamba.planning.configurations import DatasetPlans, for_patch, gigabytes
from nnunet_mamba.planning.grid import SETTINGS
from nnunet_mamba.whole_files import read_object


@dataclass(frozen=True)
class Variant:
    """One combination: a configuration of the plans, a trainer, and the estimated bytes of its training step."""

    configuration: str
    trainer: str
    settings: dict[str, Any]
    memory: int

    def model(self, plans: str) -> Model:
        """What nnU-Net calls it"""
        return Model(self.trainer, plans, self.configuration)


@dataclass(frozen=True)
class Sweep:
    """All variants, and the configurations that the plans need for them."""

    variants: tuple[Variant, ...]
    configurations: dict[str, dict[str, Any]]


def derive(grid: Mapping[str, Any], plans: DatasetPlans) -> Sweep:
    """Every combination of the grid's values. Raises ValueError for values that cannot be planned or named."""
    parent_name = grid["configuration"]
    parent = plans.configuration(parent_name)
    dim = len(parent["patch_size"])
    base = suffixes.parse(grid["trainer"]) or suffixes.TrainerName(grid["trainer"])
    given = {key: grid.get(key, [None]) for key in SETTINGS}
    _check_loss(given["loss"], plans)
    configurations: dict[str, dict[str, Any]] = {}
    memory: dict[str, int] = {}
    variants = []
    for values in itertools.product(*given.values()):
        settings = dict(zip(SETTINGS, values, strict=True))
        patch, batch = settings["patch_size"], settings["batch_size"]
        name = _configuration_name(parent_name, patch, batch)
        if name not in memory:
            planned = parent["patch_size"] if patch is None else plans.in_plan_order(patch, dim)
            made = for_patch(parent, planned, int(parent["batch_size"]) if batch is None else batch)
            memory[name] = plans.memory(made)
            if name != parent_name:
                configurations[name] = {"inherits_from": parent_name, **made}
        trainer = replace(
            base,
            initial_lr=base.initial_lr if settings["initial_lr"] is None else settings["initial_lr"],
            foreground=base.foreground if settings["foreground_oversampling"] is None
            else settings["foreground_oversampling"],
            loss=base.loss if settings["loss"] is None else settings["loss"],
        ).name  # fmt: skip
        if locate(trainer) is None and trainer != STOCK_TRAINER:
            raise ValueError(
                f"trainer {trainer!r} is not ours, so its settings cannot be varied; expected nnUNetTrainer or one of "
                f"{', '.join(networks.trainers())}, with or without _5epochs"
            )
        variants.append(Variant(name, trainer, {k: v for k, v in settings.items() if v is not None}, memory[name]))
    _check_names(variants)
    return Sweep(tuple(variants), configurations)


def _check_names(variants: Sequence[Variant]) -> None:
    """Two trainings of one name would be one: 0.333 and 0.334 are both 33 percent."""
    seen: dict[tuple[str, str], Variant] = {}
    for variant in variants:
        other = seen.setdefault((variant.configuration, variant.trainer), variant)
        if other is not variant:
            differing = [k for k, v in variant.settings.items() if other.settings[k] != v]
            values = ", ".join(f"{k} {other.settings[k]} and {variant.settings[k]}" for k in differing)
            raise ValueError(f"{values}: both are {variant.trainer}; leave one of them out")


def command(variant: Variant, dataset: str, plans: str, fold: str, device: str | None) -> list[str]:
    """nnU-Net's command that trains one fold"""
    chosen = [] if device is None else ["-device", device]
    return ["nnUNetv2_train", dataset, variant.configuration, fold, "-tr", variant.trainer, "-p", plans, *chosen]


def dice(fold: FoldFolder) -> float | None:
    """Mean foreground Dice of a fold's validation as nnU-Net wrote it, None if it has not finished."""
    if not fold.summary.is_file():
        return None
    return float(read_object(fold.summary)["foreground_mean"]["Dice"])


def results_table(sweep: Sweep, folders: Sequence[ModelFolder], folds: Sequence[str]) -> str:
    """Markdown, best first: settings, estimated memory, Dice per fold and mean over the folds that are there."""
    varied = [key for key in SETTINGS if any(key in v.settings for v in sweep.variants)]
    rows = []
    for variant, folder in zip(sweep.variants, folders, strict=True):
        scores = [dice(folder.fold(fold)) for fold in folds]
        known = [s for s in scores if s is not None]
        mean = sum(known) / len(known) if known else None
        shown = [_shown(variant.settings.get(key)) for key in varied]
        cells = [*shown, gigabytes(variant.memory), *(_number(s) for s in scores), _number(mean)]
        rows.append((mean if mean is not None else -1.0, cells))
    head = [*varied, "memory", *(f"fold {fold}" for fold in folds), "mean Dice"]
    return markdown.table(head, [cells for _, cells in sorted(rows, key=lambda row: -row[0])])


def _check_loss(losses: Sequence[str | None], plans: DatasetPlans) -> None:
    refused = [loss for loss in losses if loss in suffixes.LABELS_ONLY]
    if refused and has_regions(plans.dataset_json["labels"]):
        raise ValueError(
            f"loss {', '.join(refused)}: nnU-Net has it for exclusive labels only; this dataset has regions"
        )


def _configuration_name(parent: str, patch: Sequence[int] | None, batch: int | None) -> str:
    """3d_fullres, [96, 96, 64], 4 -> "3d_fullres_p96x96x64_b4" """
    name = parent
    if patch is not None:
        name += "_p" + "x".join(map(str, patch))
    return name if batch is None else f"{name}_b{batch}"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
