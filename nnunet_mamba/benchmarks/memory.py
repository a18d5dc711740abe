"""`nnunet-mamba bench memory`: the planner's memory estimate compared with what a training step really takes.

On a CUDA device the peak of the tensors that PyTorch's allocator handed out; on a CPU the growth of the process's
resident memory in a float32 step. Every step runs in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_mamba.benchmarks import networks
from nnunet_mamba.benchmarks.measure import peak_extra_bytes, synchronize
from nnunet_mamba.names.architecture_entry import architecture_for, total_stride
from nnunet_mamba.names.networks import Network, with_twins
from nnunet_mamba.planning.estimate import GB, architecture_memory, nnunet_loss
from nnunet_mamba.planning.memory.training_step import CLIP, CPU, CUDA, LABELS, MOMENTUM, WEIGHT_DECAY, Device

BATCH = 2
EDGES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
DEVICES = {"cpu": CPU, "cuda": CUDA}
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Lets glibc give large tensors back at once: resident memory then is what is alive."""


@dataclass(frozen=True)
class MemoryCase:
    """One network on one patch and batch.

    autocast: half precision of the training, None for float32; budget: GB that patch and batch were chosen for, None if
    they were given.
    """

    network: str
    architecture: dict[str, Any]
    channels: int
    classes: int
    patch: tuple[int, ...]
    batch: int
    estimated: int
    autocast: torch.dtype | None
    budget: float | None = None

    def __str__(self) -> str:
        return f"{self.network} {'x'.join(map(str, self.patch))} batch {self.batch}"


@dataclass(frozen=True)
class MemoryRow:
    """Bytes. measured is None where `note` says why; ratio: estimated / measured."""

    network: str
    patch: tuple[int, ...]
    batch: int
    budget: float | None
    estimated: int
    measured: int | None
    ratio: float | None
    note: str = ""

    def as_json(self) -> dict:
        return asdict(self)


def architectures(patch: Sequence[int], channels: int, classes: int) -> dict[str, dict[str, Any]]:
    """Plan entries by name, on nnU-Net's topology for this patch: our networks, their twins, nnU-Net's U-Net."""
    planned = networks.task(patch, BATCH, channels, classes, None).architecture
    named = {}
    for kind in with_twins():
        kwargs = {**planned["arch_kwargs"], "features_per_stage": _widths(kind, planned)}
        named[kind.name] = architecture_for(kind, {**planned, "arch_kwargs": kwargs}, patch)
    named["PlainConvUNet"] = _stock(planned)
    return named


def select(only: Sequence[str]) -> list[str]:
    """The asked networks, or all. Raises ValueError naming the known ones."""
    known = list(architectures((64, 64, 64), 1, 2))
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"-only {' '.join(unknown)}: unknown; known: {' '.join(known)}")
    return list(only) or known


def given_case(name: str, patch: Sequence[int], batch: int, channels: int, classes: int, device: Device) -> MemoryCase:
    """A case with this patch. Raises ValueError for a patch that nnU-Net's topology cannot halve."""
    patch = tuple(int(p) for p in patch)
    architecture = architectures(patch, channels, classes)[name]
    memory = architecture_memory(architecture, channels, classes, patch, device)
    return MemoryCase(name, architecture, channels, classes, patch, batch, memory.peak(batch, patch), device.autocast)


def budget_case(name: str, budget: float, channels: int, classes: int, device: Device) -> MemoryCase | None:
    """The largest cube that fits twice into `budget` GB by the estimate, with its largest batch; None: none does."""
    best, low, high = None, 0, len(EDGES)
    while low < high:  # larger cubes take more
        middle = (low + high) // 2
        patch = (EDGES[middle],) * 3
        architecture = architectures(patch, channels, classes)[name]
        memory = architecture_memory(architecture, channels, classes, patch, device)
        batch = memory.largest_batch(patch, budget * GB)
        if batch < BATCH:
            high = middle
            continue
        low = middle + 1
        best = MemoryCase(
            name, architecture, channels, classes, patch, batch, memory.peak(batch, patch), device.autocast, budget
        )
    return best


