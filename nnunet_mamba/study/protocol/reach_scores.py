"""What a study of reach has shown: a row per training, and a row per dataset and network over its seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import stats

from nnunet_mamba import markdown
from nnunet_mamba.architectures.receptive_field import receptive_field
from nnunet_mamba.nnunet_folders import FoldFolder, Model
from nnunet_mamba.study.comparison.training import read_fold
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.evidence import Trained
from nnunet_mamba.study.evaluation.description import describe
from nnunet_mamba.study.evaluation.empty_masks import EmptyRule
from nnunet_mamba.study.evaluation.evaluate import Pairs, evaluate, question
from nnunet_mamba.study.protocol.reach_probe import NO_AXIS, Probe

METRICS = ("Dice", "clDice")
CONFIDENCE = 0.95
CHANNELS, CLASSES = 1, 2
SETTING = ["task", "axis", "far", "network", "reach"]
"""What the seeds of a row of the table have in common"""


@dataclass(frozen=True)
class Training:
    """One that was announced. network: its name in the recipe."""

    probe: Probe
    network: str
    seed: int
    study: Study
    model: Model

    @property
    def fold(self) -> FoldFolder:
        return self.study.fold(self.model, self.study.folds[0])

    @property
    def has_ended(self) -> bool:
        return Trained(self.fold)()


def of_trainings(ended: Iterable[Training]) -> pd.DataFrame:
    """A row each: what it was, mean scores of the cases that it has not seen, seconds of its training"""
    return pd.DataFrame([_row(training) for training in ended])


def _row(training: Training) -> dict[str, Any]:
    scores = _unseen(training)
    return {
        "task": training.probe.options["task"],
        "axis": training.probe.axis,
        "far": training.probe.far,
        "network": training.network,
        "trainer": training.model.trainer,
        "configuration": training.model.configuration,
        "seed": training.seed,
        "cases": len(scores),
        **{name: float(scores[name].mean()) for name in METRICS},
        "reach": reach_of(training),
        "seconds": round(read_fold(training.fold).seconds, 1),
    }


def _unseen(training: Training) -> pd.DataFrame:
    described = describe(training.study.dataset_json, training.study.dataset)
    pairs = Pairs.find(training.study.folders.labels, training.fold.validation, training.study.ending)
    return evaluate(pairs, question(described, METRICS, EmptyRule())).table


def reach_of(training: Training) -> int:
    """Voxels of the image to each side, through convolutions alone, along the axis that sees furthest"""
    manager = PlansManager(str(training.study.plans_file(training.model)))
    configuration = manager.get_configuration(training.model.configuration)
    trainer: Any = recursive_find_trainer_class_by_name(training.model.trainer)

    def build() -> Any:
        return trainer.build_network_architecture(manager, configuration, CHANNELS, CLASSES, False)

    field = receptive_field(build, CHANNELS, configuration.patch_size)
    return round(max(n * s for n, s in zip(field.reach, configuration.spacing, strict=True)))


def of_seeds(found: pd.DataFrame, solved: float) -> pd.DataFrame:
    """Rows of `of_trainings` -> a row per dataset and network, in their order.

    The interval is Student's for the mean over seeds, cut where no Dice can be; NaN for one seed. solved: how many
    seeds had a Dice of at least this.
    """
    rows = []
    setting: Any
    for setting, group in found.groupby(SETTING, sort=False):
        dice = group["Dice"].to_numpy()
        low, high = _interval(dice)
        rows.append(
            {
                **dict(zip(SETTING, setting, strict=True)),
                "seeds": len(dice),
                "solved": int((dice >= solved).sum()),
                "Dice": float(dice.mean()),
                "low": low,
                "high": high,
                "each": " ".join(f"{value:.3f}" for value in dice),
                "clDice": float(group["clDice"].mean()),
            }
        )
    return pd.DataFrame(rows)


def _interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half))


def as_markdown(table: pd.DataFrame) -> str:
    """What of_seeds returns, for people"""
    head = ("task", "axis", "far", "network", "reach", "solved", "Dice", "95 % interval", "each seed", "clDice")
    rows = [
        (
            r["task"], "" if r["axis"] == NO_AXIS else str(r["axis"]), str(r["far"]), r["network"], str(r["reach"]),
            f"{r['solved']} of {r['seeds']}", f"{r['Dice']:.3f}",
            "" if np.isnan(r["low"]) else f"{r['low']:.3f} to {r['high']:.3f}", r["each"], f"{r['clDice']:.3f}",
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    return markdown.table(head, rows)
