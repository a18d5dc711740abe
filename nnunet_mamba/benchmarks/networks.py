"""`nnunet-mamba bench network`: a training step and a prediction of every network on the same patch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba.benchmarks.measure import measure
from nnunet_mamba.blocks.mixers import has_mixer
from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.names.networks import NETWORKS, Network, with_twins
from nnunet_mamba.names.suffixes import SUFFIXES, parse
from nnunet_mamba.ops.backends import ENVIRONMENT_VARIABLE

SMALLEST_AXIS = 4  # nnU-Net stops pooling an axis there
FIRST_FEATURES, MOST_FEATURES = 32, 320  # nnU-Net's widths for 3d
MOST_STAGES = 7
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6)
TOLERANCE = 1e-6  # of the largest logit, against the network with the reference scan, in float64
CHECKED_EDGE = 32


@dataclass(frozen=True)
class Task:
    """What every network gets: a patch, a batch, image channels and classes, and a topology."""

    patch: tuple[int, int, int]
    batch: int
    channels: int
    classes: int
    features: tuple[int, ...]

    @property
    def architecture(self) -> dict:
        """nnU-Net's plan entry for this topology."""
        n = len(self.features)
        strides = [[1, 1, 1], *([[2, 2, 2]] * (n - 1))]
        return {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": n,
                "features_per_stage": list(self.features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * n,
                "strides": strides,
            },
        }


@dataclass(frozen=True)
class NetworkRow:
    """One network. Times and memory are None where `note` says why."""

    network: str
    parameters: int
    predict_seconds: float | None
    predict_bytes: int | None
    train_seconds: float | None
    train_bytes: int | None
    note: str = ""

    def as_json(self) -> dict:
        return asdict(self)


