"""A study run as its recipe announces it: the same trainings for all networks, cross-validated with every seed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_mamba.names import suffixes
from nnunet_mamba.nnunet_folders import Dataset
from nnunet_mamba.study.crossval.commands import StockCommands, environment, find_command
from nnunet_mamba.study.protocol import pairs
from nnunet_mamba.study.protocol.preparation import PLANS, Preparation
from nnunet_mamba.trainers import seeding

RESULTS = "nnUNet_results"


@dataclass(frozen=True)
class Announced:
    """source: a download of the MSD; recipe: a study's, checked; everything is written under `out`."""

    source: Path
    dataset: str
    out: Path
    device: str
    recipe: Mapping[str, Any]

    def run(self, seeds: Sequence[int]) -> int:
        """0, or 1 when a cross-validation failed; run again, it continues. Raises CommandFailedError."""
        self.out.mkdir(parents=True, exist_ok=True)
        commands = StockCommands(self.out, environment(self.device))
        Preparation(self.source, self.dataset, commands, self.recipe["configuration"], self.recipe["name"]).run()
        failed = 0
        for seed in seeds:
            print(f"\nSeed {seed}: {len(self.trainers(seed))} trainers, results in {self.folder(seed)}", flush=True)
            variables = {seeding.VARIABLE: str(seed), RESULTS: str(self.folder(seed) / RESULTS)}
            done = subprocess.run(self.command(seed), env={**os.environ, **variables}, check=False)
            failed = failed or done.returncode
        self.report()
        return 1 if failed else 0

    def folder(self, seed: int) -> Path:
        return self.out / f"seed_{seed}"

    def trainers(self, seed: int) -> list[str]:
        """All with the first seed, those that are repeated with the others"""
        named = [name for pair in self.recipe["pairs"] for name in pair] + list(self.recipe.get("others", ()))
        if seed != self.recipe["seeds"][0]:
            named = list(self.recipe.get("repeated", ()))
        return [suffixes.extended(name, self.recipe["training"]) for name in dict.fromkeys(named)]

    def command(self, seed: int) -> list[str]:
        """The cross-validation of one seed, as you could type it"""
        folds = ["-f", *map(str, self.recipe["folds"])] if "folds" in self.recipe else []
        return [
            find_command("nnunet-mamba"), "crossval", "-d", str(Dataset(self.dataset).number),
            "-c", self.recipe["configuration"]["configuration"], "-p", PLANS, "-tr", *self.trainers(seed), *folds,
            "-device", self.device, "--disable_ensembling", "-o", str(self.folder(seed) / "crossval"),
        ]  # fmt: skip

    def scores(self) -> dict[int, pd.DataFrame]:
        """By seed, of the cross-validations that have ended; models under the names that the recipe has for them"""
        found = {}
        for seed in self.recipe["seeds"]:
            file = self.folder(seed) / "crossval" / "comparison" / "scores.csv"
            if file.is_file():
                found[seed] = pd.read_csv(file)
        return found

    def report(self) -> None:
        """pairs.csv and seeds.csv in `out`, and the same on the screen"""
        of_seeds = self.scores()
        first = self.recipe["seeds"][0]
        if first not in of_seeds:
            return
        announced = self.recipe["pairs"]
        found = pairs.rows(of_seeds[first], announced)
        pd.DataFrame([asdict(r) for r in found]).to_csv(self.out / "pairs.csv", index=False)
        print(f"\n{pairs.in_words(found, len(announced))}\n\n{pairs.as_markdown(found)}")
        means = pairs.spread(of_seeds)
        if len(means):
            means.to_csv(self.out / "seeds.csv")
            print(f"\nAnother seed alone changes a model's mean by {pairs.standard_deviation(means):.4f} (standard "
                  f"deviation):\n{means.round(4).to_string()}\n"
                  f"{pairs.beyond_luck(found, pairs.largest_luck(means))}")  # fmt: skip
        print(f"\nTables: {self.out / 'pairs.csv'}; the whole comparison: "
              f"{self.folder(first) / 'crossval' / 'comparison' / 'report.html'}")  # fmt: skip
