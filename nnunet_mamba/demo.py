"""The whole of nnU-Net's job on one small dataset, through nnU-Net's own commands. Interrupted, it continues.

Convert, plan, preprocess, train 5 folds of SegMamba and 5 of nnU-Net's own network, find the best configuration or
ensemble, predict unseen cases with it, apply its postprocessing, evaluate, draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from nnunet_mamba.names import suffixes
from nnunet_mamba.nnunet_folders import FIRST_CHANNEL, SEPARATOR
from nnunet_mamba.study.comparison.scores import ALL_MASKS
from nnunet_mamba.study.crossval.commands import StockCommands, environment
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.local import run_study
from nnunet_mamba.study.crossval.models import pair_models
from nnunet_mamba.study.crossval.steps import predictions
from nnunet_mamba.study.evaluation.description import masks_of, value_names
from nnunet_mamba.study.evaluation.overlay import draw_overlay
from nnunet_mamba.study.protocol.preparation import PLANS, PROCESSES, REFERENCES, Preparation
from nnunet_mamba.whole_files import read_object

FOLDS = range(5)
NETWORK_TRAINERS = ("nnUNetTrainer", "nnUNetTrainerSegMamba")
CLOSING = """\
What this shows: nnU-Net's commands train, choose and predict with a Mamba network on this machine, and even so short a
training finds a small structure in cases it has not seen. What it does not show: which network is better. That takes
more cases, converged trainings and a control: docs/case-studies/hippocampus.md, or for your own data
    nnunet-mamba crossval -d DATASET -tr nnUNetTrainerSegMamba nnUNetTrainerSegMambaNoMamba nnUNetTrainer"""


@dataclass(frozen=True)
class Demo:
    """The whole job on one dataset in the format of the Medical Segmentation Decathlon."""

    source: Path
    dataset: str
    out: Path
    device: str
    recipe: dict[str, Any]

    def run(self) -> int:
        """0, or 1 when a training failed. Raises CommandFailedError for another of nnU-Net's commands."""
        self.out.mkdir(parents=True, exist_ok=True)
        print(f"nnU-Net with SegMamba on {self.dataset}, device {self.device}, everything under {self.out}", flush=True)
        Preparation(self.source, self.dataset, self.commands, self.size, self.recipe["name"]).run()
        failed = run_study(self.study)
        if not failed:
            self._report()
        return failed

    @property
    def size(self) -> dict[str, Any]:
        """The recipe's part for this device."""
        return self.recipe["gpu" if self.device == "cuda" else "cpu"]

    @property
    def trainers(self) -> list[str]:
        return [suffixes.extended(name, self.size["training"]) for name in NETWORK_TRAINERS]

    @property
    def commands(self) -> StockCommands:
        return StockCommands(self.out, environment(self.device))

    @property
    def study(self) -> Study:
        models = pair_models(self.trainers, [PLANS], [self.size["configuration"]])
        return Study(self.dataset, models, tuple(FOLDS), self.out, self.device, processes=int(PROCESSES))

    def _report(self) -> None:
        information = read_object(self.study.folders.choice)
        rows = [(_readable(name), score) for name, score in information["all_results"].items()]
        width = max(60, *(len(name) for name, _ in rows))
        print("\nMean foreground Dice\n  cross-validation, 5 folds")
        for name, score in rows:
            print(f"    {name:<{width}} {score:.3f}")
        best = information["best_model_or_ensemble"]
        members = " + ".join(m["trainer"] for m in best["selected_model_or_models"])
        print(f"    {'chosen, after postprocessing: ' + members:<{width}} {best['result_on_crossval_post_pp']:.3f}")
        final, labels = predictions(self.study, "chosen"), self.study.folders.unseen_labels
        images, predicted = self.study.folders.unseen_images, final
        scores = self._unseen_scores() if labels.is_dir() else {}
        if scores:
            print(f"  {len(scores)} unseen cases, chosen and postprocessed")
            for case, score in sorted(scores.items()):
                print(f"    {case:<{width}} {score:.3f}")
            print(f"    {'mean':<{width}} {fmean(scores.values()):.3f}")
            ordered = sorted(scores, key=scores.__getitem__)
            shown = ordered[len(ordered) // 2]
        else:
            print(f"  unseen cases: not scored, no labels in {self.source / REFERENCES}")
            predicted = Path(best["postprocessing_file"]).parent
            images, labels = self.study.folders.images, self.study.folders.labels
            shown = sorted(p.name for p in predicted.glob("*.nii.gz"))[0].removesuffix(".nii.gz")
        picture = self.out / "overlay.png"
        draw_overlay(
            images / f"{shown}{FIRST_CHANNEL}.nii.gz",
            labels / f"{shown}.nii.gz",
            predicted / f"{shown}.nii.gz",
            picture,
            names=value_names(masks_of(read_object(self.study.folders.dataset_json)["labels"])),
        )
        print(f"\nPicture of {shown}, prediction against truth: {picture}\nPredictions: {final}")
        print(f"\n{CLOSING}")

    def _unseen_scores(self) -> dict[str, float]:
        """Mean foreground Dice per unseen case."""
        scores = pd.read_csv(self.out / "comparison_unseen" / "scores.csv")
        of_chosen = scores[(scores["model"] == "chosen") & (scores["mask"] != ALL_MASKS)]
        return {str(case): float(dice) for case, dice in of_chosen.groupby("case")["Dice"].mean().items()}


def _readable(identifier: str) -> str:
    """nnU-Net's model identifiers without plans, configuration and folds."""
    if identifier.startswith("ensemble___"):
        _, first, second, _ = identifier.split("___")
        return f"ensemble of {_readable(first)} and {_readable(second)}"
    return identifier.split(SEPARATOR)[0]
