"""What a plan says about a network's shape, checked once for all networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nnunet_mamba.blocks.convolutions import Space, space_of
from nnunet_mamba.names.architecture_entry import total_stride


@dataclass(frozen=True)
class Topology:
    """Stages from full resolution (first) to bottleneck (last), one tuple entry per stage."""

    space: Space
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def n_stages(self) -> int:
        return len(self.features)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of all strides per axis: what a patch must be divisible by."""
        return tuple(total_stride(self.strides))

    def check_patch(self, size: Sequence[int]) -> None:
        """Raises ValueError, with the sizes that would work, for a patch the network cannot halve as planned."""
        total = self.total_stride
        if len(size) != self.space.dim:
            raise ValueError(f"patch {tuple(size)} has {len(size)} axes; this network is {self.space.dim}d")
        if all(s > 0 and s % t == 0 for s, t in zip(size, total, strict=True)):
            return
        below = tuple(max(t, s // t * t) for s, t in zip(size, total, strict=True))
        above = tuple(max(t, -(-s // t) * t) for s, t in zip(size, total, strict=True))
        raise ValueError(
            f"patch {tuple(size)} does not fit: every axis must be divisible by the product of its strides, {total}. "
            f"Use {below} or {above}"
        )


def topology(
    n_stages: int,
    features_per_stage: int | Sequence[int],
    conv_op: type[nn.Module],
    kernel_sizes: int | Sequence[int | Sequence[int]],
    strides: int | Sequence[int | Sequence[int]],
) -> Topology:
    """Check a plan's architecture keywords and bring them into one form. Raises ValueError naming the keyword."""
    space = space_of(conv_op)
    if n_stages < 2:
        raise ValueError(f"n_stages={n_stages}; expected at least 2 (full resolution and one coarser stage)")
    features = (
        tuple(features_per_stage) if not isinstance(features_per_stage, int) else (features_per_stage,) * n_stages
    )
    if len(features) != n_stages or any(f < 1 for f in features):
        raise ValueError(f"features_per_stage={features_per_stage}; expected {n_stages} positive numbers (n_stages)")
    kernels = _per_axis("kernel_sizes", kernel_sizes, n_stages, space.dim)
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise ValueError(f"kernel_sizes={kernel_sizes}; expected odd sizes (1 or 3 in nnU-Net's plans)")
    steps = _per_axis("strides", strides, n_stages, space.dim)
    if any(s != 1 for s in steps[0]):
        raise ValueError(f"strides[0]={steps[0]}; expected all 1: the first stage is the full resolution")
    return Topology(space, features, kernels, steps)


def per_stage(name: str, numbers: int | Sequence[int], count: int, least: int = 1) -> tuple[int, ...]:
    """One number per stage, from one for all or from a list. Raises ValueError naming the keyword."""
    result = (numbers,) * count if isinstance(numbers, int) else tuple(numbers)
    if len(result) != count or any(n < least for n in result):
        raise ValueError(f"{name}={numbers}; expected {count} numbers >= {least}")
    return result


def _per_axis(
    name: str, values: int | Sequence[int | Sequence[int]], n_stages: int, dim: int
) -> tuple[tuple[int, ...], ...]:
    if isinstance(values, int):
        values = [values] * n_stages
    result = tuple((v,) * dim if isinstance(v, int) else tuple(int(i) for i in v) for v in values)
    if len(result) != n_stages or any(len(v) != dim or min(v) < 1 for v in result):
        raise ValueError(f"{name}={values}; expected {n_stages} entries (n_stages) of {dim} positive numbers each")
    return result


def initialize_convolutions(module: nn.Module, slope: float) -> None:
    """He initialisation of convolutions, nothing else: Mamba's own parameters keep their special start values."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=slope)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
