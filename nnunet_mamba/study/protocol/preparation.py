"""From a download of the Medical Segmentation Decathlon to a dataset with a small configuration of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet_folders import Dataset
from nnunet_mamba.planning.configurations import shrunk_configuration
from nnunet_mamba.study.crossval.commands import StockCommands
from nnunet_mamba.whole_files import read_object, write_json

PLANS = "nnUNetPlans"
PROCESSES = "2"
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
        folders = Dataset(self.dataset)
        if folders.raw.is_dir() and not (self.commands.root / "steps" / "convert.done").is_file():
            # a half-finished conversion, which nnU-Net's converter would refuse to touch
            shutil.rmtree(folders.raw)
        np, number = ["-np", PROCESSES], str(folders.number)
        self.commands.run(
            "convert", ["nnUNetv2_convert_MSD_dataset", "-i", str(self.source), *np], f"Convert to {self.dataset}"
        )
        reference = self.source / REFERENCES
        if reference.is_dir():
            shutil.copytree(reference, folders.unseen_labels, dirs_exist_ok=True)
        self.commands.run(
            "fingerprint",
            ["nnUNetv2_extract_fingerprint", "-d", number, "--verify_dataset_integrity", *np],
            "Check the data and take its fingerprint",
        )
        self.commands.run("plan", ["nnUNetv2_plan_experiment", "-d", number], "Plan")
        if "inherits_from" in self.size:
            self._add_configuration(folders.plans(PLANS))

    def _add_configuration(self, path: Path) -> None:
        plans = read_object(path)
        parent = plans["configurations"][self.size["inherits_from"]]
        added = shrunk_configuration(parent, dict(self.size))
        plans["configurations"][self.size["configuration"]] = added
        write_json(path, plans)
        print(
            f"Configuration {self.size['configuration']} from recipe {self.recipe}: "
            f"voxels of {added.get('spacing', parent['spacing'])} mm, patch {added['patch_size']}, "
            f"batch {added['batch_size']}, "
            f"widths {added['architecture']['arch_kwargs']['features_per_stage']}"
        )
