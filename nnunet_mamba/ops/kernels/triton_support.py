"""What the Triton backends share and that works without Triton: the conditions to run, and where to run."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

OLDEST_TRITON = "3.3"
"""Comes with torch 2.7; earlier ones cannot compile the kernels"""
OLDEST_FOR_DOUBLE_PRODUCTS = "3.6"
"""Earlier ones multiply no matrices of float64, or were not tried"""
DISTRIBUTIONS = ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-rocm", "triton-windows")
"""Under which triton is installed: by torch, nightly, for AMD, for Windows"""
OLDEST_CAPABILITY = (7, 5)
LONGEST = 2**31 - 1024


def interpreted() -> bool:
    """Whether TRITON_INTERPRET asks for Triton's own interpreter, which runs kernels on CPU tensors (slowly)."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes")


def why_not(x: Tensor, length_axis: int, multiplies: bool = False) -> str | None:
    """One sentence on why Triton kernels cannot run for tensors like x, or None. multiplies: they multiply matrices"""
    if not _is_installed():
        return "triton is not installed: pip install triton"
    if is_older_than(OLDEST_TRITON):
        return f"needs triton {OLDEST_TRITON} or newer, got {triton_version()}: pip install -U torch brings one along"
    if multiplies and x.dtype == torch.float64 and not interpreted() and is_older_than(OLDEST_FOR_DOUBLE_PRODUCTS):
        return f"needs triton {OLDEST_FOR_DOUBLE_PRODUCTS} or newer for float64, got {triton_version()}"
    if x.shape[length_axis] > LONGEST:
        return f"{x.shape[length_axis]} tokens are more than {LONGEST}, the longest sequence its kernels count"
    if interpreted():
        return None
    if x.device.type != "cuda":
        return f"needs a CUDA or ROCm tensor, got {x.device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(x.device) < OLDEST_CAPABILITY:
        major, minor = OLDEST_CAPABILITY
        return f"needs a GPU of compute capability {major}.{minor} or newer, got {torch.cuda.get_device_name(x.device)}"
    return _no_compiler()


@cache  # PATH and disk are asked once per process: this is on the way of every call
def _is_installed() -> bool:
    return find_spec("triton") is not None


@cache
def is_older_than(oldest: str) -> bool:
    """Whether the installed Triton is; a version that cannot be read is new."""
    numbers = re.match(r"(\d+)\.(\d+)", triton_version())
    return numbers is not None and tuple(map(int, numbers.groups())) < tuple(map(int, oldest.split(".")))


def triton_version() -> str:
    """Of the distribution that brings triton; "unknown" if it is none of these"""
    for name in DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            return version(name)
    return "unknown"


@cache
def _no_compiler() -> str | None:
    """Triton compiles a small C file against the driver at first use"""
    if sys.platform == "win32":  # the Windows builds of Triton bring a compiler along
        return None
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        return "triton needs a C compiler at run time: install gcc or clang, or set the environment variable CC"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "triton needs Python's C headers at run time: install the python3-dev package of your system"
    return None


@contextmanager
def launching(x: Tensor) -> Iterator[None]:
    """Kernels go to x's device, and matrix products keep the dtypes they are given

    Autocast stays active inside a custom op: without this it would turn float32 products into half precision.
    """
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type == "cuda":
            with torch.cuda.device_of(x):
                yield
        else:
            yield
