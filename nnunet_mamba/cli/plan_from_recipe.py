"""`nnunet-mamba plan-from-recipe`: what a paper or report used, as a configuration of a dataset's plans."""

from __future__ import annotations

import argparse

from nnunet_mamba.nnunet_folders import roots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="name of a recipe that comes with the package, or a JSON file")
    parser.add_argument("-d", metavar="DATASET", help="dataset id or name; planned before")
    parser.add_argument("-p", metavar="PLANS", help="plans to add to (default: the network's own, else nnUNetPlans)")
    parser.add_argument("-gpu_memory_target", type=float, metavar="GB", help="refuse what would take more")
    parser.add_argument("--preview", action="store_true", help="show it and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace a configuration of the same name")
    parser.epilog = (
        "example: nnunet-mamba plan-from-recipe -d 1 segmamba_brats --preview; without a recipe: list them, and the "
        "keys of one"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for a recipe that does not fit the dataset; then nothing is written."""
    from nnunet_mamba.datasets import check_configuration_name, dataset_name, plans_file
    from nnunet_mamba.planning.recipe_format import check_recipe
    from nnunet_mamba.planning.recipes import load_recipe

    if options.recipe is None:
        _print_recipes()
        return 0
    recipe = load_recipe(options.recipe)
    own = check_recipe(recipe).plans
    names = [options.p] if options.p else [own, "nnUNetPlans"]
    if options.d is None:
        raise ValueError("-d DATASET is missing: the dataset whose plans the recipe is merged into")
    limit = options.gpu_memory_target
    if limit is not None and not 0 < limit < float("inf"):
        raise ValueError(f"-gpu_memory_target {limit:g}; expected GB, a number > 0")
    roots("nnUNet_preprocessed")
    there = plans_file(dataset_name(options.d), *names)
    check_configuration_name(recipe["inherits_from"], there, f"recipe {recipe['name']}: inherits_from")
    from nnunet_mamba.planning.configurations import DatasetPlans
    from nnunet_mamba.planning.merge_recipe import merge, preview

    plans = DatasetPlans.load(options.d, *names)
    merged = merge(recipe, plans, limit)
    print(preview(merged, recipe, plans))
    if options.preview:
        print("\nnothing written (--preview)")
        return 0
    new = plans.add({merged.name: merged.configuration}, options.overwrite)
    print(f"\n{'written' if new else 'there already'}: {merged.name} in {plans.path}")
    print(f"train it with nnUNetv2_train {options.d} {merged.name} 0 -tr {merged.network.trainer} -p {plans.name}")
    return 0


def _print_recipes() -> None:
    from nnunet_mamba.planning.recipe_format import RECIPE
    from nnunet_mamba.planning.recipes import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        if "network" in recipe:  # the other one is the demo's
            print(f"{name}: {recipe['purpose']}")
    print("\nA recipe of your own is a JSON file with these keys:")
    for field in RECIPE:
        print(f"  {field.key + ('' if field.needed else ' (may be left out)')}: {field.meaning}")
