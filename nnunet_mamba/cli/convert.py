"""`nnunet-mamba convert`: a download as a checked dataset in nnU-Net's raw format. All is in dataset_conversion."""

from __future__ import annotations

import argparse
import sys

from dataset_conversion import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser, command.chosen_name(sys.argv[1:]))


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when writing failed. Raises ValueError for what the user can mend."""
    return command.run(options)
