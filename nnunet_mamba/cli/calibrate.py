"""`nnunet-mamba calibrate`: thresholds chosen on a model's cross-validation, and used in its predictions if wished."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_mamba.calibration.validated_model import ValidatedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="3d_fullres for instance")
    parser.add_argument("-tr", required=True, metavar="TRAINER")
    parser.add_argument("-p", required=True, metavar="PLANS")
    parser.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds (default: all that are finished)")
    parser.add_argument("-metric", default="Dice", help="what to maximise, per case: Dice, IoU, F2 (finds more), F0.5 "
                        "(fewer false alarms); default: Dice")  # fmt: skip
    parser.add_argument("--apply", action="store_true", help="use the stored thresholds in predictions of this model")
    parser.add_argument("--remove", action="store_true", help="use one half again")
    parser.epilog = (
        "example: nnunet-mamba calibrate -d 500 -c 3d_fullres -tr nnUNetTrainerSegMamba -p nnUNetSegMambaPlans; read "
        "the gain, then the same with --apply. The folds need probabilities: nnUNetv2_train ... --npz"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for a model without thresholds or without probabilities."""
    from nnunet_mamba.calibration.validated_model import STOCK_MANAGER, ValidatedModel

    if options.apply and options.remove:
        raise ValueError("--apply and --remove exclude each other")
    model = ValidatedModel.find(options.d, options.tr, options.p, options.c)
    if options.remove:
        model.set_label_manager(STOCK_MANAGER)
        print(f"Predictions of {model.folder.name} use one half again")
        return 0
    if options.apply:
        stored = model.stored()
        name = model.apply(stored["thresholds"])
        print(f"Predictions of {model.folder.name} use {_shown(stored)} ({name} in its plans.json); back: --remove")
        return 0
    return _choose(model, options)


def _choose(model: ValidatedModel, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nnunet_mamba.calibration import choose
    from nnunet_mamba.calibration.label_manager import count_thresholds
    from nnunet_mamba.calibration.scores import DEFAULT, METRICS
    from nnunet_mamba.evaluation.description import masks_of

    if options.metric not in METRICS:
        raise ValueError(f"-metric {options.metric}; expected one of {', '.join(METRICS)}")
    count = count_thresholds(model.labels)
    folds = options.f or model.folder.finished_folds()
    if not folds:
        raise ValueError(f"{model.folder.path}: no fold has finished its validation")
    cases = model.cases(folds)
    scores = {c.name: model.scores(c, options.metric) for c in tqdm(cases, desc="scores at all thresholds")}
    groups = choose.groups_of({c.name: c.fold for c in cases})
    honest = choose.held_out(scores, groups)
    half = (DEFAULT,) * count
    progress = tqdm(cases, desc="gain on held-out cases")
    compared = [model.compare(case, options.metric, half, honest[case.name]) for case in progress]
    before, after = zip(*compared, strict=True)
    gain = choose.gain(before, after)
    report = {
        "metric": options.metric, "regions": list(masks_of(model.dataset_json["labels"])),
        "thresholds": choose.best_values(list(scores.values())), "thresholds_of_held_out_cases": honest,
        "mean_before": sum(before) / len(before), "gain": gain.mean,
        "interval": [gain.low, gain.high] if gain.varies else None,
        "confidence": choose.CONFIDENCE, "cases": gain.cases, "folds": folds,
    }  # fmt: skip
    target = model.store(report)
    print(f"{options.metric} at one half: {report['mean_before']:.4f} (empty truth and empty prediction count as 1)")
    print(f"thresholds: {_shown(report)}")
    print(f"gain, each case with thresholds chosen without its {'fold' if len(folds) > 1 else 'part'}: {gain}")
    if not gain.is_certain:
        print("The interval is not above zero: no evidence that these thresholds are better than one half.")
    print(f"Stored in {target}. Predictions are as before; to use the thresholds: the same command with --apply")
    return 0


def _shown(report: dict) -> str:
    return ", ".join(f"{n} {t:.2f}" for n, t in zip(report["regions"], report["thresholds"], strict=True))
