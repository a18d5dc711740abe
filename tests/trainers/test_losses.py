"""Losses by name: what they value, that their gradients fit, and that they take whatever nnU-Net's do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.morphology import skeletonize
from torch import Tensor, nn

from nnunet_mamba.names import suffixes
from nnunet_mamba.trainers.losses import ClDice, SkeletonRecall, SumOfLosses, thick_skeletons
from tests.stock_plans import DATASET_JSON
from tests.trainers.tiny import make

REGIONS: dict[str, Any] = {**DATASET_JSON, "labels": {"background": 0, "whole": [1, 2], "core": [2]},
                           "regions_class_order": [1, 2]}  # fmt: skip
IGNORED: dict[str, Any] = {**DATASET_JSON, "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}
IGNORED_REGIONS: dict[str, Any] = {**REGIONS, "labels": {**REGIONS["labels"], "ignore": 3}}
ALL_LOSSES = (*suffixes.LOSSES, "Dice2CE3")


def _tube(size: int = 20, radius: int = 2) -> np.ndarray:
    mask = np.zeros((size, size, size), np.float32)
    middle = size // 2
    mask[2:-2, middle - radius : middle + radius + 1, middle - radius : middle + radius + 1] = 1
    return mask


def _logits(mask: np.ndarray, strength: float = 12.0) -> Tensor:
    """Two classes, sure of this mask"""
    m = torch.from_numpy(mask)[None]
    return torch.stack([(0.5 - m) * strength, (m - 0.5) * strength], 1)


def _target(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask)[None, None]


@pytest.mark.parametrize("kind", [ClDice, SkeletonRecall])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_hit_costs_nothing_a_miss_all(kind: Any, dim: int) -> None:
    mask = _tube() if dim == 3 else _tube()[:, :, 10]
    loss = kind(False, None)
    # 1e-3: softmax of the logits is 6e-6 short of certainty, the soft skeleton adds up a few of those
    assert loss(_logits(mask), _target(mask)).item() == pytest.approx(0.0, abs=1e-3)
    assert loss(_logits(np.zeros_like(mask)), _target(mask)).item() == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("kind", [ClDice, SkeletonRecall])
def test_a_gap_in_the_centre_line_costs_more_than_as_many_voxels_of_the_wall(kind: Any) -> None:
    mask = _tube()
    broken, thin = mask.copy(), mask.copy()
    broken[9:11, 8:13, 8:13] = 0  # 50 voxels
    thin[2:18:2, 8, 8:13] = 0  # 40 voxels
    thin[3:13:2, 12, 8:10] = 0  # 10 more
    assert broken.sum() == thin.sum()
    loss = kind(False, None)
    costs = [loss(_logits(m), _target(mask)).item() for m in (broken, thin)]
    assert costs[0] > 2 * costs[1]


def test_thick_skeletons_are_skimages_dilated_within_the_mask() -> None:
    mask = _tube()
    made = thick_skeletons(torch.from_numpy(mask)[None, None])[0, 0].numpy().astype(bool)
    thin = skeletonize(mask.astype(bool))
    assert (made >= thin).all()
    assert (made <= mask.astype(bool)).all()
    places, near = np.argwhere(thin), np.argwhere(made)
    assert np.abs(near[:, None] - places[None]).max(-1).min(1).max() == 1
    assert not thick_skeletons(torch.zeros(1, 2, 8, 8)).any()


@pytest.mark.parametrize("kind", [ClDice, SkeletonRecall])
def test_patches_without_foreground_cost_nothing_and_have_a_gradient(kind: Any) -> None:
    logits = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
    loss = kind(False, None)(logits, torch.zeros(2, 1, 8, 8, 8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", [ClDice, SkeletonRecall])
@pytest.mark.parametrize("regions", [False, True])
def test_what_is_ignored_does_not_matter(kind: Any, regions: bool) -> None:
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (1, 1, 12, 12, 12)).float()
    labels[..., 6:] = 3  # ignored
    logits = torch.randn(1, 2 if regions else 3, 12, 12, 12)
    target = labels if not regions else torch.cat([(labels == 1) | (labels == 2), labels == 2, labels == 3], 1)
    loss = kind(regions, 3)
    changed = logits.clone()
    changed[..., 6:] = torch.randn_like(changed[..., 6:]) * 5
    assert loss(logits, target) == loss(changed, target)
    assert loss(logits, target).item() > 0


def test_gradients_are_those_of_the_function() -> None:
    """Against differences in float64: of the smooth skeleton recall exactly; clDice has kinks and is only near."""
    torch.manual_seed(0)
    mask = torch.from_numpy(_tube(10, 1))[None, None].double()

    def of(probabilities: Tensor) -> Tensor:
        return SkeletonRecall(True, None).of(probabilities, mask)

    assert torch.autograd.gradcheck(of, torch.rand(1, 1, 10, 10, 10, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("dataset_json", [DATASET_JSON, REGIONS, IGNORED, IGNORED_REGIONS],
                         ids=["labels", "regions", "ignored", "ignored regions"])  # fmt: skip
def test_every_loss_takes_what_nnunets_takes(folders: Any, loss: str, dataset_json: dict) -> None:
    regions = "regions_class_order" in dataset_json
    name = f"nnUNetTrainerSegMamba_loss{loss}"
    if regions and loss in suffixes.LABELS_ONLY:
        with pytest.raises(ValueError, match=rf"_loss{loss}: its loss .* exclude each other, and this dataset has reg"):
            make(name, dataset_json)
        assert not list(folders.iterdir())
        return
    trainer = make(name, dataset_json)
    heads = trainer.label_manager.num_segmentation_heads
    logits = [torch.randn(2, heads, s, s, s, requires_grad=True) for s in (16, 8)]
    labels = torch.randint(0, 4 if "ignore" in dataset_json["labels"] else 3, (2, 1, 16, 16, 16))
    channels = [(labels == 1) | (labels == 2), labels == 2]
    channels += [labels == 3] if "ignore" in dataset_json["labels"] else []
    full = torch.cat(channels, 1) if regions else labels
    value = trainer._build_loss()(logits, [full, full[..., ::2, ::2, ::2]])
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(g.grad).all() for g in logits if g.grad is not None)
    assert logits[0].grad is not None


def test_weights_of_dice_and_cross_entropy(folders: Any) -> None:
    def values(name: str) -> float:
        torch.manual_seed(0)
        logits, labels = torch.randn(2, 3, 8, 8, 8), torch.randint(0, 3, (2, 1, 8, 8, 8))
        return make(name)._build_loss()([logits, logits], [labels, labels]).item()

    weights = ((1, 1), (2, 1), (1, 3))
    one, dice_twice, ce_thrice = (values(f"nnUNetTrainerSegMamba_lossDice{d}CE{c}") for d, c in weights)
    assert one == pytest.approx(values("nnUNetTrainerSegMamba_1epoch"))
    dice, ce = dice_twice - one, (ce_thrice - one) / 2
    assert one == pytest.approx(dice + ce, rel=1e-5)  # a sum in float32
    alone = values("nnUNetTrainerSegMamba_lossDice"), values("nnUNetTrainerSegMamba_lossCE")
    assert alone == (pytest.approx(dice, rel=1e-4), pytest.approx(ce, rel=1e-4))  # differences of such sums


def test_added_losses_are_added(folders: Any) -> None:
    inner = make("nnUNetTrainerSegMamba_lossClDice")._build_loss().loss
    assert isinstance(inner, SumOfLosses)
    assert isinstance(inner.second, ClDice)
    summed = SumOfLosses(_Constant(2.0), _Constant(5.0), 0.5)
    assert summed(torch.zeros(1), torch.zeros(1)) == 4.5


class _Constant(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, *_: Tensor) -> Tensor:
        return torch.tensor(self.value)
