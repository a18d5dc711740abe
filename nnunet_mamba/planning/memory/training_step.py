"""The memory of one training step of nnU-Net, for any network, as a function of batch times voxels.

A step is traced twice on tensors without memory, with two and with three samples. Everything that is alive at a moment
is either there once (weights, gradients, momentum) or grows with the voxels; two traces tell these apart for every
moment of the step, and the largest of all moments is the peak for any number of voxels. So a topology is traced once
for all its patch sizes and batches. What our own operators hold in addition to their tensors does not grow so simply,
and is asked of them.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_mamba.ops.workspace import Workspace
from nnunet_mamba.planning.memory.allocations import Allocations
from nnunet_mamba.planning.memory.cuda_autocast import cuda_autocast

Loss = Callable[[Tensor | list[Tensor], Tensor | list[Tensor]], Tensor]

CUDA_GRANULARITY = 512
"""PyTorch's allocator hands out CUDA memory in multiples of this many bytes."""
MOMENTUM, WEIGHT_DECAY, CLIP = 0.99, 3e-5, 12.0
TRACED = (2, 3)
"""Batches that are traced. A single sample is a special case here and there: a transposition may need no copy."""
LABELS = torch.int16
"""Data type in which nnU-Net's loader delivers segmentations."""


@dataclass(frozen=True)
class Device:
    """Where the step will run: what autocast does there, and what the operations need in addition to their results."""

    type: str = "cuda"
    autocast: torch.dtype | None = torch.float16

    @property
    def granularity(self) -> int:
        return CUDA_GRANULARITY if self.type == "cuda" else 1


CUDA, CPU = Device(), Device("cpu", None)


@dataclass(frozen=True)
class Moment:
    """Bytes alive: fixed + per_voxel * voxels of the whole batch, and what one of our operators holds in addition."""

    fixed: float
    per_voxel: float
    workspace: Workspace | None = None

    def bytes(self, batch: int, voxels: float, growth: float) -> float:
        """voxels: of one sample; growth: voxels / traced voxels"""
        held = (
            0 if self.workspace is None else self.workspace.bytes(batch, max(1, round(self.workspace.length * growth)))
        )
        return self.fixed + self.per_voxel * batch * voxels + held


@dataclass(frozen=True)
class StepMemory:
    """Peak bytes of a step with any batch and patch size.

    moments: all that can be its largest; voxels, dim: of the patch that was traced.
    """

    moments: tuple[Moment, ...]
    voxels: int
    dim: int

    def peak(self, batch: int, patch_size: Sequence[int]) -> int:
        """Bytes with this batch of patches."""
        voxels = math.prod(int(p) for p in patch_size)
        return math.ceil(max(m.bytes(batch, voxels, voxels / self.voxels) for m in self.moments))

    def growing(self, batch: int, patch_size: Sequence[int]) -> float:
        """Of the peak, what is there because of the voxels: without the weights and what goes with them."""
        return self.peak(batch, patch_size) - self.peak(batch, [0] * len(patch_size))

    def largest_batch(self, patch_size: Sequence[int], budget: float) -> int:
        """Samples of this patch size that fit into this many bytes; 0 if not even one does."""
        fits = 0
        step = 1
        while step:  # doubling, then halving: the peak never falls with the batch
            if self.peak(fits + step, patch_size) <= budget:
                fits, step = fits + step, 2 * step if fits + step == 2 * step - 1 else step // 2
            else:
                step //= 2
        return fits


def step_memory(
    build: Callable[[], nn.Module], loss: Loss, input_channels: int, patch_size: Sequence[int], device: Device = CUDA
) -> StepMemory:
    """Trace a step of the network that `build` makes, with its patch size or one of its topology.

    The network gets (b c *space) and returns logits or, for deep supervision, a list of them. `loss` gets these and
    integer labels (b 1 *space) of the same sizes.
    """
    voxels = math.prod(int(p) for p in patch_size)
    one, two = (trace_step(build, loss, input_channels, patch_size, batch, device) for batch in TRACED)
    if len(one.totals) != len(two.totals):
        raise RuntimeError(
            f"with {TRACED[0]} samples a step allocates and releases {len(one.totals)} times, with {TRACED[1]} "
            f"{len(two.totals)} times: its memory cannot be scaled"
        )
    first, added = TRACED[0], TRACED[1] - TRACED[0]
    moments = [
        (a - first * (b - a) / added, (b - a) / added / voxels) for a, b in zip(one.totals, two.totals, strict=True)
    ]
    plain = [Moment(fixed, per_voxel) for fixed, per_voxel in _upper_hull(set(moments))]
    with_workspace = [Moment(*moments[i], workspace) for i, workspace in one.workspaces.items()]
    return StepMemory((*plain, *with_workspace), voxels, len(patch_size))


def trace_step(
    build: Callable[[], nn.Module],
    loss: Loss,
    input_channels: int,
    patch_size: Sequence[int],
    batch: int,
    device: Device = CUDA,
) -> Allocations:
    """One step's allocations, weights and momentum included."""
    with _no_collection(), FakeTensorMode(), Allocations(device.type, device.granularity) as allocations:
        network = build().train()
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            parameters, 1e-2, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True, foreach=device.type == "cuda"
        )
        for p in parameters:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        allocations.restart()  # building has peaks of its own
        _step(network, parameters, optimizer, loss, input_channels, patch_size, batch, device)
    return allocations


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector comes at any time: what it frees would be released at another moment in each trace"""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _step(
    network: nn.Module,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    input_channels: int,
    patch_size: Sequence[int],
    batch: int,
    device: Device,
) -> None:
    """As `nnUNetTrainer.train_step` does it; the logits live as long as there"""
    data = torch.empty(batch, input_channels, *map(int, patch_size))
    with cuda_autocast(device.autocast):
        output = network(data)
        # there before the forward pass already, but less than the peak then
        targets = [torch.empty(batch, 1, *o.shape[2:], dtype=LABELS) for o in _as_list(output)]
        value = loss(output, targets if isinstance(output, list) else targets[0])
    value.backward()
    nn.utils.clip_grad_norm_(parameters, CLIP)
    optimizer.step()


def _as_list(output: Tensor | list[Tensor]) -> list[Tensor]:
    return output if isinstance(output, list) else [output]


def _upper_hull(lines: set[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Of lines fixed + slope * v, those that are the largest somewhere at v >= 0."""
    best: dict[float, float] = {}
    for fixed, slope in lines:
        best[slope] = max(fixed, best.get(slope, -math.inf))
    hull: list[tuple[float, float]] = []
    for slope, fixed in sorted(best.items(), key=lambda line: (-line[1], -line[0])):
        # by falling fixed part: a line matters if it is steeper, and takes over later than the one before did
        if hull and slope <= hull[-1][1]:
            continue
        while len(hull) > 1 and _crossing(hull[-1], (fixed, slope)) <= _crossing(hull[-2], hull[-1]):
            hull.pop()
        hull.append((fixed, slope))
    return tuple(hull)


def _crossing(flat: tuple[float, float], steep: tuple[float, float]) -> float:
    """Voxels from which the steeper line is the larger"""
    return (flat[0] - steep[0]) / (steep[1] - flat[1])
