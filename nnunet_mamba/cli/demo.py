"""`nnunet-mamba demo`: the whole of nnU-Net's job on 25 real cases, through nnU-Net's own commands.

Convert, plan, preprocess, train 5 folds of SegMamba and 5 of nnU-Net's own network, find the best configuration or
ensemble, predict unseen cases with it, apply its postprocessing, evaluate, draw. Interrupted, it continues.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunet_mamba
from nnunet_mamba import trainer_names
from nnunet_mamba.cli.stock_commands import CommandFailedError, StockCommands

FOLDS = range(5)
NETWORK_TRAINERS = ("nnUNetTrainer", "nnUNetTrainerSegMamba")
RECIPE = "hippocampus_demo"
PLANS = "nnUNetPlans"
PROCESSES = "2"
TASK_NAME = re.compile(r"^Task(\d+)_([A-Za-z0-9]+)$")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device", choices=("cpu", "cuda"), default=None, help="default: cuda if there is one, else cpu"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(nnunet_mamba.__file__).parent / "data" / "hippocampus" / "Task04_Hippocampus",
        metavar="MSD_FOLDER",
        help="another dataset in the format of the Medical Segmentation Decathlon, named TaskXX_Name "
        "(default: the hippocampus cases that come with the package)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo_out"), metavar="DIR", help="where everything goes (default: demo_out)"
    )
    parser.add_argument("--recipe", default=RECIPE, help="recipe of the short training (default: %(default)s)")
    parser.epilog = "example: nnunet-mamba demo -device cpu --out /tmp/demo"


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when one of nnU-Net's commands failed. Raises ValueError for unusable options."""
    source = options.data.resolve()
    dataset = _dataset_name(source)
    from nnunet_mamba.planning.recipes import load_recipe  # nnunetv2 and torch come with it: after the quick checks

    recipe = load_recipe(options.recipe)
    demo = Demo(source, dataset, options.out.resolve(), _device(options.device), recipe)
    try:
        demo.run()
    except CommandFailedError as error:
        print(f"\nnnunet-mamba demo: {error}")
        return 1
    return 0


