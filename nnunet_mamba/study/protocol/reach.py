"""A study of reach: all networks on invented datasets, each of which needs them to see so far along one axis.

reach.py          what is trained, in which order
reach_scores.py   what came out: a row per training, a row per dataset and network
reach_picture.py  Dice over distance
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_mamba.names import networks, suffixes
from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.names.locate import check_trainer
from nnunet_mamba.nnunet_folders import Model
from nnunet_mamba.planning.configurations import coarsened, isotropic_topology, with_topology
from nnunet_mamba.study.crossval.commands import StockCommands, environment
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.local import Slot, run_all
from nnunet_mamba.study.crossval.steps import preparation, trainings
from nnunet_mamba.study.protocol import reach_picture, reach_scores
from nnunet_mamba.study.protocol.preparation import PLANS, add_configurations, parent_in, planned
from nnunet_mamba.study.protocol.reach_probe import Probe
from nnunet_mamba.trainers import seeding

FOLD = 0
"""Whose validation cases no training sees"""
RESULTS = "nnUNet_results"
AUGMENTERS = "nnUNet_n_proc_DA"
ALONE = "1"
"""Processes: for volumes this small, starting a second one takes longer than what it does"""


@dataclass(frozen=True)
class Kind:
    """A network of the study: a trainer, and keywords that the plan has for it"""

    name: str
    trainer: str
    keywords: Mapping[str, Any]

    @property
    def record(self) -> networks.Network | None:
        """None for nnU-Net's own"""
        base = suffixes.parse(self.trainer)
        name = self.trainer if base is None else base.base
        return next((kind for kind in networks.with_twins() if kind.trainer == name), None)


@dataclass(frozen=True)
class Reach:
    """recipe: a study's, checked; everything is written under `out`. Raises ValueError for what cannot be made."""

    out: Path
    device: str
    recipe: Mapping[str, Any]

    def __post_init__(self) -> None:
        for kind in self.kinds:
            check_trainer(suffixes.extended(kind.trainer, self.recipe["training"]))
            if kind.keywords and kind.record is None:
                raise ValueError(f"networks: {kind.name} has keywords, which are for our networks; leave them out")
        assert self.probes

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(Probe(options, number) for number, options in enumerate(self.recipe["probes"]))

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(Kind(k["name"], k["trainer"], k.get("keywords", {})) for k in self.recipe["networks"])

    def run(self, seeds: Sequence[int]) -> int:
        """0, or 1 when a training failed; run again, it continues. Raises CommandFailedError for what comes before."""
        self.out.mkdir(parents=True, exist_ok=True)
        failed = False
        for made in self.probes:
            self.prepare(made)
            for seed in seeds:
                print(f"\n{made.dataset}, seed {seed}", flush=True)
                failed |= not self.train(made, seed)
            self.report()
        return int(failed)

    def prepare(self, made: Probe) -> None:
        """The dataset and its plans, with a configuration for all networks and one for each with keywords"""
        # nnU-Net's planner does not take 0 of them
        commands = StockCommands(self.out / made.dataset, environment(self.device) | {AUGMENTERS: ALONE})
        plans = planned(made.dataset, commands, made.command(self.recipe["cases"]), ["-np", ALONE])
        size = self.recipe["configuration"]
        parent = parent_in(plans, size["inherits_from"])
        coarsen = size.get("coarsen", 1)
        patch = [math.ceil(n / coarsen) for n in made.task.shape]
        topology = isotropic_topology(size["topology"], len(patch))
        shared = with_topology(parent, topology, patch, size["batch_size"]) | coarsened(parent, coarsen)
        shared["inherits_from"] = size["inherits_from"]
        added = {}
        for kind in self.kinds:
            own = dict(shared)
            if kind.keywords:
                assert kind.record is not None
                own["architecture"] = architecture_for(kind.record, shared["architecture"], patch)
                own["architecture"]["arch_kwargs"].update(kind.keywords)
            added[self.model(kind).configuration] = own
        add_configurations(plans, added, self.recipe["name"])

    def train(self, made: Probe, seed: int) -> bool:
        """Whether all networks have been trained on one dataset with one seed"""
        study = self.study(made, seed)
        prepared = preparation(study)
        steps = [*prepared, *trainings(study, study.models, tuple(s.name for s in prepared))]
        return not run_all(steps, study, [Slot(None)]).failed

    def study(self, made: Probe, seed: int) -> Study:
        """Results of every seed have a folder of their own, which nnU-Net's commands and we read from the variables"""
        os.environ[seeding.VARIABLE] = str(seed)
        if self.device == "cpu":
            os.environ[AUGMENTERS] = "0"  # samples are made in the training's own process
        os.environ[RESULTS] = str(self.out / f"seed_{seed}" / RESULTS)
        models = tuple(map(self.model, self.kinds))
        return Study(made.dataset, models, (FOLD,), self.out / f"seed_{seed}" / made.dataset, self.device, False)

    def model(self, kind: Kind) -> Model:
        """By nnU-Net's names"""
        configuration = self.recipe["configuration"]["configuration"]
        trainer = suffixes.extended(kind.trainer, self.recipe["training"])
        return Model(trainer, PLANS, f"{configuration}_{kind.name}" if kind.keywords else configuration)

    def ended(self) -> Iterator[reach_scores.Training]:
        """All trainings that have, in the recipe's order"""
        for made in self.probes:
            for seed in self.recipe["seeds"]:
                study = self.study(made, seed)
                for kind in self.kinds:
                    training = reach_scores.Training(made, kind.name, seed, study, self.model(kind))
                    if training.has_ended:
                        yield training

    def report(self) -> None:
        """trainings.csv, table.csv, table.md and reach.png in `out`, the table on the screen"""
        found = reach_scores.of_trainings(self.ended())
        if found.empty:
            return
        found.to_csv(self.out / "trainings.csv", index=False)
        table = reach_scores.of_seeds(found, self.recipe["solved"])
        table.to_csv(self.out / "table.csv", index=False)
        text = reach_scores.as_markdown(table)
        announced = len(self.probes) * len(self.kinds) * len(self.recipe["seeds"])
        print(f"\n{len(found)} of {announced} announced trainings\n\n{text}")
        reach_picture.draw(table, found, self.recipe["guessed"], self.out / "reach.png")
        print(f"\nTables and picture: {self.out}", flush=True)
