"""A cross-validation as nnU-Net leaves it: two folds of invented cases, networks of two stages without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.discovery.resolve import load
from nnunet_mamba.names.locate import locate
from tests.export.small_model import plans

DATASET, PLANS, CONFIGURATION = "Dataset004_Hippocampus", "nnUNetPlans", "3d_fullres"
TRAINER, OTHER = "nnUNetTrainerUMambaBotNoMamba", "nnUNetTrainerUMambaEncNoMamba"
LABELS: dict[str, Any] = {"background": 0, "anterior": 1, "posterior": 2}
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "posterior": [2], "ignore": 3}
SHAPE = (20, 16, 18)
FOLDS, CASES = 2, 3
MIRRORING = (0, 2)
ARGUMENTS = ("trust", "-d", DATASET, "-c", CONFIGURATION, "-p", PLANS, "-device", "cpu")


def dataset_json(labels: dict[str, Any] = LABELS) -> dict[str, Any]:
    order = {"regions_class_order": [1, 2]} if labels is REGIONS else {}
    return {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz", **order}


def small_plans() -> dict[str, Any]:
    """Without resampling, patches smaller than the cases"""
    return plans(patch_size=[16, 16, 16], spacing=[1.0, 1.0, 1.0])


def write_cases(root: Path, labels: dict[str, Any] = LABELS) -> None:
    """Preprocessed data and truths: two cubes in noise, in an image that is one voxel larger on either side"""
    random = np.random.default_rng(0)
    base = root / "nnUNet_preprocessed" / DATASET
    folder = base / "nnUNetPlans_3d"
    folder.mkdir(parents=True)
    (base / "gt_segmentations").mkdir()
    content = dataset_json(labels)
    (base / "dataset.json").write_text(json.dumps(content))
    whole = tuple(n + 2 for n in SHAPE)
    for i in range(FOLDS * CASES):
        seg = np.zeros((1, *SHAPE), np.int8)
        for label in (1, 2):
            x, y, z = random.integers(2, 10, 3)
            seg[0, x : x + 6, y : y + 6, z : z + 6] = label
        if labels is REGIONS:
            seg[0, :3] = 3
        data = (random.normal(0, 0.5, (1, *SHAPE)) + np.minimum(seg, 2)).astype(np.float32)
        properties = {
            "spacing": [1.0, 1.0, 1.0], "shape_before_cropping": whole, "class_locations": {},
            "shape_after_cropping_and_before_resampling": SHAPE,
            "bbox_used_for_cropping": [[1, n + 1] for n in SHAPE],
            "sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0),
                           "direction": tuple(np.eye(3).ravel())},
        }  # fmt: skip
        size = {"chunks": data.shape, "blocks": data.shape, "chunks_seg": seg.shape, "blocks_seg": seg.shape}
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(folder / f"case{i}"), **size)
        truth = np.zeros(whole, np.uint8)
        truth[1:-1, 1:-1, 1:-1] = seg[0]
        sitk.WriteImage(sitk.GetImageFromArray(truth), str(base / "gt_segmentations" / f"case{i}.nii.gz"))


def write_model(
    results: Path, trainer: str = TRAINER, labels: dict[str, Any] = LABELS, seed: int = 0, mirroring: Any = MIRRORING
) -> Path:
    """A folder with weights drawn from the seed, and a validation of each fold"""
    content, model = small_plans(), results / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}"
    place = locate(trainer)
    assert place is not None
    manager = PlansManager(content)
    heads = manager.get_label_manager(dataset_json(labels)).num_segmentation_heads
    for fold in range(FOLDS):
        torch.manual_seed(10 * seed + fold)
        network = load(place).build_network_architecture(
            manager, manager.get_configuration(CONFIGURATION), 1, heads, enable_deep_supervision=False
        )
        validation = model / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        for i in range(fold * CASES, (fold + 1) * CASES):
            (validation / f"case{i}.nii.gz").write_bytes(b"")  # which cases: their voxels are predicted again
        (validation / "summary.json").write_text("{}")
        checkpoint = {
            "network_weights": network.state_dict(), "trainer_name": trainer,
            "init_args": {"configuration": CONFIGURATION}, "inference_allowed_mirroring_axes": mirroring,
        }  # fmt: skip
        torch.save(checkpoint, model / f"fold_{fold}" / "checkpoint_final.pth")
    (model / "plans.json").write_text(json.dumps(content))
    (model / "dataset.json").write_text(json.dumps(dataset_json(labels)))
    return model
