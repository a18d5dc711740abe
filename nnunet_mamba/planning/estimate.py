"""Memory of training a plan's network, with nnU-Net's own loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_mamba.memory.training_step import CUDA, Device, Loss, StepMemory, step_memory

GB = 1e9
"""Bytes. Cards are sold by 2^30: the 7 % between stay for CUDA itself and cuDNN, which no estimate sees."""


def nnunet_loss(n_outputs: int, batch_dice: bool = False) -> Loss:
    """The loss that nnU-Net's trainer builds for exclusive labels and so many deeply supervised outputs."""
    loss = DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        dice_class=MemoryEfficientSoftDiceLoss,  # type: ignore[arg-type]  (as nnU-Net's trainer passes it)
    )
    weights = np.array([1 / 2**i for i in range(n_outputs)])
    weights[-1] = 0
    return DeepSupervisionWrapper(loss, weights / weights.sum() if n_outputs > 1 else [1])


def architecture_memory(
    architecture: Mapping[str, Any],
    input_channels: int,
    classes: int,
    patch_size: Sequence[int],
    device: Device = CUDA,
) -> StepMemory:
    """Of the network in a plan's "architecture" entry, trained with deep supervision. Traced with this patch size."""

    def build() -> nn.Module:
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            input_channels,
            classes,
            allow_init=False,
            deep_supervision=True,
        )

    loss = nnunet_loss(architecture["arch_kwargs"]["n_stages"] - 1)
    return step_memory(build, loss, input_channels, patch_size, device)