def run(cases: Sequence[MemoryCase], device: str, say: Callable[[str], None]) -> Iterator[MemoryRow]:
    """Measure one case after the other. Raises ValueError where memory cannot be measured."""
    before = {key: os.environ.get(key) for key in MALLOC}
    os.environ.update(MALLOC)
    try:
        for case in cases:
            say(str(case))
            yield _row(case, *_in_a_new_process(case, device))
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _row(case: MemoryCase, measured: int | None, note: str) -> MemoryRow:
    ratio = None if measured is None else case.estimated / measured
    return MemoryRow(case.network, case.patch, case.batch, case.budget, case.estimated, measured, ratio, note)


def _in_a_new_process(case: MemoryCase, device: str) -> tuple[int | None, str]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(measure_step, case, device).result(), ""
        except (RuntimeError, MemoryError, BrokenProcessPool) as failure:  # more than this machine has
            return None, f"failed: {(str(failure) or type(failure).__name__).splitlines()[0]}"


def measure_step(case: MemoryCase, device_type: str) -> int:
    """Peak bytes of one training step as nnU-Net makes it, weights included. Call it in a fresh process."""
    device = torch.device(device_type)
    torch.backends.cudnn.benchmark = True  # as nnU-Net sets it
    # compiles kernels and fills caches that stay; on a GPU it tries the convolutions of the very sizes
    warm_up = case if device_type == "cuda" else replace(case, batch=1, patch=_smallest(case))
    _training(warm_up, device)()
    extra = peak_extra_bytes(lambda: _training(case, device)(), device)
    if extra is None:
        raise ValueError("this system does not tell a process's peak memory: use Linux or a CUDA device")
    return extra


def _smallest(case: MemoryCase) -> tuple[int, ...]:
    """A patch of two voxels at the bottleneck, or the case's own if the weights fit no other"""
    kwargs = case.architecture["arch_kwargs"]
    if kwargs.get("patch_size") is not None:
        return case.patch
    return tuple(2 * s for s in total_stride(kwargs["strides"]))


def _training(case: MemoryCase, device: torch.device) -> Callable[[], None]:
    """A network with its optimizer, and the function that makes one step"""
    network = get_network_from_plans(
        case.architecture["network_class_name"], case.architecture["arch_kwargs"],
        case.architecture["_kw_requires_import"], case.channels, case.classes,
        allow_init=False, deep_supervision=True,
    ).to(device).train()  # fmt: skip
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, 1e-2, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    for p in parameters:
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p).fill_(0)
    loss = nnunet_loss(case.architecture["arch_kwargs"]["n_stages"] - 1)
    data = torch.randn(case.batch, case.channels, *case.patch, device=device)
    strides = case.architecture["arch_kwargs"]["strides"]
    targets, shape = [], list(case.patch)
    for stride in strides[:-1]:
        shape = [s // k for s, k in zip(shape, stride, strict=True)]
        targets.append(torch.zeros(case.batch, 1, *shape, dtype=LABELS, device=device))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, case.autocast, enabled=case.autocast is not None):
            value = loss(network(data), targets)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        synchronize(device)

    return step


def _widths(record: Network, planned: dict[str, Any]) -> list[int]:
    """As our planner asks nnU-Net for them"""
    most = record.max_features or networks.MOST_FEATURES
    return [min(record.base_features * 2**i, most) for i in range(planned["arch_kwargs"]["n_stages"])]


def _stock(planned: dict[str, Any]) -> dict[str, Any]:
    n = planned["arch_kwargs"]["n_stages"]
    more = {
        "n_conv_per_stage": [2] * n, "n_conv_per_stage_decoder": [2] * (n - 1), "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    kwargs = {**planned["arch_kwargs"], **more}
    return {**planned, "arch_kwargs": kwargs, "_kw_requires_import": ["conv_op", "norm_op", "nonlin"]}
