"""Tables from files of figures: what `nnunet-mamba bench --out` wrote, and the counts of compiled kernels.

A file of another card in docs/reference/measurements is another row of every table it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_mamba import markdown

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "docs" / "reference" / "measurements"
COUNTS = ROOT / "tests" / "ops" / "kernel_counts.json"
STEPS = 4  # of one pass of a scan kernel's loop
REGISTERS_OF_A_PROCESSOR, THREADS, GRANULE, MOST_PROGRAMS = 65_536, 32, 8, 32  # sm_90, a program is one warp
SCAN_KERNELS = ("ends", "outputs first", "outputs middle", "outputs last", "again first", "again middle", "again last",
                "adjoints")  # fmt: skip

NO_MIXER = "NoMamba"
MIXERS = {"convolutions of the same size": "_SameSize", "as published": "", "with 3D convolutions": "_Conv3d",
          "Mamba-2": "_Mamba2"}  # fmt: skip
"""Column -> ending of the network's name"""


def tables() -> str:
    """The GPU sections of the benchmarks page"""
    return "\n\n".join(
        (
            "**The mixer of SegMamba**, all three orders, batch 2", _mixer(),
            "**A training step**, patch 128x128x128, batch 2, widths as our planner gives them", _network(),
            "**Memory of a training step**, patch 128x128x128, batch 2, 1 channel, 4 classes", _memory(),
        )
    )  # fmt: skip


def counts() -> str:
    """What compilers make of the scan kernels, per step of 32 channels"""
    versions: dict[str, dict[str, dict[str, Any]]] = json.loads(COUNTS.read_text(encoding="utf-8"))
    rows = []
    for name in SCAN_KERNELS:
        for version, kernels in versions.items():
            row = kernels[name]
            rows.append(
                (
                    f"`{name}`", version, f"{row['loop'] / STEPS:.1f}", f"{row['exponentials'] / STEPS:g}",
                    f"{row['shuffles'] / STEPS:g}", f"{row['barriers'] / STEPS:g}", str(row["registers"]),
                    str(_programs(row["registers"])), str(row["stack"]),
                )
            )  # fmt: skip
    head = ("kernel", "Triton", "instructions", "exponentials", "shuffles", "barriers", "registers of a thread",
            "warps of a processor", "bytes of a thread in memory")  # fmt: skip
    return markdown.table(head, rows)


def _programs(registers: int) -> int:
    """Warps of one kernel that the registers of a streaming multiprocessor hold"""
    taken = -(-registers // GRANULE) * GRANULE * THREADS
    return min(MOST_PROGRAMS, REGISTERS_OF_A_PROCESSOR // taken)


def networks_on_a_cpu() -> str:
    """The CPU section of the benchmarks page: every network, and what each mixer costs beside none"""
    (content,) = (c for c in _contents("network") if _on_a_cpu(c))
    machine = content["machine"]
    rows = {r["network"]: r for r in content["rows"]}
    every = [
        (name, f"{r['parameters'] / 1e6:.1f} M", _seconds(r["predict_seconds"]), _memory_of(r["predict_bytes"]),
         _seconds(r["train_seconds"]), _memory_of(r["train_bytes"]))
        for name, r in rows.items()
    ]  # fmt: skip
    head = ("network", "parameters", "prediction of a patch", "extra memory", "training step", "extra memory")
    said = (
        f"P{content['task'][1:]}; {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{machine['date']}."
    )
    return "\n\n".join(
        (
            said, markdown.table(head, every),
            "**What a mixer costs**: time of a training step, and of a prediction, over that without one. "
            "U-Mamba2 has Mamba-2 as published, the others Mamba.",
            markdown.table(("network", *MIXERS), _over_the_twin(rows)),
        )
    )  # fmt: skip


def _over_the_twin(rows: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    found = []
    for name, twin in rows.items():
        kind = name.removesuffix(NO_MIXER)
        if kind == name or kind not in rows:
            continue
        cells = []
        for ending in MIXERS.values():
            row = rows.get(kind + ending)
            ratios = None if row is None else (row[k] / twin[k] for k in ("train_seconds", "predict_seconds"))
            cells.append("-" if ratios is None else ", ".join(f"{r:.2f}" for r in ratios))
        found.append((kind, *cells))
    return found


def _contents(kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted(MEASUREMENTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] == kind:
            yield content


def _on_a_cpu(content: dict[str, Any]) -> bool:
    return bool(content["machine"].get("threads"))


def _files(kind: str) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Of GPUs: device and versions, precision, rows"""
    for content in _contents(kind):
        if not _on_a_cpu(content):
            machine = content["machine"]
            device = f"{machine['device']}, torch {machine['torch']}, Triton {machine.get('triton', '-')}"
            yield device, content["dtype"], content["rows"]


def _mixer() -> str:
    rows = [
        (
            device, dtype, r["case"].removeprefix("mixer: "), r["part"], r["implementation"], _time(r["seconds"]),
            _memory_of(r["extra_bytes"]),
        )
        for device, dtype, found in _files("ops") for r in found if r["seconds"] is not None
    ]  # fmt: skip
    return markdown.table(("device", "precision", "size", "part", "implementation", "time", "extra memory"), rows)


def _network() -> str:
    rows = [
        (device, dtype, r["network"], _time(r["train_seconds"]), _memory_of(r["train_bytes"]))
        for device, dtype, found in _files("network") for r in found if r["train_seconds"] is not None
    ]  # fmt: skip
    return markdown.table(("device", "precision", "network", "time of a step", "memory"), rows)


def _memory() -> str:
    rows = [
        (device, dtype, r["network"], _memory_of(r["estimated"]), _memory_of(r["measured"]), f"{r['ratio']:.3f}")
        for device, dtype, found in _files("memory") for r in found if r["ratio"] is not None
    ]  # fmt: skip
    head = ("device", "precision", "network", "estimated", "measured", "estimated / measured")
    return markdown.table(head, rows)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else _time(seconds)


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _memory_of(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
