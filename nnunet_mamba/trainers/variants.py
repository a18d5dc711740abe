"""Trainers with suffixes: `nnUNetTrainerSegMamba_5epochs`, `nnUNetTrainerSegMamba_lr1e-3_fg66_lossDice`.

Classes are made when asked for, as attributes of this module, so that they pickle by reference and a checkpoint's
trainer name finds them again. `_20its` sets the training iterations per epoch (nnU-Net: 250), validation gets a tenth.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import registry
from nnunet_mamba.trainers import networks

VALIDATION_SHARE = 10
CHECKPOINTS_PER_TRAINING = 20
LOSSES = "nnunetv2.training.nnUNetTrainer.variants.loss"
LOSS_TRAINERS = {
    "Dice": ("nnUNetTrainerDiceLoss", "nnUNetTrainerDiceLoss"),
    "CE": ("nnUNetTrainerCELoss", "nnUNetTrainerCELoss"),
    "TopK10": ("nnUNetTrainerTopkLoss", "nnUNetTrainerTopk10Loss"),
    "DiceTopK10": ("nnUNetTrainerTopkLoss", "nnUNetTrainerDiceTopK10Loss"),
}
"""nnU-Net's trainers whose loss is borrowed: module and class."""


def __getattr__(name: str) -> Any:
    variant = registry.parse_variant(name)
    if variant is None or registry.locate(name) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = nnUNetTrainer if variant.base == registry.STOCK_TRAINER else getattr(networks, variant.base)
    made = _make(name, base, variant)
    globals()[name] = made
    return made


def _make(name: str, base: type[nnUNetTrainer], variant: registry.Variant) -> type[nnUNetTrainer]:
    class Changed(base):  # type: ignore[valid-type, misc]
        def __init__(
            self,
            plans: dict,
            configuration: str,
            fold: int,
            dataset_json: dict,
            device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net reads this signature
        ):
            super().__init__(plans, configuration, fold, dataset_json, device)
            if variant.initial_lr is not None:
                self.initial_lr = variant.initial_lr
            if variant.foreground is not None:
                self.oversample_foreground_percent = variant.foreground
            if variant.epochs is not None:
                self.num_epochs = variant.epochs
                # a short training is worth continuing too
                self.save_every = min(self.save_every, max(1, variant.epochs // CHECKPOINTS_PER_TRAINING))
            if variant.iterations is not None:
                self.num_iterations_per_epoch = variant.iterations
                self.num_val_iterations_per_epoch = max(1, variant.iterations // VALIDATION_SHARE)

    if variant.loss is not None:
        module, class_name = LOSS_TRAINERS[variant.loss]
        Changed._build_loss = getattr(import_module(f"{LOSSES}.{module}"), class_name)._build_loss
    Changed.__name__ = Changed.__qualname__ = name
    return Changed
