"""`nnunet-mamba trust`: how well a model's own doubts find its bad predictions, and which cases to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_mamba.nnunet_folders import Dataset, Model, ModelFolder, roots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="3d_fullres for instance")
    parser.add_argument("-tr", required=True, action="append", metavar="TRAINER",
                        help="repeated: several trainers, whose networks are compared and averaged")  # fmt: skip
    parser.add_argument("-p", required=True, metavar="PLANS")
    parser.add_argument("-results", type=Path, action="append", default=[], metavar="DIR",
                        help="another nnUNet_results folder with the same trainers, trained with another seed; "
                        "repeated for more")  # fmt: skip
    parser.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds (default: all that are finished)")
    parser.add_argument("-below", type=float, default=None, metavar="DICE",
                        help="a case with a lower Dice is a failure; default: the worst fifth")  # fmt: skip
    parser.add_argument("-catch", type=float, default=0.9, metavar="SHARE",
                        help="share of the failures that the limit is to catch; default: 0.9")  # fmt: skip
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), default=None,
                        help="default: cuda if there is one, else cpu")  # fmt: skip
    parser.add_argument(
        "--maps", action="store_true", help="also an image of the uncertainty of every case, in percent"
    )
    parser.epilog = """Predicts the validation cases again, with nnU-Net's own passes kept apart. Interrupted, it
continues; the result is trust.json next to the model's plans.json, and tables and curves in its folder trust.

example: nnunet-mamba trust -d 4 -c 3d_fullres -tr nnUNetTrainerSegMamba -p nnUNetPlans"""


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for options that cannot be meant, and models that cannot be judged."""
    if not 0 < options.catch <= 1:
        raise ValueError(f"-catch {options.catch:g}; expected a share above 0 and up to 1, 0.9 for instance")
    if options.below is not None and not 0 < options.below <= 1:
        raise ValueError(f"-below {options.below:g}; expected a Dice above 0 and up to 1, 0.8 for instance")
    if len(set(options.tr)) < len(options.tr):
        raise ValueError(f"-tr {' -tr '.join(options.tr)}: a trainer is given twice; seeds are given by -results")
    folders, names = _folders(options)

    import torch

    from nnunet_mamba.study.calibration.validated_model import ValidatedModel
    from nnunet_mamba.trust import outcome as outcomes
    from nnunet_mamba.trust import report
    from nnunet_mamba.trust.validation import Validation, same_validation

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("-device cuda: torch finds no GPU here; use -device cpu, or see nnunet-mamba doctor")
    model = ValidatedModel.find(options.d, options.tr[0], options.p, options.c)
    folds = options.f or [f for f in folders[0].finished_folds() if all(f in m.finished_folds() for m in folders)]
    same_validation(model, folders, folds)
    place = outcomes.place(model.folder, len(folders))
    maps = place / "uncertainty" if options.maps else None
    cases = Validation(model, folders, torch.device(device), maps).cases(folds, place)
    found = outcomes.judge(names, folds, cases, options.below, options.catch)
    report.write(found, place)
    stored = outcomes.store(found, model.folder)
    print("\n".join(report.lines(found)))
    print(f"Stored in {stored}\nTables and curves: {place / report.PAGE}; a row per case: {place / report.TABLE}")
    return 0


def _folders(options: argparse.Namespace) -> tuple[list[ModelFolder], list[str]]:
    """Of all models, the first trainer's first, and what to call them. Raises ValueError naming what is not there."""
    from nnunet_mamba.datasets import dataset_name, find_model

    roots("nnUNet_preprocessed", "nnUNet_results")
    name = dataset_name(options.d)
    models = [Model(trainer, options.p, options.c).name for trainer in options.tr]
    found, names = [find_model(name, m) for m in models], list(models)
    for results in options.results:
        for m in models:
            folder = ModelFolder(results / name / m)
            if not folder.plans.is_file():
                raise ValueError(f"-results {results}: no {folder.plans}; name a folder like nnUNet_results")
            if folder.path.resolve() in {f.path.resolve() for f in found}:
                raise ValueError(
                    f"-results {results}: the same folder as {Dataset(name).results.parent}, or given twice"
                )
            found.append(folder)
            names.append(f"{m} in {results}")
    return found, names
