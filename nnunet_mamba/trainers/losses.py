"""Losses that a trainer's name can ask for: nnU-Net's own, weights of its two terms, and two for thin vessels.

Every function gives the loss of one output; nnU-Net's deep supervision stays around it.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np
import torch
from monai.losses.cldice import SoftclDiceLoss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from skimage.morphology import dilation
from torch import Tensor, nn

from nnunet_mamba.names.suffixes import DICE_CE_WEIGHTS, LABELS_ONLY
from nnunet_mamba.skeletons import skeleton

STOCK_TOPK = "nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerTopkLoss"
TOPK_TRAINERS = {"TopK10": "nnUNetTrainerTopk10Loss", "DiceTopK10": "nnUNetTrainerDiceTopK10Loss"}
"""nnU-Net's trainers whose loss is borrowed."""
ONE_TERM = {"Dice": (1, 0), "CE": (0, 1)}
"""Weights of Dice and cross-entropy. nnU-Net's own trainer with Dice alone knows no ignore label; its sum does."""
THIN_STEPS = 10
"""Erosions of the soft skeleton: vessels up to twice as many voxels wide."""
WEIGHT_OF_ADDED = 1.0
SMOOTH = 1e-5


def with_loss(name: str, trainer: nnUNetTrainer, standard: nn.Module) -> nn.Module:
    """nnU-Net's loss `standard` with its inner part exchanged; weights over the resolutions stay."""
    inner = inner_loss(name, trainer, _inner(standard))
    if isinstance(standard, DeepSupervisionWrapper):
        standard.loss = inner
        return standard
    return inner


def inner_loss(name: str, trainer: nnUNetTrainer, dice_and_ce: nn.Module) -> nn.Module:
    """The loss of one output. Raises ValueError for regions where labels must exclude each other."""
    manager = trainer.label_manager
    if name in LABELS_ONLY and manager.has_regions:
        raise ValueError(f"_loss{name}: for labels that exclude each other; this dataset has regions. Take _lossDice")
    if name in TOPK_TRAINERS:
        return _inner(getattr(import_module(STOCK_TOPK), TOPK_TRAINERS[name])._build_loss(trainer))
    match = DICE_CE_WEIGHTS.fullmatch(name)
    weights = (int(match["dice"]), int(match["ce"])) if match else ONE_TERM.get(name)
    if weights is not None:
        dice_and_ce.weight_dice, dice_and_ce.weight_ce = weights  # type: ignore[assignment]
        return dice_and_ce
    added = {"ClDice": ClDice, "SkeletonRecall": SkeletonRecall}[name]
    return SumOfLosses(dice_and_ce, added(manager.has_regions, manager.ignore_label))


def _inner(loss: nn.Module) -> nn.Module:
    return loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss  # type: ignore[return-value]


class SumOfLosses(nn.Module):
    """The first loss plus the second times a weight."""

    def __init__(self, first: nn.Module, second: nn.Module, weight: float = WEIGHT_OF_ADDED):
        super().__init__()
        self.first, self.second, self.weight = first, second, weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.first(logits, target) + self.weight * self.second(logits, target)


class _OfForeground(nn.Module):
    """Loss of foreground probabilities and masks (b k *space); voxels with the ignore label are background in both."""

    def __init__(self, has_regions: bool, ignore_label: int | None):
        super().__init__()
        self.has_regions, self.ignore_label = has_regions, ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (b c *space); target (b 1 *space) labels, or (b c *space) regions and the ignore mask last"""
        with torch.autocast(logits.device.type, enabled=False):
            probabilities, masks = self._foreground(logits.float(), target)
            return self.of(probabilities, masks)

    def _foreground(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        ignores = self.ignore_label is not None
        if self.has_regions:
            probabilities = torch.sigmoid(logits)
            counted = ~target[:, -1:].bool() if ignores else None
            masks = (target[:, :-1] if ignores else target).float()
        else:
            probabilities = torch.softmax(logits, 1)[:, 1:]
            classes = torch.arange(1, logits.shape[1], device=target.device).view(1, -1, *(1,) * (logits.dim() - 2))
            masks = (target == classes).float()
            counted = target != self.ignore_label if ignores else None
        return (probabilities, masks) if counted is None else (probabilities * counted, masks * counted)

    def of(self, probabilities: Tensor, masks: Tensor) -> Tensor:
        raise NotImplementedError


class ClDice(_OfForeground):
    """1 - soft centre line Dice (Shit et al. 2021), MONAI's, of every class or region that has voxels."""

    def of(self, probabilities: Tensor, masks: Tensor) -> Tensor:
        b, k = masks.shape[:2]
        per_mask = SoftclDiceLoss(iter_=THIN_STEPS, smooth_nr=SMOOTH, smooth_dr=SMOOTH, reduction="none")
        one_each = [t.reshape(b * k, 1, *t.shape[2:]) for t in (probabilities, masks)]
        return _mean_where(per_mask(*one_each), one_each[1].flatten(1).any(1))


class SkeletonRecall(_OfForeground):
    """1 - share of the thickened skeleton of the truth that is predicted (Kirchhoff et al. 2024).

    The skeleton is exact (skimage), made thick by one voxel, and computed on the CPU from the target.
    """

    def of(self, probabilities: Tensor, masks: Tensor) -> Tensor:
        space = tuple(range(2, masks.dim()))
        tubes = thick_skeletons(masks)
        recall = ((probabilities * tubes).sum(space) + SMOOTH) / (tubes.sum(space) + SMOOTH)
        return _mean_where(1 - recall.flatten(), tubes.flatten(2).any(2).flatten())


def thick_skeletons(masks: Tensor) -> Tensor:
    """(b k *space) masks of 0 and 1 -> their skeletons thickened by one voxel, within the masks, 0 and 1"""
    made = np.zeros(masks.shape, np.float32)
    for index, mask in zip(np.ndindex(*masks.shape[:2]), masks.flatten(0, 1).bool().cpu().numpy(), strict=True):
        if mask.any():
            made[index] = dilation(skeleton(mask), np.ones((3,) * mask.ndim, bool)) & mask
    return torch.from_numpy(made).to(masks.device)


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over the counted ones; 0 where there is none, with a gradient of 0"""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)
