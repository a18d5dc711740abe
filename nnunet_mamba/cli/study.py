"""`nnunet-mamba study`: a study as it was announced, from its data to its table."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli.demo import chosen_device, msd_dataset
from nnunet_mamba.nnunet_folders import VARIABLES

if TYPE_CHECKING:
    from nnunet_mamba.study.protocol.announced import Announced
    from nnunet_mamba.study.protocol.reach import Reach


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="hippocampus_study, reach_study, or a file like one of them")
    parser.add_argument("--data", type=Path, metavar="MSD_FOLDER",
                        help="the download, TaskXX_Name, as for nnUNetv2_convert_MSD_dataset; reach_study makes its "
                        "own data")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="some of the recipe's; default: all")
    parser.add_argument(
        "-device", choices=("cpu", "cuda"), default=None, help="default: cuda if there is one, else cpu"
    )
    parser.epilog = """Interrupted, it continues; done trainings are not repeated.

example: nnunet-mamba study hippocampus_study --data Task04_Hippocampus --out hippocampus_study
         nnunet-mamba study reach_study --out reach_study"""


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when one of nnU-Net's commands failed. Raises ValueError for unusable options."""
    out = options.out.resolve()
    if out.is_file():
        raise ValueError(f"--out {out} is a file; expected a folder")
    from nnunet_mamba.planning.recipes import load_recipe

    recipe = load_recipe(options.recipe)
    # nnU-Net reads these when it is imported
    os.environ.update({name: str(out / name) for name in VARIABLES})
    study = _study(recipe, options.data, out, options.device)
    seeds = options.seeds or recipe["seeds"]
    strangers = [str(seed) for seed in seeds if seed not in recipe["seeds"]]
    if strangers:
        allowed = " ".join(map(str, recipe["seeds"]))
        raise ValueError(f"--seeds {' '.join(strangers)}: not of this study; it announces {allowed}")
    from nnunet_mamba.study.crossval.commands import CommandFailedError

    try:
        return study.run(seeds)
    except CommandFailedError as error:
        print(f"\nnnunet-mamba study: {error}")
        return 1


def _study(recipe: Mapping[str, Any], data: Path | None, out: Path, device: str | None) -> Announced | Reach:
    """Raises ValueError for a recipe of no study, and for data that are missing or not asked for."""
    from nnunet_mamba.planning.recipe_format import check_reach, check_study, makes_its_data

    if makes_its_data(recipe):
        if data is not None:
            raise ValueError(f"--data {data}: {recipe.get('name', 'this study')} makes its own data; leave --data out")
        check_reach(recipe)
        from nnunet_mamba.study.protocol.reach import Reach

        return Reach(out, chosen_device(device), recipe)
    check_study(recipe)
    if data is None:
        raise ValueError(f"--data MSD_FOLDER is missing: the download that {recipe['name']} is about")
    source = data.resolve()
    dataset = msd_dataset(source)
    from nnunet_mamba.study.protocol.announced import Announced

    return Announced(source, dataset, out, chosen_device(device), recipe)
