"""`nnunet-mamba postprocess`: a minimum component size chosen on a model's cross-validation, and applied."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_mamba.study.calibration import UNITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="3d_fullres for instance")
    parser.add_argument("-tr", required=True, metavar="TRAINER")
    parser.add_argument("-p", required=True, metavar="PLANS")
    parser.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds (default: all that are finished)")
    parser.add_argument("-metric", default="Dice", help="what to maximise: Dice, IoU, F2, F0.5; default: Dice")
    parser.add_argument("-unit", default="mm3", help="of the size: voxels or mm3; default: mm3")
    parser.add_argument("-i", type=Path, metavar="DIR", help="apply the stored sizes to these predictions")
    parser.add_argument("-o", type=Path, metavar="DIR", help="with -i: where the results go")
    parser.epilog = """Removes components below a minimum size of each label or region. nnU-Net's own postprocessing
(all but the largest component) is chosen by nnUNetv2_find_best_configuration.

example: nnunet-mamba postprocess -d 500 -c 3d_fullres -tr nnUNetTrainerSegMamba -p nnUNetPlans
         then the same with -i PREDICTIONS -o OUT"""


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for a model without validation, or without stored sizes."""
    from nnunet_mamba.study.calibration.minimum_size import MinimumSize, choose
    from nnunet_mamba.study.calibration.validated_model import ValidatedModel

    if options.unit not in UNITS:
        raise ValueError(f"-unit {options.unit}; expected {' or '.join(UNITS)}")
    if (options.i is None) != (options.o is None):
        raise ValueError("-i and -o belong together: -i PREDICTIONS -o OUT")
    model = ValidatedModel.find(options.d, options.tr, options.p, options.c)
    if options.i is not None:
        stored = MinimumSize.load(model)
        count = stored.apply(model, options.i, options.o)
        print(f"{count} label maps without components below {stored}: {options.o}")
        return 0
    found = choose(model, options.f or model.folder.finished_folds(), options.metric, options.unit)
    print(f"{options.metric} as predicted: {found.before:.4f} (empty truth and empty prediction count as 1)")
    print(f"minimum sizes: {found.size}")
    print(f"gain, each case with sizes chosen without its {found.group}: {found.gain}")
    if not found.gain.is_certain:
        print("The interval is not above zero: no evidence that removing them helps.")
    print(
        f"Stored in {found.size.store(model, found.as_json())}; to apply: the same command with -i PREDICTIONS -o OUT"
    )
    if options.unit == "voxels":
        print(f"or: nnUNetv2_apply_postprocessing -i PREDICTIONS -o OUT -pp_pkl_file {found.size.pickle(model)}")
    return 0
