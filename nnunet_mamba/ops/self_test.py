"""Before a backend's first real use on a machine it computes a small case, which must equal the reference.

Compilers miscompile on new hardware, and packages are built for other versions; a wrong scan does not crash, it trains
a bad network. A pass is remembered per machine, device, dtype and versions, so that later processes do not repeat it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops.kernels.triton_support import triton_version
from nnunet_mamba.ops.oriented_weights import SSDWeights, Weights

SWITCH = "nnUNet_mamba_self_test"
"""Environment variable: 0 leaves the test out."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Relative to the largest value; far above rounding, far below what a wrong kernel does."""
TF32_TOLERANCE = 5e-3
"""float32 where the user lets a GPU round the operands of matrix products to TF32 (10 bits)"""
SLICES = 6
CHANNELS, LENGTH = 6, 300  # more than one chunk of saved states, and a ragged second one
LONG = 522  # more than two, with steps left over where four are taken at a time
FORWARD, BACKWARD = "forward", "backward"

_lock = threading.RLock()
_verdicts: dict[tuple[str, ...], str | None] = {}


def _new_lock() -> None:
    """A forked child has none of the threads that may have held the old one."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_new_lock)


def problem(op: str, name: str, module: ModuleType, part: str, like: Tensor) -> str | None:
    """None when `part` ("forward" or "backward") of this backend is right for tensors like `like`, else what is wrong.

    Runs at most once per process for a device and dtype, and not at all where an earlier process has passed it. A
    backend whose kernels are compiled for the sizes at hand says so by `tested_as(like)`: the channels of the case, and
    options of its functions, that bring the very kernels into the test that `like` will need.
    """
    if name == "reference" or os.environ.get(SWITCH) == "0":
        return None
    if like.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None  # a capture must not see other kernels
    channels, options = module.tested_as(like) if hasattr(module, "tested_as") else (CHANNELS, {})
    key = (op, name, part, str(like.device), str(like.dtype), str(channels), str(options))
    with _lock:
        if key not in _verdicts:
            mark = _mark(key, like)
            if mark is not None and mark.exists():
                _verdicts[key] = None
            else:
                if like.device.type == "cuda" and name == "triton":
                    _say_that_it_compiles(torch.cuda.get_device_name(like.device))
                _verdicts[key] = _compare(op, module, part, like, channels, options)
                if mark is not None and _verdicts[key] is None:
                    _remember(mark)
        return _verdicts[key]


def forget() -> None:
    """Drop this process's verdicts, not those on disk."""
    _verdicts.clear()


@cache  # once a process and kind of device
def _say_that_it_compiles(device: str) -> None:
    print(f"nnunet-mamba: compiling and testing the Triton kernels for {device}; about a minute, once", file=sys.stderr)


def _compare(
    op: str, module: ModuleType, part: str, like: Tensor, channels: int, options: dict[str, int]
) -> str | None:
    inputs, arguments = CASES[op](like.dtype, channels, LONG if options else LENGTH)
    allowed = TF32_TOLERANCE if like.dtype == torch.float32 and _rounds_to_tf32(like) else TOLERANCE[like.dtype]
    judge = import_module(f"nnunet_mamba.ops.{op}.reference")
    try:
        with torch.autocast(like.device.type, enabled=False):
            got = _run(module, part, arguments(*(x.to(like.device) for x in inputs)), options)
    except Exception as error:  # a backend may fail in any way: compilers, drivers, foreign extensions
        return f"its self-test failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    expected = _run(judge, part, arguments(*(x.double() for x in inputs)), {})
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        error = ((a.detach().cpu().double() - b).abs().max() / b.abs().max()).item()
        if not error <= allowed:
            what = "result" if part == FORWARD else f"gradient {index}"
            return (
                f"its self-test gave a wrong {what} on {like.device} (error {error:.2g} of the largest value in "
                f"{like.dtype}, allowed {allowed:g})"
            )
    return None


