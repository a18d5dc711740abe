"""What the suffixes of a trainer's name do: `nnUNetTrainerSegMamba_AdamW_bf16_lossClDice_5epochs`.

What they are called and mean: `nnunet_mamba.names.suffixes`. The stock trainer gets them too, for a fair comparison.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from torch import nn

from nnunet_mamba.names import suffixes
from nnunet_mamba.names.suffixes import ADAMW, AS_RELEASED, TrainerName
from nnunet_mamba.plan_checks import has_regions
from nnunet_mamba.trainers import losses, schedules
from nnunet_mamba.trainers.safe import SafeTrainer

VALIDATION_SHARE = 10
CHECKPOINTS_PER_TRAINING = 20
RELEASED_LOSS = "CE"
UNTURNED = (0.0, 0.0)
NNUNET_SCALING = (0.85, 1.25)
"""From which nnU-Net's trainer computes what it loads for a patch that is turned and scaled"""
ADAMW_DECAY = 1e-2  # torch's; the reports that name AdamW name no decay


def with_suffixes(base: type[SafeTrainer], parts: TrainerName) -> type[SafeTrainer]:
    """`base`, trained as the suffixes say."""
    meanings = "".join(f"\n_{text}: {meaning}" for text, meaning in parts.meanings())
    network = {"mamba_network": replace(base.mamba_network, **parts.mixing)} if parts.mixing else {}  # type: ignore[attr-defined]
    return type(parts.name, (SuffixedTrainer, base), {
        **network,
        "parts": parts,
        "wanted_precision": parts.precision,
        "accumulated_batches": parts.accumulate or 1,
        "patience": parts.patience,
        "__doc__": f"{parts.base} with{meanings}",
    })  # fmt: skip


class SuffixedTrainer(SafeTrainer):
    """Stands before the trainer that it changes; `parts` says in what."""

    parts: ClassVar[TrainerName]

    @classmethod
    def _loss(cls) -> str | None:
        return RELEASED_LOSS if cls.parts.recipe == AS_RELEASED else cls.parts.loss

    @classmethod
    def _check(cls, plans: dict, configuration: str, dataset_json: dict) -> None:
        _check_loss(cls.parts.name, cls._loss(), dataset_json)
        super()._check(plans, configuration, dataset_json)

    def _set_values(self) -> None:
        super()._set_values()
        _set_values(self, self.parts)

    def _build_loss(self) -> nn.Module:
        name, stock = self._loss(), super()._build_loss()
        return stock if name is None else losses.with_loss(name, self, stock)

    def recipe_optimizer(self) -> tuple[Any, Any]:
        """nnU-Net's, or AdamW with a warm-up."""
        if self.parts.recipe != ADAMW:
            return super().recipe_optimizer()
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, schedules.CosineWithWarmUp(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802  nnU-Net's name
        """nnU-Net's, or without axes to mirror, in prediction too, or without angles."""
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        angles, in_slices, loaded, mirrored = found
        if self.parts.rotation is False:
            # what is loaded was large enough to be turned
            angles, patch = UNTURNED, self.configuration_manager.patch_size
            loaded = get_patch_size(patch, UNTURNED, UNTURNED, UNTURNED, NNUNET_SCALING)
            if in_slices:
                loaded[0] = patch[0]
        if self.parts.mirroring is False:
            self.inference_allowed_mirroring_axes = mirrored = None
        return angles, in_slices, loaded, mirrored


def _check_loss(name: str, loss: str | None, dataset_json: dict) -> None:
    """Before anything is written. Raises ValueError."""
    if loss in suffixes.LABELS_ONLY and has_regions(dataset_json["labels"]):
        raise ValueError(
            f"{name}: its loss ({loss}) is for labels that exclude each other, and this dataset has regions; take "
            "_lossDice or none"
        )


def _set_values(trainer: SafeTrainer, parts: TrainerName) -> None:
    if parts.recipe == ADAMW:
        trainer.initial_lr, trainer.weight_decay = schedules.HIGHEST, ADAMW_DECAY
    if parts.recipe == AS_RELEASED:
        trainer.enable_deep_supervision = False
    if parts.initial_lr is not None:
        trainer.initial_lr = parts.initial_lr
    if parts.foreground is not None:
        trainer.oversample_foreground_percent = parts.foreground
    if parts.epochs is not None:
        trainer.num_epochs = parts.epochs
        # a short training is worth continuing too
        trainer.save_every = min(trainer.save_every, max(1, parts.epochs // CHECKPOINTS_PER_TRAINING))
    if parts.iterations is not None:
        trainer.num_iterations_per_epoch = parts.iterations
        trainer.num_val_iterations_per_epoch = max(1, parts.iterations // VALIDATION_SHARE)
