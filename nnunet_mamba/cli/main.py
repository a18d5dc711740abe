"""`nnunet-mamba VERB`: finds the verb's file and runs it. A verb is imported only when it is used."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from importlib import import_module
from types import ModuleType

from nnunet_mamba.version import __version__

VERBS = {
    "demo": "train, cross-validate, ensemble and predict on 25 real cases, through nnU-Net's own commands",
    "doctor": "look at the installation, and explain error messages",
    "list": "show the networks, their names for nnU-Net, sizes and sources",
    "convert-checkpoint": "turn a published checkpoint into an nnU-Net model folder or into pretrained weights",
    "convert": "turn a downloaded dataset (ASOCA, BraTS, ...) into a checked dataset in nnU-Net's raw format",
    "plan-from-recipe": "merge what a paper or report used into a dataset's plans, checked, with a preview",
    "sweep": "derive, list and run a grid of patch, batch, oversampling, learning rate and loss",
    "crossval": "cross-validate several models through nnU-Net's commands, here or on a cluster, and compare them",
    "predict": "label new scans (NIfTI, NRRD, DICOM, ...) with a trained model or a zip of one, in one line",
    "card": "write a model's card, its data, licence, scores and intended use, beside it or into its zip",
    "study": "run a study as its recipe announces it: networks against their controls, several seeds, one table",
    "compare": "compare models on the same cases: intervals, tests, costs and pictures, as a page to send",
    "evaluate": "score predictions: overlap, distances, centre lines, lesions, per label or region",
    "postprocess": "choose a model's minimum component sizes on its cross-validation, and apply them",
    "calibrate": "choose a model's thresholds on its cross-validation, and use them in its predictions",
    "trust": "learn on a model's cross-validation which predictions to look at, and how sure its probabilities are",
    "export": "write a trained model as ONNX files, checked in onnxruntime, for runtimes without torch and nnU-Net",
    "bench": "compare our operators and networks with other implementations, each checked against the reference",
}


OF_A_MODEL = ("calibrate", "postprocess")
"""Verbs whose -d -tr -p -c name a trained model."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code. A ValueError of a verb is the user's to mend and is shown as one message."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="nnunet-mamba",
        description="Mamba networks for stock nnU-Net v2. Training and prediction need none of these verbs: use "
        "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerSegMamba.",
        epilog="nnunet-mamba VERB --help explains a verb.",
    )
    parser.add_argument("--version", action="version", version=f"nnunet-mamba {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if given[:1] == [name]:
            _module(name).add_arguments(verb)
    if given and not given[0].startswith("-") and given[0] not in VERBS:
        parser.error(_unknown_verb(given[0]))
    options = parser.parse_args(given)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without some sign ends nothing
    try:
        if options.verb in OF_A_MODEL:
            _find_model(options)
        return _module(options.verb).run(options)
    except ValueError as error:
        print(f"nnunet-mamba {options.verb}: {error}{_page(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that may not be written: the system's words name the file
        print(f"nnunet-mamba {options.verb}: {error}{_page(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nnnunet-mamba {options.verb}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _unknown_verb(given: str) -> str:
    near = difflib.get_close_matches(given, VERBS, n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"invalid choice: {given!r}. {meant}Verbs: {', '.join(VERBS)}"


def _find_model(options: argparse.Namespace) -> None:
    """Raises ValueError for a dataset or model that is not there; before torch is imported."""
    from nnunet_mamba.datasets import dataset_name, find_model
    from nnunet_mamba.nnunet_folders import Model, roots

    roots("nnUNet_preprocessed", "nnUNet_results")
    find_model(dataset_name(options.d), Model(options.tr, options.p, options.c).name)


def _page(error: str) -> str:
    """The command that explains a message further, if one does"""
    from nnunet_mamba.doctor.messages import FILE_NOT_FOUND, explain

    found = [m for m in explain(error) if m is not FILE_NOT_FOUND]  # it would say the same again
    return f"\nMore: nnunet-mamba doctor --explain {found[0].key}" if found else ""


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb, as the documentation shows it."""
    parser = argparse.ArgumentParser(prog=f"nnunet-mamba {verb}")
    _module(verb).add_arguments(parser)
    return parser


def _module(verb: str) -> ModuleType:
    return import_module(f"nnunet_mamba.cli.{verb.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())
