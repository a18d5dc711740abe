"""What the SegResMamba paper claims, as far as it can be checked without its data and a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nnunet_mamba.architectures.planned import PlannedNetwork
from nnunet_mamba.architectures.segmamba import SegMamba
from nnunet_mamba.architectures.segresmamba import ConvMamba, SegResMamba
from nnunet_mamba.blocks.convolutions import SPACE_2D, SPACE_3D
from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.planning.estimate import nnunet_loss
from nnunet_mamba.planning.memory.training_step import step_memory

SIZES = {"n_stages": 5, "features_per_stage": [48, 96, 192, 384, 384], "kernel_sizes": 3, "strides": [1, 2, 2, 2, 2]}


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _peak(network: type[PlannedNetwork], **keywords: Any) -> int:
    """Bytes of a training step at 128^3, traced at 32^3"""
    memory = step_memory(
        lambda: network(4, 3, conv_op=nn.Conv3d, deep_supervision=True, **keywords), nnunet_loss(4), 4, (32, 32, 32)
    )
    return memory.peak(2, (128, 128, 128))


def test_summed_skips_are_smaller_than_concatenated_ones() -> None:
    """Claim 1: skip summation saves parameters and memory. By how much, for the published size."""
    added = SegResMamba(4, 3, conv_op=nn.Conv3d, **SIZES)
    joined = SegResMamba(4, 3, conv_op=nn.Conv3d, skip="concat", **SIZES)
    # one 1x1 convolution from 2w to w per decoder level
    assert _parameters(joined) - _parameters(added) == sum(2 * w * w for w in (48, 96, 192))
    assert _peak(SegResMamba, **SIZES) < _peak(SegResMamba, skip="concat", **SIZES)


def test_needs_less_memory_than_segmamba() -> None:
    """Claim 2: the estimate of a training step at the published sizes, less than half of SegMamba's."""
    assert 2 * _peak(SegResMamba, **SIZES) < _peak(SegMamba, **{**SIZES, "features_per_stage": [48, 96, 192, 384, 768]})


@pytest.mark.slow
def test_overfits_one_volume() -> None:
    """Claim 3: it can learn a volume by heart, Dice > 0.99 on every label. A ball in a bar, in noise."""
    torch.manual_seed(0)
    axis = torch.arange(16) - 7.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    labels = torch.where(x.abs() + y.abs() < 6, 1, 0)
    labels[x**2 + y**2 + z**2 < 16] = 2
    image = (labels + 0.3 * torch.randn(16, 16, 16))[None, None]
    network = SegResMamba(
        1, 3, n_stages=4, features_per_stage=[8, 16, 32, 32], conv_op=nn.Conv3d, kernel_sizes=3, strides=[1, 2, 2, 2]
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), labels[None]).backward()
        optimizer.step()
    with torch.no_grad():
        predicted = network(image)[0].argmax(0)
    for label in (1, 2):
        overlap = ((predicted == label) & (labels == label)).sum()
        dice = 2 * overlap / ((predicted == label).sum() + (labels == label).sum())
        assert dice > 0.99, label


@pytest.mark.parametrize(("space", "size"), [(SPACE_3D, (5, 1, 8)), (SPACE_3D, (1, 1, 1)), (SPACE_2D, (7, 6))], ids=str)
def test_blocks_return_every_size(space, size: tuple[int, ...]) -> None:
    for kernel in ((3,) * space.dim, (1,) + (3,) * (space.dim - 1)):
        block = ConvMamba(space, 4, kernel, Mixer("mamba", d_state=4))
        assert block(torch.randn(2, 4, *size)).shape == (2, 4, *size)


def test_unknown_skip_is_named() -> None:
    with pytest.raises(ValueError, match="skip='add'; expected one of sum, concat"):
        SegResMamba(4, 3, conv_op=nn.Conv3d, skip="add", **SIZES)


@pytest.mark.parametrize("size", [(1, 4, 5), (1, 1, 3), (6, 1, 2), (2, 4, 6)])
def test_every_odd_axis_is_padded_for_the_scan(size: tuple[int, ...]) -> None:
    """One voxel is odd too; zeros at the end of an axis, and what the scan makes of them is dropped."""
    seen: list[torch.Tensor] = []

    class Layer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x + torch.arange(x.numel()).view(x.shape)

    x = torch.rand(1, 2, *size) + 1
    y = ConvMamba._scan(Layer(), x)
    (given,) = seen
    even = tuple(s + s % 2 for s in size)
    assert given.shape[2:] == even
    inside = (slice(None), slice(None), *(slice(s) for s in size))
    assert torch.equal(given[inside], x)
    assert given.sum() == pytest.approx(float(x.sum()), rel=1e-6)
    numbers = torch.arange(given.numel()).view(given.shape)
    assert torch.equal(y, x + numbers[inside])


def test_of_a_map_that_came_back_too_long_the_first_plane_goes() -> None:
    """As released: halved and doubled, an axis of 5 has 6 planes."""

    class Planes(nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            rows, columns = 2 * y.shape[2], 2 * y.shape[3]
            return (
                torch.arange(1.0, rows + 1)[:, None]
                + 100 * torch.arange(1.0, columns + 1)
                + 0 * y.new_zeros(1, 2, 1, 1)
            )

    block = ConvMamba(SPACE_2D, 2, (3, 3), Mixer("none"))
    block.proj5, block.norm = Planes(), nn.Identity()  # type: ignore[assignment]
    x = torch.zeros(1, 2, 5, 4)
    assert torch.equal(block(x)[0, 0], torch.arange(2.0, 7.0)[:, None] + 100 * torch.arange(1.0, 5.0))
