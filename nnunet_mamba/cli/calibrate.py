"""`nnunet-mamba calibrate`: thresholds chosen on a model's cross-validation, and used in its predictions if wished."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="3d_fullres for instance")
    parser.add_argument("-tr", required=True, metavar="TRAINER")
    parser.add_argument("-p", required=True, metavar="PLANS")
    parser.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds (default: all that are finished)")
    parser.add_argument("-metric", default="Dice", help="what to maximise, per case: Dice, IoU, F2 (finds more), F0.5 "
                        "(fewer false alarms); default: Dice")  # fmt: skip
    parser.add_argument("--apply", action="store_true", help="use the stored thresholds in predictions of this model")
    parser.add_argument("--remove", action="store_true", help="go back to 0.5")
    parser.epilog = (
        "example: nnunet-mamba calibrate -d 500 -c 3d_fullres -tr nnUNetTrainerSegMamba -p nnUNetSegMambaPlans; read "
        "the gain, then the same with --apply. The folds need probabilities: nnUNetv2_train ... --npz"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for a model without thresholds or without probabilities."""
    from nnunet_mamba.study.calibration.thresholds import Thresholds, choose
    from nnunet_mamba.study.calibration.validated_model import STOCK_MANAGER, ValidatedModel

    if options.apply and options.remove:
        raise ValueError("--apply and --remove exclude each other")
    model = ValidatedModel.find(options.d, options.tr, options.p, options.c)
    if options.remove:
        model.set_label_manager(STOCK_MANAGER)
        print(f"Predictions of {model.folder.name} use 0.5 again")
        return 0
    if options.apply:
        stored = Thresholds.load(model)
        name = stored.apply(model)
        print(f"Predictions of {model.folder.name} use {stored} ({name} in its plans.json); back: --remove")
        return 0
    found = choose(model, options.f or model.folder.finished_folds(), options.metric)
    target = found.store(model)
    print(f"{options.metric} at one half: {found.before:.4f} (empty truth and empty prediction count as 1)")
    print(f"thresholds: {found.thresholds}")
    print(f"gain, each case with thresholds chosen without its {found.group}: {found.gain}")
    if not found.gain.is_certain:
        print("The interval is not above zero: no evidence that these thresholds are better than one half.")
    print(f"Stored in {target}. Predictions are as before; to use the thresholds: the same command with --apply")
    return 0