def task(patch: Sequence[int], batch: int, channels: int, classes: int, features: Sequence[int] | None) -> Task:
    """Raises ValueError for a patch that the topology cannot halve, with one that it can."""
    if len(patch) != 3 or min(patch) < 2 * SMALLEST_AXIS:
        raise ValueError(f"-patch {' '.join(map(str, patch))}: expected three axes of at least {2 * SMALLEST_AXIS}")
    if features is None:
        n = 1
        while n < MOST_STAGES and all(p % 2**n == 0 and p // 2**n >= SMALLEST_AXIS for p in patch):
            n += 1
        if n < 2:
            raise ValueError(f"-patch {' '.join(map(str, patch))}: expected even sizes, for example 64 64 64")
        features = [min(FIRST_FEATURES * 2**i, MOST_FEATURES) for i in range(n)]
    step = 2 ** (len(features) - 1)
    if any(p % step for p in patch):
        fitting = " ".join(str(max(step, p // step * step)) for p in patch)
        raise ValueError(
            f"-patch {' '.join(map(str, patch))} with {len(features)} stages: every axis must be divisible by {step}; "
            f"for example -patch {fitting}"
        )
    return Task(tuple(patch), batch, channels, classes, tuple(features))  # type: ignore[arg-type]


def candidates(work: Task) -> dict[str, Callable[[], nn.Module]]:
    """Name -> builder: our networks and their twins, nnU-Net's two U-Nets, and MONAI's SwinUNETR."""
    built: dict[str, Callable[[], nn.Module]] = {kind.name: partial(_ours, kind, work) for kind in with_twins()}
    built["PlainConvUNet"] = lambda: _stock("PlainConvUNet", work, n_conv_per_stage=2)
    blocks = list(RESIDUAL_BLOCKS[: len(work.features)])
    built["ResidualEncoderUNet"] = lambda: _stock("ResidualEncoderUNet", work, n_blocks_per_stage=blocks)
    built["SwinUNETR"] = lambda: _swin(work)
    return built


def with_other_mixers(work: Task) -> dict[str, Callable[[], nn.Module]]:
    """Name -> builder: our networks with one suffix of a trainer's name that changes their Mamba layers"""
    built: dict[str, Callable[[], nn.Module]] = {}
    for kind in NETWORKS:
        for suffix in SUFFIXES:
            if not suffix.network:
                continue
            ending = f"_{suffix.write(True)}"
            changed = parse(kind.trainer + ending)
            if changed is not None and changed.conflict() is None:
                built[kind.name + ending] = partial(_ours, replace(kind, **changed.mixing), work)
    return built


def select(work: Task, asked: Sequence[str]) -> list[str]:
    """The asked networks, or all as published and their twins. Raises ValueError naming the known ones."""
    usual, others = list(candidates(work)), list(with_other_mixers(work))
    unknown = [name for name in asked if name not in (*usual, *others)]
    if unknown:
        raise ValueError(f"-only {' '.join(unknown)}: unknown; known: {' '.join(usual)}; {' '.join(others)}")
    return list(asked) or usual


def run(
    work: Task,
    names: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    training: bool,
    say: Callable[[str], None],
) -> Iterator[NetworkRow]:
    """Measure the named networks one after the other."""
    builders = candidates(work) | with_other_mixers(work)
    for name in names:
        say(name)
        torch.manual_seed(0)
        try:
            network = builders[name]().to(device)
        except Exception as error:  # also another's network that does not work with these versions
            reason = (str(error) or type(error).__name__).splitlines()[0]
            yield NetworkRow(name, 0, None, None, None, None, f"not built: {reason}")
            continue
        yield _measure(name, network, work, device, dtype, training)


def _measure(
    name: str, network: nn.Module, work: Task, device: torch.device, dtype: torch.dtype, training: bool
) -> NetworkRow:
    parameters = sum(p.numel() for p in network.parameters())
    x = torch.randn(work.batch, work.channels, *work.patch, device=device)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    measured: list[float | int | None] = [None] * 4
    try:
        error = _error(network, work, device) if has_mixer(network) else 0.0
        if not error <= TOLERANCE:
            note = f"wrong: error {error:.1e} against the reference scan, allowed {TOLERANCE:g}"
            return NetworkRow(name, parameters, None, None, None, None, note)

        def predict() -> Tensor:
            with torch.inference_mode(), autocast:
                return network(x)

        network.eval()
        shown = measure(predict, device)
        measured[:2] = shown.seconds, shown.extra_bytes
        if training:
            measured[2:] = _training(network, x, autocast, device)
    except Exception as failure:  # too large for this machine, too small for a network, or not ours to foresee
        note = f"failed: {(str(failure) or type(failure).__name__).splitlines()[0]}"
        return NetworkRow(name, parameters, *measured, note)  # type: ignore[arg-type]
    return NetworkRow(name, parameters, *measured)  # type: ignore[arg-type]


def _training(
    network: nn.Module, x: Tensor, autocast: torch.autocast, device: torch.device
) -> tuple[float, int | None]:
    """Forward, cross entropy, backward and nnU-Net's SGD step"""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-5, momentum=0.99, nesterov=True)
    target = torch.zeros((x.shape[0], *x.shape[2:]), dtype=torch.long, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = nn.functional.cross_entropy(network(x), target)
        loss.backward()
        optimizer.step()

    measured = measure(step, device)
    return measured.seconds, measured.extra_bytes


def _error(network: nn.Module, work: Task, device: torch.device) -> float:
    """Of the logits with the chosen scan against those with the reference scan, on a small patch

    In float64, where it does not matter how much a network amplifies rounding; the scan's float32 has its self-test.
    """
    step = 2 ** (len(work.features) - 1)
    patch = [min(p, max(step, CHECKED_EDGE // step * step)) for p in work.patch]
    x = torch.randn(1, work.channels, *patch, device=device, dtype=torch.float64)
    network.eval().double()
    with torch.inference_mode():
        got = network(x)
        with _backend("reference"):
            expected = network(x)
    network.float()
    return float((got - expected).abs().max() / expected.abs().max())


@contextmanager
def _backend(name: str) -> Iterator[None]:
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT_VARIABLE]
        else:
            os.environ[ENVIRONMENT_VARIABLE] = before


def _ours(record: Network, work: Task) -> nn.Module:
    planned = architecture_for(record, work.architecture)
    kwargs = {**planned["arch_kwargs"], "conv_op": nn.Conv3d}
    return record.load_architecture()(work.channels, work.classes, deep_supervision=False, **kwargs)


def _stock(name: str, work: Task, **blocks: Any) -> nn.Module:
    from dynamic_network_architectures.architectures import unet

    kwargs = {**work.architecture["arch_kwargs"], "conv_op": nn.Conv3d, **blocks}
    n = kwargs["n_stages"]
    per_decoder_stage = [2 if name == "PlainConvUNet" else 1] * (n - 1)
    return getattr(unet, name)(
        work.channels, num_classes=work.classes, n_conv_per_stage_decoder=per_decoder_stage, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=False, **kwargs,
    )  # fmt: skip


def _swin(work: Task) -> nn.Module:
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(in_channels=work.channels, out_channels=work.classes, feature_size=48, spatial_dims=3)
