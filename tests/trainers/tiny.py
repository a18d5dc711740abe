"""A preprocessed dataset of five invented cases, and nnU-Net's training loop on it within this process: seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba.discovery.resolve import load
from nnunet_mamba.names.locate import locate
from nnunet_mamba.trainers.safe import SafeTrainer
from tests.stock_plans import DATASET_JSON, stock_plans

CASES, SHAPE = 5, (1, 20, 18, 22)
CONFIGURATION = "3d_fullres"
CPU = torch.device("cpu")


def write_preprocessed(root: Path, dataset_json: Mapping[str, Any] = DATASET_JSON, plans: dict | None = None) -> Path:
    """What nnUNetv2_preprocess leaves: noise with two bright cubes, which are the labels."""
    plans = plans or stock_plans()
    base = root / "nnUNet_preprocessed" / plans["dataset_name"]
    folder = base / plans["configurations"][CONFIGURATION]["data_identifier"]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    channels = len(dataset_json["channel_names"])
    names = [f"case{i}" for i in range(CASES)]
    for name in names:
        seg = np.zeros(SHAPE, np.int8)
        for label in (1, 2):
            x, y, z = rng.integers(0, 12, 3)
            seg[0, x : x + 6, y : y + 6, z : z + 6] = label
        data = np.concatenate([rng.normal(0, 0.5, SHAPE) + seg for _ in range(channels)]).astype(np.float32)
        where = {label: np.argwhere(seg == label) for label in (1, 2)}
        size = {"chunks": data.shape, "blocks": data.shape, "chunks_seg": SHAPE, "blocks_seg": SHAPE}
        nnUNetDatasetBlosc2.save_case(data, seg, {"class_locations": where}, str(folder / name), **size)
    (base / "splits_final.json").write_text(json.dumps([{"train": names[:3], "val": names[3:]}]))
    (base / "dataset_fingerprint.json").write_text("{}")
    return folder


def poison(folder: Path, name: str, value: float) -> None:
    """Overwrite a case's image with one value, NaN for instance."""
    path = folder / f"{name}.b2nd"
    shape = blosc2.open(str(path)).shape
    path.unlink()
    blosc2.asarray(np.full(shape, value, np.float32), urlpath=str(path), chunks=shape, blocks=shape)


def make(
    name: str = "nnUNetTrainerSegMamba_2epochs_3its",
    dataset_json: Mapping[str, Any] = DATASET_JSON,
    plans: dict | None = None,
    fold: int | str = 0,
) -> Any:
    """A trainer by name, as nnUNetv2_train makes it, on the CPU"""
    place = locate(name)
    assert place is not None, name
    trainer: type[nnUNetTrainer] = load(place)
    arguments = {**(plans or stock_plans()), "continue_training": False}
    return trainer(arguments, CONFIGURATION, fold, dict(dataset_json), CPU)


def without_pictures(trainer: SafeTrainer) -> SafeTrainer:
    """Plots take most of a tiny training's time."""
    trainer.logger.plot_progress_png = lambda output_folder: None  # type: ignore[method-assign]
    return trainer


def log_of(trainer: SafeTrainer) -> str:
    return Path(trainer.log_file).read_text(encoding="utf-8")