@dataclass(frozen=True)
class Demo:
    source: Path
    dataset: str
    out: Path
    device: str
    recipe: dict[str, Any]

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        print(
            f"nnU-Net with SegMamba on {self.dataset}, device {self.device}, everything under {self.out}\n"
            "A run of this length shows that all parts work together; it says nothing about which network is better."
        )
        self._prepare()
        self._train()
        self._predict()
        self._report()

    @property
    def size(self) -> dict[str, Any]:
        """The recipe's part for this device."""
        return self.recipe["gpu" if self.device == "cuda" else "cpu"]

    @property
    def trainers(self) -> list[str]:
        length = {"epochs": self.size["epochs"], "iterations": self.size["iterations"]}
        return [trainer_names.Variant(name, **length).name for name in NETWORK_TRAINERS]

    @property
    def commands(self) -> StockCommands:
        environment = {name: str(self.out / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        if self.device == "cpu":
            # every further process of nnU-Net costs seconds to start; on few cores they only get in each other's way
            environment.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", nnUNet_compile="f")
        return StockCommands(self.out, environment)

    @property
    def raw(self) -> Path:
        return self.out / "nnUNet_raw" / self.dataset

    @property
    def preprocessed(self) -> Path:
        return self.out / "nnUNet_preprocessed" / self.dataset

    @property
    def results(self) -> Path:
        return self.out / "nnUNet_results" / self.dataset

    @property
    def number(self) -> str:
        return str(int(self.dataset[len("Dataset") : len("Dataset") + 3]))

    def _prepare(self) -> None:
        if self.raw.is_dir() and not (self.out / "steps" / "convert.done").is_file():
            shutil.rmtree(self.raw)  # a half-finished conversion, which nnU-Net's converter would refuse to touch
        np = ["-np", PROCESSES]
        self.commands.run(
            "convert", ["nnUNetv2_convert_MSD_dataset", "-i", str(self.source), *np], f"Convert to {self.dataset}"
        )
        self.commands.run(
            "fingerprint",
            ["nnUNetv2_extract_fingerprint", "-d", self.number, "--verify_dataset_integrity", *np],
            "Check the data and take its fingerprint",
        )
        self.commands.run("plan", ["nnUNetv2_plan_experiment", "-d", self.number], "Plan")
        self._add_configuration()
        self.commands.run(
            "preprocess",
            ["nnUNetv2_preprocess", "-d", self.number, "-c", self.size["configuration"], *np],
            "Preprocess",
        )

    def _add_configuration(self) -> None:
        from nnunet_mamba.planning.recipes import shrunk_configuration

        if "inherits_from" not in self.size:
            return
        path = self.preprocessed / f"{PLANS}.json"
        plans = json.loads(path.read_text(encoding="utf-8"))
        parent = plans["configurations"][self.size["inherits_from"]]
        added = shrunk_configuration(parent, self.size)
        plans["configurations"][self.size["configuration"]] = added
        path.write_text(json.dumps(plans, indent=4), encoding="utf-8")
        print(
            f"Configuration {self.size['configuration']} from recipe {self.recipe['name']}: "
            f"voxels of {added.get('spacing', parent['spacing'])} mm, patch {added['patch_size']}, "
            f"batch {added['batch_size']}, "
            f"widths {added['architecture']['arch_kwargs']['features_per_stage']}"
        )

    def _train(self) -> None:
        for count, (trainer, fold) in enumerate(((t, f) for t in self.trainers for f in FOLDS), 1):
            self.commands.run(
                f"train_{trainer}_{fold}",
                ["nnUNetv2_train", self.number, self.size["configuration"], str(fold), "-tr", trainer, "-device",
                 self.device, "--npz", "--c"],
                f"Train {trainer}, fold {fold} ({count} of {len(self.trainers) * len(FOLDS)})",
            )  # fmt: skip

    def _predict(self) -> None:
        self.commands.run(
            "find_best",
            ["nnUNetv2_find_best_configuration", self.number, "-c", self.size["configuration"], "-tr", *self.trainers,
             "-np", PROCESSES],
            "Find the best network or ensemble",
        )  # fmt: skip
        best = self._best()
        members = best["selected_model_or_models"]
        folders = []
        for model in members:
            folder = self.out / "predictions" / model["trainer"]
            folders.append(str(folder))
            self.commands.run(
                f"predict_{model['trainer']}",
                ["nnUNetv2_predict", "-d", self.number, "-i", str(self.raw / "imagesTs"), "-o", str(folder), "-tr",
                 model["trainer"], "-c", model["configuration"], "-p", model["plans_identifier"], "-f",
                 *map(str, FOLDS), "-device", self.device, *(["--save_probabilities"] if len(members) > 1 else [])],
                f"Predict the unseen cases with {model['trainer']}",
            )  # fmt: skip
        predicted = folders[0]
        if len(members) > 1:
            predicted = str(self.out / "predictions" / "ensemble")
            self.commands.run(
                "ensemble", ["nnUNetv2_ensemble", "-i", *folders, "-o", predicted, "-np", PROCESSES], "Ensemble"
            )
        self.commands.run(
            "postprocess",
            ["nnUNetv2_apply_postprocessing", "-i", predicted, "-o", str(self.final), "-pp_pkl_file",
             best["postprocessing_file"], "-np", PROCESSES, "-plans_json", best["some_plans_file"], "-dataset_json",
             str(self.raw / "dataset.json")],
            "Apply the postprocessing",
        )  # fmt: skip

    @property
    def final(self) -> Path:
        return self.out / "predictions" / "final"

    def _best(self) -> dict[str, Any]:
        information = json.loads((self.results / "inference_information.json").read_text(encoding="utf-8"))
        return information["best_model_or_ensemble"]

    def _report(self) -> None:
        from nnunet_mamba.evaluation.overlay import draw_overlay

        reference = self.source / "labelsTs_reference"
        scores = self._evaluate(reference) if reference.is_dir() else {}
        information = json.loads((self.results / "inference_information.json").read_text(encoding="utf-8"))
        rows = [(_readable(name), score) for name, score in information["all_results"].items()]
        width = max(60, *(len(name) for name, _ in rows))
        print("\nMean foreground Dice\n  cross-validation, 5 folds")
        for name, score in rows:
            print(f"    {name:<{width}} {score:.3f}")
        best = information["best_model_or_ensemble"]
        chosen = " + ".join(m["trainer"] for m in best["selected_model_or_models"])
        print(f"    {'chosen, after postprocessing: ' + chosen:<{width}} {best['result_on_crossval_post_pp']:.3f}")
        images, labels, predictions = self.raw / "imagesTs", reference, self.final
        if scores:
            print(f"  {len(scores)} unseen cases, chosen and postprocessed")
            for case, score in sorted(scores.items()):
                print(f"    {case:<{width}} {score:.3f}")
            ordered = sorted(scores, key=scores.__getitem__)
            shown = ordered[len(ordered) // 2]
        else:
            print(f"  unseen cases: not scored, no labels in {reference}")
            folder = Path(best["postprocessing_file"]).parent
            images, labels, predictions = self.raw / "imagesTr", self.raw / "labelsTr", folder
            shown = sorted(p.name for p in folder.glob("*.nii.gz"))[0].removesuffix(".nii.gz")
        picture = self.out / "overlay.png"
        draw_overlay(
            images / f"{shown}_0000.nii.gz", labels / f"{shown}.nii.gz", predictions / f"{shown}.nii.gz", picture
        )
        print(f"\nPicture of {shown}, prediction against truth: {picture}\nPredictions: {self.final}")

    def _evaluate(self, reference: Path) -> dict[str, float]:
        """Mean foreground Dice per unseen case."""
        summary = self.out / "predictions" / "summary.json"
        self.commands.run(
            "evaluate",
            ["nnUNetv2_evaluate_folder", str(reference), str(self.final), "-djfile", str(self.raw / "dataset.json"),
             "-pfile", self._best()["some_plans_file"], "-o", str(summary), "-np", PROCESSES],
            "Evaluate the unseen cases",
        )  # fmt: skip
        cases = json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]
        scores = {}
        for case in cases:
            dice = [m["Dice"] for m in case["metrics"].values() if m["Dice"] == m["Dice"]]
            scores[Path(case["prediction_file"]).name.removesuffix(".nii.gz")] = sum(dice) / max(1, len(dice))
        return scores


def _readable(identifier: str) -> str:
    """nnU-Net's model identifiers without plans, configuration and folds."""
    if identifier.startswith("ensemble___"):
        _, first, second, _ = identifier.split("___")
        return f"ensemble of {_readable(first)} and {_readable(second)}"
    return identifier.split("__")[0]


def _dataset_name(source: Path) -> str:
    """nnU-Net's name for an MSD folder. Raises ValueError saying what is missing."""
    match = TASK_NAME.match(source.name)
    if match is None:
        raise ValueError(f"--data {source}: the folder's name must be TaskXX_Name, for example Task04_Hippocampus")
    missing = [name for name in ("imagesTr", "labelsTr", "imagesTs", "dataset.json") if not (source / name).exists()]
    if missing:
        raise ValueError(f"--data {source}: {', '.join(missing)} not found; expected the folders of an MSD download")
    cases = [p for p in (source / "imagesTr").glob("*.nii.gz") if not p.name.startswith(".")]
    if len(cases) < len(FOLDS):
        raise ValueError(f"--data {source}: {len(cases)} training images; 5-fold cross-validation needs at least 5")
    return f"Dataset{int(match[1]):03d}_{match[2]}"


def _device(asked: str | None) -> str:
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ValueError("-device cuda: torch sees no CUDA device here; use -device cpu")
    return asked or ("cuda" if available else "cpu")
