"""What the figures were measured on, and how fast this device copies memory."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nnunet_mamba.benchmarks.measure import measure
from nnunet_mamba.version import __version__

PACKAGES = (
    "torch",
    "numba",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "mambapy",
    "monai",
    "dynamic-network-architectures",
)
COPIED_BYTES = 2**28


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and date, for the head of a table."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        **(_clocks() if device.type == "cuda" else {}),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "python": platform.python_version(),
        "nnunet-mamba": __version__,
        **{name: v for name, v in found.items() if v},
    }


def _clocks() -> dict[str, str]:
    """Driver, clocks and power limit, as NVIDIA's own tool tells them; nothing where there is none"""
    fields = {
        "driver": "driver_version", "clock": "clocks.sm", "most_clock": "clocks.max.sm", "memory_clock": "clocks.mem",
        "power_limit": "power.limit",
    }  # fmt: skip
    command = ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    first = [value.strip() for value in told.splitlines()[0].split(",")] if told.strip() else []
    return dict(zip(fields, first, strict=False))


def copy_bytes_per_second(device: torch.device) -> float:
    """Bytes read plus bytes written per second by a copy of 256 MiB: the floor of everything that reads and writes."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / measure(lambda: target.copy_(source), device).seconds


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
