"""From a download, or from nothing, to a dataset with a configuration of the study's own in nnU-Net's plans."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet_folders import Dataset
from nnunet_mamba.planning.configurations import shrunk_configuration
from nnunet_mamba.study.crossval.commands import StockCommands
from nnunet_mamba.whole_files import read_object, write_json

PLANS = "nnUNetPlans"
PROCESSES = "2"
CHECK = "--verify_dataset_integrity"
REFERENCES = "labelsTs_reference"
"""Where a download may have the labels of its unseen cases"""


@dataclass(frozen=True)
class Preparation:
    """Convert, check, plan, through nnU-Net's commands; then add the recipe's configuration to the plans.

    size: the part of a recipe that says how a configuration differs from the one it inherits from, or none of it.
    """

    source: Path
    dataset: str
    commands: StockCommands
    size: Mapping[str, Any]
    recipe: str

    def run(self) -> None:
        """What is done is not done again. Raises CommandFailedError for one of nnU-Net's commands."""
        convert = ["nnUNetv2_convert_MSD_dataset", "-i", str(self.source), "-np", PROCESSES]
        plans = planned(self.dataset, self.commands, convert, [CHECK, "-np", PROCESSES])
        reference = self.source / REFERENCES
        if reference.is_dir():
            shutil.copytree(reference, Dataset(self.dataset).unseen_labels, dirs_exist_ok=True)
        if "inherits_from" in self.size:
            added = shrunk_configuration(parent_in(plans, self.size["inherits_from"]), dict(self.size))
            add_configurations(plans, {self.size["configuration"]: added}, self.recipe)


def planned(dataset: str, commands: StockCommands, convert: Sequence[str], looks: Sequence[str]) -> Path:
    """The dataset made by the command `convert` and planned; returns its plans. Raises CommandFailedError.

    looks: options with which nnU-Net looks at the data.
    """
    folders = Dataset(dataset)
    if folders.raw.is_dir() and not (commands.root / "steps" / "convert.done").is_file():
        # a half-finished conversion, which a converter would refuse to touch
        shutil.rmtree(folders.raw)
    number = str(folders.number)
    commands.run("convert", convert, f"Make {dataset}")
    commands.run(
        "fingerprint",
        ["nnUNetv2_extract_fingerprint", "-d", number, *looks],
        "Check the data and take its fingerprint" if CHECK in looks else "Take the fingerprint of the data",
    )
    commands.run("plan", ["nnUNetv2_plan_experiment", "-d", number], "Plan")
    return folders.plans(PLANS)


def parent_in(plans: Path, configuration: str) -> dict[str, Any]:
    """A configuration of a plans file. Raises ValueError naming those that it has."""
    known = read_object(plans)["configurations"]
    if configuration not in known:
        raise ValueError(f"inherits_from {configuration}: {plans} has {', '.join(known)}")
    return known[configuration]


def add_configurations(path: Path, added: Mapping[str, Mapping[str, Any]], recipe: str) -> None:
    """Into a plans file; says what each is like"""
    plans = read_object(path)
    plans["configurations"].update(added)
    write_json(path, plans)
    for name, made in added.items():
        parent = plans["configurations"][made["inherits_from"]]
        print(
            f"Configuration {name} from recipe {recipe}: voxels of {made.get('spacing', parent['spacing'])} mm, "
            f"patch {made['patch_size']}, batch {made['batch_size']}, "
            f"widths {made['architecture']['arch_kwargs']['features_per_stage']}"
        )
