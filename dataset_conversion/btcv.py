"""BTCV (Synapse syn3193805): 13 abdominal organs in 30 CT volumes, 20 more without labels."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion import splits
from dataset_conversion.declare import CT, REFUSED, Case, Dataset, Found, Problem
from dataset_conversion.find import marked_folder, numbered, twice

ORGANS = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "portal_and_splenic_vein", "pancreas", "right_adrenal_gland", "left_adrenal_gland",
)  # fmt: skip
BTCV = Dataset(
    name="BTCV",
    id=512,
    channels=(CT,),
    labels={"background": 0, **{organ: i for i, organ in enumerate(ORGANS, 1)}},
    label_map={i: i for i in range(len(ORGANS) + 1)},
    licence="registration at Synapse; may not be passed on",
    source="https://www.synapse.org/Synapse:syn3193805",
    citation="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015",
)
NAMED_SPLITS = {
    "24-6": ("35", "36", "37", "38", "39", "40"),
    "transunet": ("01", "02", "03", "04", "08", "22", "25", "29", "32", "35", "36", "38"),
}
"""Validation cases of two splits in use: the last six, as in MONAI's tutorials; TransUNet's 18 and 12."""
NUMBER = re.compile(r"(?:img|label)([0-9]{4})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", choices=("5-fold", *NAMED_SPLITS), default="5-fold",
        help="5 folds, or a split in use: the last six for validation, or TransUNet's 12 (default: %(default)s)",
    )  # fmt: skip


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Raises ValueError for another layout than the release's."""
    root = marked_folder(source, lambda f: (f / "Training" / "img").is_dir(), "BTCV release (Training/img)")
    parts = [numbered(root / part, NUMBER) for part in ("Training/img", "Training/label", "Testing/img")]
    images, labels, tests = (files for files, _ in parts)
    cases = [Case(_id(n), paths[:1], labels[n][0] if n in labels else None) for n, paths in images.items()]
    cases += [Case(_id(n), paths[:1], None, is_test=True) for n, paths in tests.items()]
    problems = [*twice(images, _id), *twice(labels, _id), *twice(tests, _id), *(p for _, told in parts for p in told)]
    problems += [
        Problem(REFUSED, _id(n), f"{paths[0]}: a label without image") for n, paths in labels.items() if n not in images
    ]
    folds = None
    if options.get("split", "5-fold") != "5-fold":
        validation = [_id(n.zfill(4)) for n in NAMED_SPLITS[options["split"]]]
        folds = tuple(splits.named([c for c in cases if not c.is_test], validation))
    return Found(BTCV, tuple(cases), tuple(problems), folds, source=source)


def _id(number: str) -> str:
    return f"BTCV_{number}"
