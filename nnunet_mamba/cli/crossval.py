"""`nnunet-mamba crossval`: cross-validate several models through nnU-Net's own commands, and compare them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_mamba.nnunet_folders import VARIABLES, Dataset, roots

if TYPE_CHECKING:
    from nnunet_mamba.nnunet_folders import Model
    from nnunet_mamba.study.crossval.definition import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name, in $nnUNet_raw")
    parser.add_argument("-c", nargs="+", default=["3d_fullres"], metavar="CONFIGURATION", help="default: 3d_fullres")
    parser.add_argument("-tr", nargs="+", required=True, metavar="TRAINER", help="one or more")
    parser.add_argument("-p", nargs="+", default=["nnUNetPlans"], metavar="PLANS",
                        help="one for all trainers, or one for each; default: nnUNetPlans")  # fmt: skip
    parser.add_argument("-f", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="FOLD", help="default: 0 1 2 3 4")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), default=None, help="default: cuda if there is one")
    parser.add_argument(
        "-np", type=int, default=2, metavar="N", help="processes for preprocessing and scores; default: 2"
    )
    parser.add_argument("-o", type=Path, metavar="DIR", help="logs, predictions of unseen cases, the report; default: "
                        "crossval in the dataset's folder of results")  # fmt: skip
    parser.add_argument("--disable_ensembling", action="store_true", help="no pairs, and no probabilities on disk")
    parser.add_argument("--executor", choices=("local", "slurm"), default="local")
    parser.add_argument("--gpus", nargs="+", metavar="GPU", help="local: numbers of the GPUs, one training on each at "
                        "a time; default: the first")  # fmt: skip
    parser.add_argument("--partition", help="slurm: partition")
    parser.add_argument("--hours", type=float, default=24, help="slurm: limit of a job, which continues after it; "
                        "default: 24")  # fmt: skip
    parser.add_argument("--memory", type=int, default=48, metavar="GB", help="slurm: memory of a job; default: 48")
    parser.add_argument("--cores", type=int, default=12, help="slurm: cores of a job; default: 12")
    parser.add_argument("--sbatch", nargs="+", default=[], metavar="OPTION=VALUE", help="slurm: further options, "
                        "account=radiology for instance")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are needed, run none")
    parser.epilog = """Done steps are skipped and interrupted trainings continue, also those begun by hand.

example: nnunet-mamba crossval -d 4 -tr nnUNetTrainerSegMamba nnUNetTrainerSegMambaNoMamba nnUNetTrainer"""


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when a step failed. Raises ValueError for what cannot be trained."""
    more = tuple(_option(text) for text in options.sbatch)
    models, dataset = _asked_for(options)
    out = (options.o or Dataset(dataset).results / "crossval").resolve()
    if out.is_file():
        raise ValueError(f"-o {out} is a file; expected a folder")
    from nnunet_mamba.study.crossval import slurm
    from nnunet_mamba.study.crossval.definition import Study
    from nnunet_mamba.study.crossval.steps import with_previous_stages

    folds = tuple(dict.fromkeys(options.f))
    device = options.device or ("cuda" if options.executor == "slurm" else _device())
    study = with_previous_stages(Study(dataset, models, folds, out, device, not options.disable_ensembling, options.np))
    for model in study.models:
        if study.plans_file(model).is_file():
            study.configuration(model)
    if options.executor == "slurm":
        resources = slurm.Resources(options.hours, options.memory, options.cores, options.partition, more)
        if options.dry_run:
            print(f"Jobs of {dataset}:\n{slurm.table(slurm.jobs_of(study))}\n\nand what they run:")
            return _print_commands(study)
        numbers = slurm.submit(study, resources)
        print("\n".join(f"  {number}  {name}" for name, number in numbers.items()))
        print(f"Logs: {out / 'jobs'}. The report will be {out / 'comparison' / 'report.html'}. Run the same command "
              "again to submit what failed.")  # fmt: skip
        return 0
    if options.dry_run:
        return _print_commands(study)
    from nnunet_mamba.study.crossval.local import run_study

    return run_study(study, options.gpus)


def _asked_for(options: argparse.Namespace) -> tuple[tuple[Model, ...], str]:
    """Models and dataset, known to exist or to be plannable, before torch is imported. Raises ValueError."""
    from nnunet_mamba.datasets import check_configuration_name, check_folds, dataset_name
    from nnunet_mamba.names.locate import check_trainer
    from nnunet_mamba.study.crossval.models import pair_models, planner_of

    for name in options.tr:
        check_trainer(name)
    for option, value in (("-np", options.np), ("--hours", options.hours), ("--memory", options.memory),
                          ("--cores", options.cores)):  # fmt: skip
        if not 0 < value < float("inf"):
            what = "a number of processes" if option == "-np" else "a number > 0"
            raise ValueError(f"{option} {value}; expected {what}")
    if options.gpus and options.device not in ("cuda", None):
        raise ValueError(f"--gpus {' '.join(options.gpus)} with -device {options.device}; leave one of them out")
    models = pair_models(options.tr, options.p, options.c)
    roots(*VARIABLES)
    dataset = dataset_name(options.d)
    for model in models:
        plans = Dataset(dataset).plans(model.plans)
        if not plans.is_file():
            planner_of(model.plans)
        check_configuration_name(model.configuration, plans)
    check_folds(dataset, options.f)
    return models, dataset


def _print_commands(study: Study) -> int:
    from nnunet_mamba.study.crossval.evidence import BestFound
    from nnunet_mamba.study.crossval.steps import first_half, second_half

    steps = first_half(study)
    undone = {s.name for s in steps if not s.done()}
    for step in steps:
        if step.name in undone and not (step.only_repairs and undone.intersection(step.after)):
            print(f"# {step.title}\n{shlex.join(step.command)}")
    if not BestFound(study)():
        print("# then, with what nnU-Net has chosen: nnUNetv2_predict, nnUNetv2_ensemble and "
              "nnUNetv2_apply_postprocessing as its inference_instructions.txt says; nnunet-mamba compare")  # fmt: skip
        return 0
    for step in second_half(study):
        if not step.done():
            print(f"# {step.title}\n{shlex.join(step.command)}")
    return 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--sbatch {text}; expected OPTION=VALUE, account=radiology for instance")
    return name.lstrip("-"), value
