"""`nnunet-mamba demo`: the whole of nnU-Net's job on 25 real cases, through nnU-Net's own commands."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import nnunet_mamba
from nnunet_mamba.nnunet_folders import (
    DATASET_JSON,
    IMAGES,
    LABELS,
    NNUNET_FOLDS,
    UNSEEN_IMAGES,
    VARIABLES,
    Dataset,
)

RECIPE = "hippocampus_demo"
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
    source, out = options.data.resolve(), options.out.resolve()
    dataset = msd_dataset(source)
    if out.is_file():
        raise ValueError(f"--out {out} is a file; expected a folder")
    # nnU-Net reads these when it is imported
    os.environ.update({name: str(out / name) for name in VARIABLES})
    from nnunet_mamba.planning.recipe_format import check_demo
    from nnunet_mamba.planning.recipes import load_recipe

    recipe = load_recipe(options.recipe)
    check_demo(recipe)
    from nnunet_mamba.demo import Demo
    from nnunet_mamba.study.crossval.commands import CommandFailedError

    try:
        return Demo(source, dataset, out, chosen_device(options.device), recipe).run()
    except CommandFailedError as error:
        print(f"\nnnunet-mamba demo: {error}")
        return 1


def msd_dataset(source: Path) -> str:
    """nnU-Net's name for an MSD folder. Raises ValueError saying what is missing."""
    match = TASK_NAME.match(source.name)
    if match is None:
        raise ValueError(f"--data {source}: the folder's name must be TaskXX_Name, for example Task04_Hippocampus")
    missing = [name for name in (IMAGES, LABELS, UNSEEN_IMAGES, DATASET_JSON) if not (source / name).exists()]
    if missing:
        raise ValueError(f"--data {source}: {', '.join(missing)} not found; expected the folders of an MSD download")
    cases = [p for p in (source / IMAGES).glob("*.nii.gz") if not p.name.startswith(".")]
    if len(cases) < NNUNET_FOLDS:
        raise ValueError(f"--data {source}: {len(cases)} training images; 5-fold cross-validation needs at least 5")
    return Dataset.of(int(match[1]), match[2]).name


def chosen_device(asked: str | None) -> str:
    """The one asked for, or CUDA where there is a GPU. Raises ValueError where it is asked for and there is none."""
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ValueError("-device cuda: torch sees no CUDA device here; use -device cpu")
    return asked or ("cuda" if available else "cpu")
