"""`nnunet-mamba study`: a study as it was announced, from the download to its table."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunet_mamba.cli.demo import chosen_device, msd_dataset
from nnunet_mamba.nnunet_folders import VARIABLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="hippocampus_study, or a file like it")
    parser.add_argument("--data", type=Path, required=True, metavar="MSD_FOLDER",
                        help="the download, TaskXX_Name, as for nnUNetv2_convert_MSD_dataset")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="some of the recipe's; default: all")
    parser.add_argument(
        "-device", choices=("cpu", "cuda"), default=None, help="default: cuda if there is one, else cpu"
    )
    parser.epilog = """Interrupted, it continues; done trainings are not repeated.

example: nnunet-mamba study hippocampus_study --data Task04_Hippocampus --out hippocampus_study"""


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when one of nnU-Net's commands failed. Raises ValueError for unusable options."""
    source, out = options.data.resolve(), options.out.resolve()
    dataset = msd_dataset(source)
    if out.is_file():
        raise ValueError(f"--out {out} is a file; expected a folder")
    from nnunet_mamba.planning.recipe_format import check_study
    from nnunet_mamba.planning.recipes import load_recipe

    recipe = load_recipe(options.recipe)
    check_study(recipe)
    seeds = options.seeds or recipe["seeds"]
    strangers = [str(seed) for seed in seeds if seed not in recipe["seeds"]]
    if strangers:
        allowed = " ".join(map(str, recipe["seeds"]))
        raise ValueError(f"--seeds {' '.join(strangers)}: not of this study; it announces {allowed}")
    # nnU-Net reads these when it is imported
    os.environ.update({name: str(out / name) for name in VARIABLES})
    from nnunet_mamba.study.crossval.commands import CommandFailedError
    from nnunet_mamba.study.protocol.announced import Announced

    try:
        return Announced(source, dataset, out, chosen_device(options.device), recipe).run(seeds)
    except CommandFailedError as error:
        print(f"\nnnunet-mamba study: {error}")
        return 1
