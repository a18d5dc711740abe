"""Trainers with suffixes: `nnUNetTrainerSegMamba_5epochs`, `nnUNetTrainerSegMamba_AdamW_bf16_lossClDice`.

Classes are made when asked for, as attributes of this module, so that they pickle by reference and a checkpoint's
trainer name finds them again. What the suffixes are called and mean: `nnunet_mamba.trainer_names`. The stock trainer
gets them too, for a fair comparison.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nnunet_mamba import registry, trainer_names
from nnunet_mamba.checks import has_regions
from nnunet_mamba.trainer_names import ADAMW, AS_RELEASED, Variant
from nnunet_mamba.trainers import losses, networks, schedules
from nnunet_mamba.trainers.safe import SafeTrainer

VALIDATION_SHARE = 10
CHECKPOINTS_PER_TRAINING = 20
RELEASED_LOSS = "CE"
ADAMW_DECAY = 1e-2  # torch's; the reports that name AdamW name no decay


def __getattr__(name: str) -> Any:
    variant = trainer_names.parse(name)
    if variant is None or registry.locate(name) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = SafeTrainer if variant.base == registry.STOCK_TRAINER else getattr(networks, variant.base)
    made = _make(name, base, variant)
    globals()[name] = made
    return made


def _make(name: str, base: type[SafeTrainer], variant: Variant) -> type[SafeTrainer]:
    loss = RELEASED_LOSS if variant.recipe == AS_RELEASED else variant.loss

    class Changed(base):  # type: ignore[valid-type, misc]
        wanted_precision = variant.precision
        accumulated_batches = variant.accumulate or 1
        patience = variant.patience

        @classmethod
        def _check(cls, plans: dict, configuration: str, dataset_json: dict) -> None:
            _check_loss(name, loss, dataset_json)
            super()._check(plans, configuration, dataset_json)

        def _set_values(self) -> None:
            super()._set_values()
            _set_values(self, variant)

    if loss is not None:

        def _build_loss(self: SafeTrainer) -> nn.Module:
            return losses.with_loss(loss, self, base._build_loss(self))

        Changed._build_loss = _build_loss  # type: ignore[assignment]  (nnU-Net names its own losses)
    if variant.recipe == ADAMW:
        Changed.recipe_optimizer = _adamw
    if variant.mirroring is False:

        def without_mirroring(self: SafeTrainer) -> tuple:
            rotation, dummy_2d, initial_patch, _ = base.configure_rotation_dummyDA_mirroring_and_inital_patch_size(self)
            self.inference_allowed_mirroring_axes = None
            return rotation, dummy_2d, initial_patch, None

        Changed.configure_rotation_dummyDA_mirroring_and_inital_patch_size = without_mirroring
    Changed.__name__ = Changed.__qualname__ = name
    return Changed


def _check_loss(name: str, loss: str | None, dataset_json: dict) -> None:
    """Before anything is written. Raises ValueError."""
    if loss in trainer_names.LABELS_ONLY and has_regions(dataset_json["labels"]):
        raise ValueError(
            f"{name}: its loss ({loss}) is for labels that exclude each other, and this dataset has regions; take "
            "_lossDice or none"
        )


def _set_values(trainer: SafeTrainer, variant: Variant) -> None:
    if variant.recipe == ADAMW:
        trainer.initial_lr, trainer.weight_decay = schedules.HIGHEST, ADAMW_DECAY
    if variant.recipe == AS_RELEASED:
        trainer.enable_deep_supervision = False
    if variant.initial_lr is not None:
        trainer.initial_lr = variant.initial_lr
    if variant.foreground is not None:
        trainer.oversample_foreground_percent = variant.foreground
    if variant.epochs is not None:
        trainer.num_epochs = variant.epochs
        # a short training is worth continuing too
        trainer.save_every = min(trainer.save_every, max(1, variant.epochs // CHECKPOINTS_PER_TRAINING))
    if variant.iterations is not None:
        trainer.num_iterations_per_epoch = variant.iterations
        trainer.num_val_iterations_per_epoch = max(1, variant.iterations // VALIDATION_SHARE)


def _adamw(self: SafeTrainer) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
    return optimizer, schedules.CosineWithWarmUp(optimizer, self.initial_lr, self.num_epochs)
