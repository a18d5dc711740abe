"""`nnunet-mamba card`: what a model was trained on and is for, written beside it or into its zip."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

from nnunet_mamba.nnunet_folders import FINAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a zip of nnUNetv2_export_model_to_zip, or nnU-Net's "
                        "folder of a model")  # fmt: skip
    parser.add_argument("-use", default=None, metavar="TEXT", help="what the model is for, and what not")
    parser.add_argument("-licence", default=None, metavar="TEXT", help="of the training data")
    parser.add_argument("-source", default=None, metavar="TEXT", help="where the training data come from")
    parser.add_argument("-zip", type=Path, default=None, metavar="ZIP", help="with a folder: write into this zip of it "
                        "too, with what calibrate, postprocess and trust have stored")  # fmt: skip
    parser.add_argument("-m", default=None, metavar="NAME", help="which model, where a zip holds several")
    parser.add_argument("-chk", default=FINAL, metavar="CHECKPOINT", help="default: %(default)s")
    parser.epilog = (
        "Asks in a terminal for what is neither given nor known. Scores with intervals, seed and settings are taken "
        "from the model's files. To read a card: nnunet-mamba list MODEL.\n"
        "example: nnunet-mamba card model.zip -use 'research on hippocampal volume; not for diagnosis'"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError, and leaves all as it was, for what is no model."""
    if options.zip is not None and not (options.model.is_dir() and options.zip.is_file()):
        raise ValueError("-zip ZIP goes with the folder of a model, and has to be there")
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells of folders that only training needs
        from nnunet_mamba.export.model import TrainedModel
        from nnunet_mamba.export.source import STORED, open_model
        from nnunet_mamba.prediction import card as cards
        from nnunet_mamba.trust import outcome
    with open_model(options.model, options.m, options.chk) as folder:
        model = TrainedModel.read(folder, None, options.chk)
        stated = {"intended_use": options.use or "", "licence": options.licence or "", "source": options.source or ""}
        known = cards.describe(model, stated)
        missing = [key for key in cards.ASKED if known[key] == cards.NOT_STATED]
        if missing and sys.stdin.isatty():
            stated |= {key: input(f"{cards.ASKED[key]} (Enter: {cards.NOT_STATED}): ").strip() for key in missing}
            known = cards.describe(model, stated)
        if outcome.file(folder, 1).is_file():
            outcome.Stored.load(folder)  # others are not given what their predictions would refuse
        if options.model.is_dir():
            cards.write(known, folder.path)
        if not options.model.is_dir() or options.zip is not None:
            stored = [p for n in STORED if (p := folder.path / n).is_file()] if options.zip is not None else []
            cards.put_into_zip(options.zip or options.model, folder.path.resolve().name, known, stored)
    print(cards.as_markdown(known))
    left = [cards.ASKED[key] for key in cards.ASKED if known[key] == cards.NOT_STATED]
    if left:
        print(f"not stated: {', '.join(left)}; give -use, -licence, -source")
    return 0
