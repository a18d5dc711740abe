"""`nnunet-mamba sweep`: a grid of training settings through nnU-Net's own commands."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.nnunet_folders import SEPARATOR, Dataset, FoldFolder, roots

if TYPE_CHECKING:
    from nnunet_mamba.planning.sweep import Variant

SWEEPS = "sweeps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("grid", type=Path, metavar="GRID.json", help="the grid, see below")
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name; planned and preprocessed")
    parser.add_argument("-f", nargs="+", default=["0"], metavar="FOLD", help="folds (default: 0)")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), default=None, help="for nnUNetv2_train")
    parser.add_argument("-gpu_memory_target", type=float, metavar="GB", help="leave out variants that would take more")
    parser.add_argument("--run", action="store_true", help="train them one after the other; started ones are continued")
    parser.add_argument("--overwrite", action="store_true", help="replace configurations of the same name")
    parser.epilog = """example: nnunet-mamba sweep -d 4 grid.json --run -device cuda

GRID.json: every combination of the listed values is one variant; leave out what shall not vary.
{
  "plans": "nnUNetSegMambaPlans", "configuration": "3d_fullres", "trainer": "nnUNetTrainerSegMamba_50epochs",
  "patch_size": [[96, 96, 96], [128, 128, 96]],
  "batch_size": [2, 4],
  "foreground_oversampling": [0.33, 0.66],
  "initial_lr": [0.01, 0.001],
  "loss": ["Dice", "CE", "TopK10", "DiceTopK10"]
}
plans: nnUNetPlans if left out; patch_size: voxels along x y z (2d: along x y of a slice); loss: nnU-Net's Dice +
cross-entropy if left out. 200 variants at most."""


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when a training failed. Raises ValueError for a grid that cannot be planned."""
    limit = options.gpu_memory_target
    if not options.grid.is_file():
        raise ValueError(f"{options.grid}: no such file; expected a JSON grid, see nnunet-mamba sweep --help")
    if limit is not None and not 0 < limit < float("inf"):
        raise ValueError(f"-gpu_memory_target {limit:g}; expected GB, a number > 0")
    grid = _asked_for(options)
    from nnunet_mamba.planning import sweep as sweeps
    from nnunet_mamba.planning.configurations import DatasetPlans, gigabytes
    from nnunet_mamba.planning.estimate import budget_bytes

    plans = DatasetPlans.load(options.d, grid.get("plans", "nnUNetPlans"))
    made = sweeps.derive(grid, plans)
    kept = [v for v in made.variants if limit is None or v.memory <= budget_bytes(limit)]
    if not kept:
        least = min(v.memory for v in made.variants)
        raise ValueError(f"-gpu_memory_target {limit:g}: no variant fits; the smallest takes about {gigabytes(least)}")
    names = {v.configuration for v in kept}
    new = plans.add({n: c for n, c in made.configurations.items() if n in names}, options.overwrite)
    print(f"{len(kept)} variants; new in {plans.path.name}: {', '.join(new) or 'nothing'}")
    for variant in made.variants:
        over = "" if variant in kept else "   left out: over -gpu_memory_target"
        print(f"  {variant.configuration}  {variant.trainer}  about {gigabytes(variant.memory)}{over}")

    dataset = Dataset(plans.dataset)
    folders = [dataset.model(v.model(plans.name)) for v in kept]
    kept_sweep = sweeps.Sweep(tuple(kept), made.configurations)
    failed = 0
    jobs = [(v, folder.fold(fold)) for v, folder in zip(kept, folders, strict=True) for fold in options.f]
    missing = [(v, fold) for v, fold in jobs if sweeps.dice(fold) is None]
    print(f"\n{len(jobs) - len(missing)} of {len(jobs)} trainings finished")
    for variant, fold in missing:
        line = sweeps.command(variant, plans.dataset, plans.name, fold.number, options.device)
        if fold.latest.is_file():
            line.append("--c")
        if options.run:
            failed += not _train(dataset.results / SWEEPS, variant, fold, line)
        else:
            print(shlex.join(line))
    print("\n" + sweeps.results_table(kept_sweep, folders, options.f))
    return 1 if failed else 0


def _asked_for(options: argparse.Namespace) -> dict[str, Any]:
    """The grid; what is wrong is said before torch is imported and before any variant is sized."""
    from nnunet_mamba.datasets import check_configuration_name, check_folds, dataset_name, plans_file
    from nnunet_mamba.names.locate import check_trainer
    from nnunet_mamba.planning import grid as grids

    grid = grids.load_grid(options.grid)
    check_trainer(grid["trainer"])
    roots("nnUNet_preprocessed", "nnUNet_results")
    dataset = dataset_name(options.d)
    plans = plans_file(dataset, grid.get("plans", "nnUNetPlans"))
    check_configuration_name(grid["configuration"], plans, "configuration")
    wrong = [fold for fold in options.f if not fold.isdecimal() and fold != "all"]
    if wrong:
        raise ValueError(f"-f {' '.join(wrong)}; expected numbers of folds, or all")
    check_folds(dataset, [int(fold) for fold in options.f if fold != "all"])
    print(f"{grids.variants(grid)} variants of {grid['configuration']}, {plans.stem}; sizing them", flush=True)
    return grid


def _train(root: Path, variant: Variant, fold: FoldFolder, line: list[str]) -> bool:
    """Whether it ended well. A failure is reported and the others go on."""
    from nnunet_mamba.study.crossval.commands import CommandFailedError, StockCommands

    step = SEPARATOR.join((variant.trainer, variant.configuration, fold.path.name))
    (root / "steps" / f"{step}.done").unlink(missing_ok=True)  # asked for because its result is not there
    try:
        StockCommands(root, {}).run(step, line, f"{variant.configuration} {variant.trainer} fold {fold.number}")
        return True
    except CommandFailedError as error:
        print(f"    failed, going on: {error}")
        return False
