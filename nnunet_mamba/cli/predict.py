"""`nnunet-mamba predict`: labels of new scans from a trained model, in one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

from nnunet_mamba.cli.demo import chosen_device
from nnunet_mamba.nnunet_folders import FINAL

SHOWN = ("intended use", "licence of the data")
"""Of the model's card; the page has all of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL", help="a zip of nnUNetv2_export_model_to_zip, nnU-Net's folder of a "
                        "model, or a data set's number or name (then -tr, -p, -c say which of its models)")  # fmt: skip
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files (NIfTI, NRRD, MetaImage, GIPL), "
                        "folders of DICOM series, or folders with any of them")  # fmt: skip
    parser.add_argument("-o", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("-device", choices=("cpu", "cuda"), default=None,
                        help="default: cuda if there is one, else cpu")  # fmt: skip
    parser.add_argument("-tr", default=None, metavar="TRAINER", help="of a data set")
    parser.add_argument("-p", default=None, metavar="PLANS", help="of a data set")
    parser.add_argument("-c", default=None, metavar="CONFIGURATION", help="of a data set")
    parser.add_argument("-m", default=None, metavar="NAME", help="which model, where a zip holds several")
    parser.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds whose mean predicts (default: all)")
    parser.add_argument("-chk", default=FINAL, metavar="CHECKPOINT", help="default: %(default)s")
    parser.add_argument(
        "-series", default=None, metavar="NUMBER", help="which DICOM series, where a folder has several"
    )
    parser.add_argument("--prefer", choices=("sform", "qform"), default=None,
                        help="where the two geometries of a NIfTI file disagree")  # fmt: skip
    parser.add_argument("--fix-shear", action="store_true", help="make slightly sheared axes perpendicular")
    parser.add_argument("--turn", action="store_true", help="predict files, too, the way round that the training "
                        "images lie, if that is known; DICOM series always are")  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="as nnUNetv2_predict: without thresholds and minimum "
                        "sizes that calibrate and postprocess have stored but nobody has applied")  # fmt: skip
    parser.add_argument("--disable_tta", action="store_true", help="one pass instead of the mean of mirrored "
                        "ones, eight for most volumes: faster, mostly a little worse")  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="on a CPU: convolutions in bfloat16, two to three times as "
                        "fast where the CPU has it")  # fmt: skip
    parser.add_argument("--onednn", action="store_true", help="on a CPU: all convolutions through oneDNN, up to three "
                        "times as fast for small patches; the same labels up to rounding")  # fmt: skip
    parser.add_argument("-step_size", type=float, default=0.5, metavar="SHARE", help="distance of windows, as a share "
                        "of their size (default: %(default)s, as nnU-Net)")  # fmt: skip
    parser.add_argument("--uncertainty", action="store_true", help="also a map of the uncertainty of each "
                        "case, in percent")  # fmt: skip
    parser.add_argument("--no-trust", action="store_true", help="do not judge how far to trust each case, where "
                        "nnunet-mamba trust has stored with the model what that takes; needs less memory")  # fmt: skip
    parser.epilog = """
Several channels: files that are numbered (CASE_0000.nii.gz, CASE_0001.nii.gz), or have the channels'
names in theirs, in a folder per case or not; or those of one case alone in the model's order.

Written: a label map and a picture per case, volumes.csv (ml), predictions.html (to scroll through), prediction.json.
Interrupted, it continues. It ends with 1 if some cases failed.

example: nnunet-mamba predict model.zip scan.nii.gz -o results"""


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 where some cases failed. Raises ValueError, nothing written, for what cannot be predicted."""
    from nnunet_mamba.prediction.images import cases_of, check_there, left_out

    check_there(options.images)
    if options.o.is_file() or options.o.name.endswith((".nii.gz", ".nii", ".nrrd", ".mha", ".csv")):
        raise ValueError(f"-o {options.o}: expected a folder, in which the results get the images' names")
    if not (Path(options.model).exists() or options.model.isdecimal() or options.model.startswith("Dataset")):
        raise ValueError(f"{options.model}: no such file or folder; give a zip of a model, its folder, or a data set")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # nnU-Net tells of folders that only training needs
        import torch

        from nnunet_mamba.prediction import run as prediction
        from nnunet_mamba.prediction.card import describe, lines
        from nnunet_mamba.prediction.model import Named, Use, open_usable
        from nnunet_mamba.prediction.predictor import device_in_words
        from nnunet_mamba.prediction.scans import Reading
        from nnunet_mamba.trust import outcome
    device = torch.device(chosen_device(options.device))
    named = Named(options.model, options.tr, options.p, options.c, options.m, options.f, options.chk)
    use = Use(not options.plain, not options.no_trust, not options.disable_tta, options.step_size, options.bf16,
              options.onednn)  # fmt: skip
    with open_usable(named, use) as usable:
        cases = cases_of(options.images, usable.channels, options.series)
        model = usable.model
        print(f"{model.plans['dataset_name']}: {model.trainer}, {model.configuration}, folds {' '.join(model.folds)}")
        print(f"finds {', '.join(usable.masks)}")
        of_model = lines(describe(model, without=() if use.trust else (outcome.STORED,)))
        for what in SHOWN:
            print(f"{what}: {dict(of_model)[what]}")
        for line in usable.told:
            print(line)
        if len(usable.channels) > 1:
            for case in cases:
                named_files = (f"{c} = {s.path}" for c, s in zip(usable.channels, case.channels, strict=True))
                print(f"{case.name}: {', '.join(named_files)}")
        for path in left_out(options.images):
            print(f"not looked at: {path}")
        print(
            f"{len(cases)} case{'' if len(cases) == 1 else 's'}, {device_in_words(device, options.device is not None)}"
        )
        reading = Reading(options.prefer, options.fix_shear, options.turn)
        failed = prediction.predict_cases(usable, cases, options.o, device, reading, of_model, maps=options.uncertainty)
    for name, reason in failed.items():
        print(f"nnunet-mamba predict: {name}: {reason}", file=sys.stderr)
    if len(failed) < len(cases):
        print(f"written: {options.o}; look at {options.o / prediction.PAGE}")
    return 1 if failed else 0
