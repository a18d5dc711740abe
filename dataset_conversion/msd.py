"""Datasets of the Medical Segmentation Decathlon: our checks and splits around nnU-Net's own converter."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_conversion.declare import Case, Dataset, Found, Options
from dataset_conversion.find import entries, marked_folder, nifti_stem
from dataset_conversion.report import Report

TASK = re.compile(r"^Task(\d{2,3})_([A-Za-z0-9]+)$")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own"""


def convert(source: Path, raw: Path, number: int | None, options: Options, dry_run: bool) -> Report:
    """nnU-Net's converter into a temporary nnUNet_raw, then our engine from there. Raises as `convert.convert`."""
    from dataset_conversion.convert import convert as engine
    from dataset_conversion.convert import plan

    root = marked_folder(source, lambda f: (f / "dataset.json").is_file() and (f / "imagesTr").is_dir(), "MSD task")
    match = TASK.match(root.name)
    if match is None:
        raise ValueError(f"{root}: expected a folder named like Task04_Hippocampus, as released")
    with tempfile.TemporaryDirectory(dir=_existing(raw), prefix=".msd_") as folder:
        found = _found(_split_channels(root, Path(folder), options.jobs), number or int(match[1]), match[2])
        return plan(found, options) if dry_run else engine(found, raw, options)


def _existing(raw: Path) -> Path:
    raw.mkdir(parents=True, exist_ok=True)
    return raw


def _split_channels(root: Path, folder: Path, jobs: int) -> Path:
    """nnU-Net's converter, which asserts names and folders that a download may lack"""
    from nnunetv2.dataset_conversion import convert_MSD_dataset as stock
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    staged = folder / "in" / root.name
    staged.mkdir(parents=True)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (staged / part).mkdir()
        if (root / part).is_dir():
            for path in entries(root / part):
                if nifti_stem(path.name):
                    shutil.copy(path, staged / part / path.name)
    shutil.copy(root / "dataset.json", staged / "dataset.json")
    before = stock.nnUNet_raw
    stock.nnUNet_raw = str(folder / "out")
    try:
        (folder / "out").mkdir()
        # the id is only for its check that nobody has it
        free = next(i for i in range(999, 0, -1) if not len(find_candidate_datasets(i)))
        stock.convert_msd_dataset(str(staged), free, jobs)
    finally:
        stock.nnUNet_raw = before
    return next((folder / "out").iterdir())


def _found(made: Path, number: int, name: str) -> Found:
    text = json.loads((made / "dataset.json").read_text(encoding="utf-8"))
    labels: Mapping[str, int] = text["labels"]
    cases = []
    for folder, is_test in (("imagesTr", False), ("imagesTs", True)):
        by_case: dict[str, list[Path]] = {}
        for path in entries(made / folder):
            by_case.setdefault(path.name[: -len("_0000.nii.gz")], []).append(path)
        for case, images in by_case.items():
            label = made / "labelsTr" / f"{case}.nii.gz"
            cases.append(Case(case, tuple(images), label if not is_test and label.exists() else None, is_test))
    values = {int(v): int(v) for v in labels.values()}
    channels: dict[str, Any] = text["channel_names"]
    dataset = Dataset(
        name=name,
        id=number,
        channels=tuple(channels.values()),
        labels={k: int(v) for k, v in labels.items()},
        label_map=values,
        licence=text.get("licence", "CC BY-SA 4.0"),
        source=text.get("reference", "http://medicaldecathlon.com"),
        citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022",
    )
    return Found(dataset, tuple(cases))
