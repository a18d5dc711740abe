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

from nnunet_mamba.planning.memory.training_step import CUDA, Device, Loss, StepMemory, step_memory

GB = 1e9
TENSORS = 0.79
"""Share of a card's memory that the tensors of a step may take; the rest is for CUDA itself, cuDNN's workspaces and
what the allocator loses. Taken from nnU-Net, so that `-gpu_memory_target` means the same for its planner and ours: what
its planner counts as 8 GB (560 million feature-map elements; its 128^3 configuration with batch 2 counts 0.812 of that)
is 6.29 GB of tensors by our trace, and nnU-Net documents 7.7 GB on the card for its 8 GB plans (resenc_presets.md)."""


def budget_bytes(card_gb: float) -> float:
    """Bytes of tensors that fit a card, or a `-gpu_memory_target`, given in GB."""
    return card_gb * GB * TENSORS


def card_gigabytes(tensors: float) -> float:
    """GB of a card that this many bytes of tensors need."""
    return tensors / GB / TENSORS


def nnunet_loss(n_outputs: int, batch_dice: bool = False) -> Loss:
    """The loss that nnU-Net's trainer builds for exclusive labels and this number of deeply supervised outputs."""
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
