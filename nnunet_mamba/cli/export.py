"""`nnunet-mamba export`: a trained model as ONNX files, with all that a runtime without nnU-Net has to know."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_mamba.nnunet_folders import FINAL

FORMATS = ("onnx",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="MODEL",
        help="nnU-Net's folder of a model (TRAINER__PLANS__CONFIGURATION), or a zip of nnUNetv2_export_model_to_zip",
    )  # fmt: skip
    parser.add_argument("-o", type=Path, required=True, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--format", default=FORMATS[0], help="onnx, the only one so far; default: onnx")
    parser.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds, one file each (default: all that "
                        "have the checkpoint)")  # fmt: skip
    parser.add_argument("-c", default=FINAL, metavar="CHECKPOINT", help="default: %(default)s")
    parser.add_argument("-m", default=None, metavar="NAME", help="which model, where a zip holds several")
    parser.epilog = (
        "example: nnunet-mamba export $nnUNet_results/Dataset004_Hippocampus/nnUNetTrainerSegMamba__"
        "nnUNetSegMambaPlans__3d_fullres -o segmamba_onnx; every file is run in onnxruntime and compared with torch. "
        'Needs pip install "nnunet_mamba[export]"'
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for what is no model, or cannot be exported; then nothing is written."""
    if options.format not in FORMATS:
        raise ValueError(f"--format {options.format}; expected {' or '.join(FORMATS)}")
    if options.o.exists():
        raise ValueError(f"-o {options.o}: exists already; give another folder or remove it")
    if not options.model.exists():
        raise ValueError(f"{options.model}: no such folder or file; give nnU-Net's folder of a model, or a zip of one")

    from nnunet_mamba.export.folder import MODEL_JSON, export

    export(options.model, options.o, options.f, options.c, options.m, say=print)
    print(f"written: {options.o}; how to use it: {options.o / MODEL_JSON}")
    return 0
