"""A model folder as nnU-Net's training leaves it, on a real image: tiny networks, trained for seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import nnunet_mamba
from nnunet_mamba.discovery.resolve import load
from nnunet_mamba.names.locate import locate
from tests.stock_plans import stock_plans

HIPPOCAMPUS = Path(nnunet_mamba.__file__).parent / "data" / "hippocampus" / "Task04_Hippocampus"
CASE = "hippocampus_001"
IMAGE, LABEL = (HIPPOCAMPUS / folder / f"{CASE}.nii.gz" for folder in ("imagesTr", "labelsTr"))
NAME = "nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres"
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
REGIONS = {"background": 0, "whole": [1, 2], "posterior": 2}
SHARED = {"is_seg": False, "order_z": 0, "force_separate_z": None}
FUNCTION = "resample_data_or_seg_to_shape"
PATCH = (24, 32, 24)
LEARNING_RATE = 1e-2
ITERATIONS, FURTHER_ITERATIONS = 40, 2


def plans(dim: int = 3, **changes: Any) -> dict[str, Any]:
    """For a 3d or 2d network of two stages, with resampling"""
    content = stock_plans()
    name = "3d_fullres" if dim == 3 else "2d"
    planned = content["configurations"][name]
    content["configurations"] = {name: planned}
    content["dataset_name"] = "Dataset004_Hippocampus"
    content["foreground_intensity_properties_per_channel"] = {"0": {}}
    kwargs = planned["architecture"]["arch_kwargs"]
    kwargs |= {
        "n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3] * dim] * 2,
        "strides": [[1] * dim, [2] * dim], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
    }  # fmt: skip
    planned |= {"patch_size": list(PATCH[:dim]), "spacing": [1.0, 1.1, 1.2][-dim:]}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        planned |= {f"resampling_fn_{what}": FUNCTION, f"resampling_fn_{what}_kwargs": {**SHARED, "order": order}}
    planned |= changes
    return content


def dataset_json(labels: dict[str, Any]) -> dict[str, Any]:
    order = {"regions_class_order": [1, 2]} if labels is REGIONS else {}
    return {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **order}


def write_model(
    folder: Path,
    content: dict[str, Any] | None = None,
    labels: dict[str, Any] = LABELS,
    trainer: str = "nnUNetTrainerUMambaBot",
    folds: Sequence[str] = ("0",),
    mirroring: tuple[int, ...] | None = (0, 2),
    iterations: int = 0,
) -> Path:
    """The folder, with a checkpoint per fold, each trained on from the one before"""
    content = content or plans()
    (configuration,) = content["configurations"]
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(dataset_json(labels)))
    place = locate(trainer)
    assert place is not None
    manager = PlansManager(content)
    outputs = manager.get_label_manager(dataset_json(labels)).num_segmentation_heads
    torch.manual_seed(0)
    network = load(place).build_network_architecture(
        manager, manager.get_configuration(configuration), 1, outputs, enable_deep_supervision=False
    )
    for fold in folds:
        _train(network, tuple(content["configurations"][configuration]["patch_size"]), labels, iterations)
        iterations = min(iterations, FURTHER_ITERATIONS)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(), "trainer_name": trainer,
            "init_args": {"configuration": configuration}, "inference_allowed_mirroring_axes": mirroring,
        }  # fmt: skip
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def _train(network: torch.nn.Module, patch: tuple[int, ...], labels: dict[str, Any], iterations: int) -> None:
    image, truth = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (IMAGE, LABEL))
    image = ((image - image.mean()) / image.std()).astype(np.float32)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    random = np.random.default_rng(0)
    flat = 3 - len(patch)
    for _ in range(iterations):
        starts = [random.integers(0, n - p + 1) for n, p in zip(image.shape[flat:], patch, strict=True)]
        window: tuple[Any, ...] = tuple(slice(s, s + p) for s, p in zip(starts, patch, strict=True))
        # of a 2d network a batch of slices, else one window
        part, known = (x[(slice(None, None, 3), *window)] if flat else x[window][None] for x in (image, truth))
        logits = network(torch.from_numpy(part.copy())[:, None])
        wanted = torch.from_numpy(known.astype(np.int64))
        if labels is REGIONS:
            masks = torch.stack([wanted > 0, wanted == 2], 1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
        else:
            loss = torch.nn.functional.cross_entropy(logits, wanted, torch.tensor([0.2, 1.0, 1.0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
