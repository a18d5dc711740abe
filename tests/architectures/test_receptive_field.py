"""The field of a network is what its kernels and strides make it, and what gradients reach."""

from __future__ import annotations

from collections.abc import Callable
from pydoc import locate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnunet_mamba.architectures.receptive_field import ReceptiveField, receptive_field
from nnunet_mamba.names import networks


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Skip(nn.Module):
    """Beside what goes deeper, the map itself"""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


def _conv(kernel: int, stride: int = 1, cin: int = 1, dilation: int = 1) -> nn.Module:
    return nn.Conv3d(cin, 1, kernel, stride, dilation * (kernel // 2), dilation)


def _up(kernel: int = 2, stride: int = 2, padding: int = 0) -> nn.Module:
    return nn.ConvTranspose3d(1, 1, kernel, stride, padding)


BY_HAND: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "a voxel": (lambda: nn.Conv3d(1, 2, 1), 0, 0),
    "three kernels of 3": (lambda: nn.Sequential(*(_conv(3) for _ in range(3))), 3, 3),
    "a kernel of 7": (lambda: _conv(7), 3, 3),
    "dilation 4": (lambda: _conv(3, dilation=4), 4, 4),
    "a norm changes nothing": (lambda: nn.Sequential(_conv(3), nn.InstanceNorm3d(1), nn.LeakyReLU(inplace=True)), 1, 1),
    "halved, doubled": (lambda: nn.Sequential(_conv(2, 2), Function(lambda x: x[..., :-1, :-1, :-1]), _up()), 2, 0),
    "pooled, doubled": (lambda: nn.Sequential(nn.MaxPool3d(2), _up()), 1, 1),
    "twice": (lambda: nn.Sequential(nn.AvgPool3d(2), nn.MaxPool3d(2), _up(), _up()), 3, 3),
    # at half resolution 1 more to each side is 2 voxels
    "pooled, a kernel, doubled": (lambda: nn.Sequential(nn.MaxPool3d(2), _conv(3), _up()), 3, 3),
    "a small U-Net": (
        lambda: nn.Sequential(_conv(3), Skip(nn.Sequential(nn.MaxPool3d(2), _conv(3), _up())), _conv(3, cin=2)), 5, 5,
    ),
    "nearest": (lambda: nn.Sequential(nn.MaxPool3d(2), nn.Upsample(scale_factor=2)), 1, 1),
    "a larger kernel up": (lambda: nn.Sequential(nn.MaxPool3d(2), _up(4, 2, 1)), 2, 2),
    "padded before": (lambda: nn.Sequential(Function(lambda x: F.pad(x, (2, 0) * 3)), nn.Conv3d(1, 1, 3)), 2, 0),
    "cropped": (lambda: nn.Sequential(nn.Conv3d(1, 1, 3, padding=2), Function(lambda x: x[:, :, 2:, 2:, 2:])), 0, 2),
    "cropped at the end": (lambda: Function(lambda x: x[..., -16:, -16:, -16:]), 0, 0),
    "every second, doubled": (lambda: nn.Sequential(Function(lambda x: x[..., ::2, ::2, ::2]), _up()), 1, 0),
    "a mean over the volume": (lambda: nn.Sequential(_conv(3), Function(lambda x: x * x.mean((2, 3, 4), True))), 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("what", BY_HAND)
def test_fields_known_by_hand(what: str) -> None:
    build, before, behind = BY_HAND[what]
    assert receptive_field(build, 1, (16, 16, 16)) == ReceptiveField((before,) * 3, (behind,) * 3)


def _measured(network: nn.Module, size: int) -> tuple[int, int]:
    """How far before and behind gradients reach, over all voxels of the logits, in one axis"""
    network = network.double()
    for p in network.parameters():
        nn.init.uniform_(p, 0.5, 1.5)  # positive, so that nothing cancels
    image = torch.rand(1, 1, size, 1, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    before = behind = 0
    for i in range(size):
        (gradient,) = torch.autograd.grad(logits[0, 0, i].sum(), image, retain_graph=True)
        there = torch.nonzero(gradient[0, 0, :, 0])
        before, behind = max(before, i - int(there.min())), max(behind, int(there.max()) - i)
    return before, behind


@st.composite
def layers(draw: st.DrawFn, depth: int = 2) -> list[tuple[str, int]]:
    """A U-Net along the first of two axes: kernels, then deeper, then kernels"""
    kernels = st.lists(st.tuples(st.just("conv"), st.sampled_from([1, 3, 5])), max_size=2)
    made = draw(kernels)
    if depth and draw(st.booleans()):
        way = draw(st.sampled_from(["transposed", "nearest", "bilinear"]))
        made += [(f"down {draw(st.sampled_from(['conv', 'average']))}", 2), *draw(layers(depth - 1)), (f"up {way}", 2)]
    return [*made, *draw(kernels)]


def _network(plan: list[tuple[str, int]]) -> nn.Module:
    made: list[nn.Module] = [nn.Conv2d(1, 1, 1)]
    for kind, n in plan:
        if kind == "conv":
            made.append(nn.Conv2d(1, 1, (n, 1), padding=(n // 2, 0)))
        elif kind == "down conv":
            made.append(nn.Conv2d(1, 1, (3, 1), (2, 1), (1, 0)))
        elif kind == "down average":
            made.append(nn.AvgPool2d((2, 1)))
        elif kind == "up transposed":
            made.append(nn.ConvTranspose2d(1, 1, (2, 1), (2, 1)))
        else:
            made.append(nn.Upsample(scale_factor=(2, 1), mode=kind.removeprefix("up ")))
    return nn.Sequential(*made)


@settings(max_examples=25, deadline=None)
@given(layers())
def test_it_is_what_gradients_reach(plan: list[tuple[str, int]]) -> None:
    field = receptive_field(lambda: _network(plan), 1, (128, 1))
    assert (field.before[0], field.behind[0]) == _measured(_network(plan), 128)
    assert (field.before[1], field.behind[1]) == (0, 0)


PLAN: dict[str, Any] = {
    "n_stages": 3, "features_per_stage": 4, "conv_op": nn.Conv3d, "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}  # fmt: skip


def test_nnunets_own_by_hand() -> None:
    """To each side: 1 + 1, then 1 + 2 with the first stride, 2 + 4 with the second; on the way up 2 + 2 and 1 + 1. A
    doubled voxel may be the second of its pair: 2 and 1 more before it."""
    field = receptive_field(lambda: PlainConvUNet(1, 3, 8, nn.Conv3d, 3, [1, 2, 2], 2, 2, 2), 1, (16, 16, 16))
    assert field.before == (20,) * 3
    assert field.behind == (17,) * 3


@pytest.mark.parametrize("network", networks.NETWORKS, ids=lambda n: n.title)
def test_a_scan_reaches_no_further_than_its_twin(network: networks.Network) -> None:
    """Through convolutions: what a network has besides, it has to have from its scan."""
    kind: Any = locate(network.architecture)
    own, twin, conv = (
        receptive_field(lambda m=mixer: kind(1, 2, mixer=m, deep_supervision=True, **PLAN), 1, (8, 8, 8))
        for mixer in (None, "none", "conv")
    )
    assert own == twin
    assert receptive_field(lambda: kind(1, 2, mixer="none", **PLAN), 1, (8, 16, 32)) == own, "whatever the patch"
    assert min(own.size) >= (1 if network.title.startswith("LightM") else 5)
    assert all(a >= b for a, b in zip(conv.size, own.size, strict=True))


def test_a_network_that_does_not_look_is_told() -> None:
    with pytest.raises(ValueError, match="do not depend on its image"):
        receptive_field(lambda: Function(lambda x: torch.zeros(x.shape)), 1, (8, 8, 8))


def test_maps_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="joins maps of different strides"):
        receptive_field(lambda: Function(lambda x: x[:, :, :4, :4, :4] + x[:, :, ::2, ::2, ::2]), 1, (8, 8, 8))


def test_reach_and_size() -> None:
    field = ReceptiveField((3, 0, 2), (1, 0, 5))
    assert (field.reach, field.size) == ((3, 0, 5), (5, 1, 8))
