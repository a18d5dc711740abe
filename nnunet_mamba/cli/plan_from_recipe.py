"""`nnunet-mamba plan-from-recipe`: what a paper or report used, as a configuration of a dataset's plans."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="name of a recipe that comes with the package, or a JSON file")
    parser.add_argument("-d", metavar="DATASET", help="dataset id or name; planned before")
    parser.add_argument("-p", metavar="PLANS", help="plans to add to (default: the network's own, else nnUNetPlans)")
    parser.add_argument("-gpu_memory_target", type=float, metavar="GB", help="refuse what would take more")
    parser.add_argument("--preview", action="store_true", help="show it and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace a configuration of the same name")
    parser.epilog = "example: nnunet-mamba plan-from-recipe -d 1 segmamba_brats --preview; without a recipe: list them"


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for a recipe that does not fit the dataset; then nothing is written."""
    from nnunet_mamba.planning.recipes import load_recipe, recipe_folder

    if options.recipe is None:
        for path in sorted(recipe_folder().glob("*.json")):
            recipe = load_recipe(path)
            print(f"{path.stem}: {recipe['purpose']}")
        return 0
    if options.d is None:
        raise ValueError("-d DATASET is missing: the dataset whose plans the recipe is merged into")
    from nnunet_mamba.planning.configurations import DatasetPlans
    from nnunet_mamba.planning.from_recipe import check, merge, preview

    recipe = load_recipe(options.recipe)
    own = check(recipe).plans
    plans = DatasetPlans.load(options.d, *([options.p] if options.p else [own, "nnUNetPlans"]))
    merged = merge(recipe, plans, options.gpu_memory_target)
    print(preview(merged, recipe, plans))
    if options.preview:
        print("\nnothing written (--preview)")
        return 0
    new = plans.add({merged.name: merged.configuration}, options.overwrite)
    print(f"\n{'written' if new else 'there already'}: {merged.name} in {plans.path}")
    print(f"train it with nnUNetv2_train {options.d} {merged.name} 0 -tr {merged.network.trainer} -p {plans.name}")
    return 0
