"""Time and peak memory of a call."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

ENOUGH_SECONDS, MOST_REPEATS, ONCE_SECONDS = 2.0, 20, 10.0


@dataclass(frozen=True)
class Measurement:
    """seconds: shortest of the repeats; extra_bytes: peak memory above what was there before, None if unknown."""

    seconds: float
    extra_bytes: int | None


def measure(call: Callable[[], object], device: torch.device) -> Measurement:
    """Shortest time and peak memory of a call that has run before.

    The first call counts the memory; further ones are timed for two seconds or 20 times. Calls of more than ten seconds
    are made only once.
    """
    start = time.perf_counter()
    extra = peak_extra_bytes(call, device)
    first = time.perf_counter() - start
    if first > ONCE_SECONDS:
        return Measurement(first, extra)
    repeats = max(1, min(MOST_REPEATS, int(ENOUGH_SECONDS / max(first, 1e-6))))
    return Measurement(min(_seconds(call, device) for _ in range(repeats)), extra)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    seconds = time.perf_counter() - start
    del result
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_extra_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Highest memory during one call above the level before it. On the CPU from Linux's own count, else None."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not _reset_peak():
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _reset_peak() -> bool:
    """Give freed memory back to the system, then let its record of the peak start anew."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return True
    except (AttributeError, OSError, TypeError):
        return False


def _status(field: str) -> int:
    """Bytes"""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