def _rounds_to_tf32(like: Tensor) -> bool:
    if like.device.type != "cuda":
        return False
    try:
        return bool(torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # set by torch's newer interface, of which this one does not tell
        return True


def _run(module: ModuleType, part: str, arguments: tuple[Any, ...], options: dict[str, int]) -> list[Tensor]:
    forward = module.forward(*arguments, **options)
    y, *states = forward if isinstance(forward, tuple) else (forward,)
    if part == FORWARD:
        return [y]
    # same cotangent for backend and judge, of the order of one
    grad = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(y.device, y.dtype)
    return list(module.backward(grad, *arguments, *states, **options))


def _random(dtype: torch.dtype) -> Callable[..., Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)  # the program's own random state stays as it is

    def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return (values * scale + shift).to(dtype)

    return normal


Case = tuple[list[Tensor], Callable[..., tuple[Any, ...]]]
"""Tensors, and how the functions of a backend take them"""


def _scan_case(dtype: torch.dtype, channels: int, length: int) -> Case:
    normal, n = _random(dtype), 16
    A = -torch.exp(normal(channels, n, scale=0.3).float()).to(dtype)
    inputs = [
        normal(1, channels, length), normal(1, channels, length, scale=0.5), A, normal(1, n, length),
        normal(1, n, length), normal(channels), normal(1, channels, length), normal(channels, scale=0.5, shift=-1),
    ]  # fmt: skip
    return inputs, lambda *tensors: (*tensors, True)  # softplus


def _conv_case(dtype: torch.dtype, channels: int, length: int) -> Case:
    normal = _random(dtype)
    inputs = [normal(1, channels, length), normal(channels, 4), normal(channels)]
    return inputs, lambda *tensors: (*tensors, True)  # SiLU


def _oriented_case(dtype: torch.dtype, channels: int, length: int) -> Case:
    normal, o, e, n, rank, taps = _random(dtype), 3, channels, 16, -(-channels // 32), 4  # as Mamba chooses its rank
    xz = normal(1, length, 2 * e)
    inputs = [
        xz[..., :e], xz[..., e:], normal(o, e, taps, scale=0.5), normal(o, e, scale=0.1),
        normal(o, rank + 2 * n, e, scale=e**-0.5), normal(o, e, rank, scale=rank**-0.5),
        normal(o, e, scale=0.5, shift=-2),
        -torch.exp(normal(o, e, n, scale=0.3).float()).to(dtype), normal(o, e),
    ]  # fmt: skip
    return inputs, lambda x, z, *weights: (x, z, Weights(*weights), "fbs", SLICES)


def _ssd_case(dtype: torch.dtype, channels: int, length: int) -> Case:
    normal, h, g, n = _random(dtype), 4, 2, 16  # heads of `channels` channels
    inputs = [
        normal(1, length, h, channels), normal(1, length, h, scale=0.5), _head_decays(normal, h),
        normal(1, length, g, n), normal(1, length, g, n), normal(h), normal(h, scale=0.5, shift=-1),
    ]  # fmt: skip
    return inputs, lambda *tensors: (*tensors, True)  # softplus


def _oriented_ssd_case(dtype: torch.dtype, channels: int, length: int) -> Case:
    normal, o, h, g, n, taps = _random(dtype), 3, 4, 2, 16, 4
    k = h * channels + 2 * g * n
    inputs = [
        normal(1, length, k), normal(1, length, h, scale=0.5), normal(o, k, taps, scale=0.5), normal(o, k, scale=0.1),
        normal(o, h, scale=0.5, shift=-2), _head_decays(normal, o, h), normal(o, h),
    ]  # fmt: skip
    return inputs, lambda xBC, dt, *weights: (xBC, dt, SSDWeights(*weights), n, g, "fbs", SLICES)


def _head_decays(normal: Callable[..., Tensor], *shape: int) -> Tensor:
    values = normal(*shape, scale=0.3)
    return -torch.exp(values.float()).to(values.dtype)


CASES: dict[str, Callable[[torch.dtype, int, int], Case]] = {
    "oriented_scan": _oriented_case,
    "oriented_ssd": _oriented_ssd_case,
    "selective_scan": _scan_case,
    "ssd": _ssd_case,
    "causal_conv1d": _conv_case,
}
"""All operators; those that networks call come before the ones that they are made of"""


def cache_folder() -> Path | None:
    """Where passes are remembered; None if there is no such place."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "nnunet_mamba" / "self_test"
    except RuntimeError:  # no home folder
        return None


def _mark(key: tuple[str, ...], like: Tensor) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    facts = "\n".join((*key, *_machine(like), *_source()))
    return folder / hashlib.sha256(facts.encode()).hexdigest()[:32]


def _machine(like: Tensor) -> tuple[str, ...]:
    names = ["torch", "numba", "triton", "mamba-ssm"]
    device = ""
    if like.device.type == "cuda":
        device = f"{torch.cuda.get_device_name(like.device)} {torch.cuda.get_device_capability(like.device)}"
        device += f" driver {_driver()} tf32 {_rounds_to_tf32(like)}"
    return (platform.node(), platform.machine(), sys.version, device, *(f"{name} {_version(name)}" for name in names))


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:  # not Linux, or not NVIDIA
        return "unknown"


def _version(package: str) -> str:
    if package == "triton":
        return triton_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@cache
def _source() -> tuple[str, ...]:
    """The ops' own files: another version of them has to pass again."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return tuple(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)


def _remember(mark: Path) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # read-only or full: the next process tests again
        pass
