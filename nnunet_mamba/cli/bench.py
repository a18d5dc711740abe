"""`nnunet-mamba bench ops|network|memory|convert`: measured tables, as text and as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.benchmarks.record import Record

from nnunet_mamba import markdown

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_BUDGETS = {"cpu": (1, 3), "cuda": (8, 11, 16, 24, 40, 80)}
DEFAULT_PATCH = {"cpu": (64, 64, 64), "cuda": (128, 128, 128)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: nnunet-mamba bench ops -device cpu --out scan.json; nnunet-mamba bench network --help"
    kinds = parser.add_subparsers(dest="kind", metavar="ops|network|memory|convert", required=True)
    ops = kinds.add_parser("ops", help="the scan and the Mamba layer, compared with other implementations")
    ops.add_argument(
        "-size", type=int, nargs=4, action="append", metavar=("BATCH", "CHANNELS", "TOKENS", "SLICES"),
        help="measure this size instead of SegMamba's stages at 128^3; may be repeated",
    )  # fmt: skip
    ops.add_argument(
        "-limit", type=float, default=120, metavar="SECONDS",
        help="leave out calls that would take longer, by extrapolation (default: %(default)s)",
    )  # fmt: skip
    network = kinds.add_parser("network", help="a training step and a prediction of every network on one patch")
    network.add_argument(
        "-patch", type=int, nargs=3, metavar=("X", "Y", "Z"), help="default: 64^3 on a CPU, 128^3 else"
    )
    network.add_argument("-batch", type=int, default=1, help="default: %(default)s")
    network.add_argument("-channels", type=int, default=1, help="image channels (default: %(default)s)")
    network.add_argument("-classes", type=int, default=4, help="classes (default: %(default)s)")
    network.add_argument("-features", type=int, nargs="+", help="widths per stage (default: nnU-Net's, 32 to 320)")
    network.add_argument("-only", nargs="+", default=(), metavar="NETWORK", help="these networks instead of all; "
                         "with other Mamba layers: SegMamba_Mamba2, _SameSize, _Conv3d")  # fmt: skip
    network.add_argument("--no-training", action="store_true", help="predictions only")
    memory = kinds.add_parser("memory", help="the planner's memory estimate, compared with what a training step takes")
    memory.add_argument(
        "-budget", type=float, nargs="+", default=None, metavar="GB",
        help="on the largest cube and batch that should fit into this much memory (default: 8 11 16 24 40 80 as far as "
        "the card has them; on a CPU 1 3)",
    )  # fmt: skip
    memory.add_argument(
        "-patch", type=int, nargs=3, action="append", metavar=("X", "Y", "Z"),
        help="on this patch instead; may be repeated",
    )  # fmt: skip
    memory.add_argument("-batch", type=int, default=2, help="for -patch (default: %(default)s)")
    memory.add_argument("-channels", type=int, default=1, help="image channels (default: %(default)s)")
    memory.add_argument("-classes", type=int, default=4, help="classes (default: %(default)s)")
    memory.add_argument("-only", nargs="+", default=(), metavar="NETWORK", help="these networks instead of all")
    memory.add_argument(
        "-dtype",
        choices=DTYPES,
        default=None,
        help="of the training (default: float16, as nnU-Net's, on a CPU float32)",
    )
    convert = kinds.add_parser("convert", help="converting datasets, compared with reading and writing their files")
    convert.add_argument("-repeats", type=int, default=2, help="of both, in turns (default: %(default)s)")
    for kind in (ops, network):
        kind.add_argument("-dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    for kind in (ops, network, memory, convert):
        kind.add_argument("-device", choices=("cpu", "cuda"), default=None, help="default: cuda if there is one")
        kind.add_argument("-threads", type=int, help="CPU threads (default: torch's)")
        kind.add_argument("--out", type=Path, metavar="FILE", help="write the figures there too, after each step")


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 when an implementation of ours gave a wrong result."""
    import torch

    from nnunet_mamba.benchmarks.record import Record

    if options.out is not None and not options.out.resolve().parent.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {options.out.resolve().parent}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("-device cuda: torch sees no CUDA device here; use -device cpu")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"-threads {options.threads}: expected at least 1")
        torch.set_num_threads(options.threads)
    record = Record(options.out, {"kind": options.kind})
    {"ops": _ops, "network": _network, "memory": _estimates, "convert": _conversion}[options.kind](
        options, device, record
    )
    if options.out:
        print(f"\nwritten: {options.out}")
    return 1 if record.has_a_wrong_result else 0


def _head(device: Any) -> dict[str, Any]:
    from nnunet_mamba.benchmarks.machine import copy_bytes_per_second, describe

    head = {**describe(device), "command": "nnunet-mamba " + " ".join(sys.argv[1:])}
    head["copy_gb_per_second"] = round(copy_bytes_per_second(device) / 1e9, 1)
    for key, value in head.items():
        if value is not None:
            print(f"{key}: {value}")
    return head


def _say(text: str) -> None:
    print(f"measuring {text} ...", file=sys.stderr, flush=True)


def _ops(options: argparse.Namespace, device: Any, record: Record) -> None:
    import torch

    from nnunet_mamba.benchmarks import scan

    dtype = getattr(torch, options.dtype)
    cases = scan.default_cases(device)
    if options.size:
        cases = []
        for size in options.size:
            batch, channels, length, slices = size
            if min(size) < 1 or length % slices:
                raise ValueError(f"-size {' '.join(map(str, size))}: expected positive numbers, TOKENS % SLICES = 0")
            cases += [
                scan.ScanCase("scan", batch, channels, length),
                scan.ScanCase("mixer", batch, channels, length, slices),
            ]
    head = _head(device)
    record.begin(head, dtype=options.dtype)
    for case in cases:
        for row in scan.run([case], device, dtype, options.limit, _say):
            record.add(row)
        for part in (scan.FORWARD, scan.TRAINING):
            lines = [r for r in record.rows if r.case == str(case) and (r.part == part or r.seconds is None)]
            floor = scan.floor_bytes(case, dtype, part) / head["copy_gb_per_second"] / 1e9
            print(f"\n{case}, {part} (memory floor {_time(floor)})\n")
            _print_table(lines, part)


def _print_table(lines: Sequence[Any], part: str) -> None:
    fastest = min((r.seconds for r in lines if r.seconds is not None and r.part == part), default=None)
    rows = []
    for r in lines:
        if r.seconds is None or r.part != part or fastest is None:
            rows.append((r.implementation, r.note, "", "", ""))
        else:
            ratio, error = f"{r.seconds / fastest:.2f}", f"{r.error:.1e}"
            rows.append((r.implementation, _time(r.seconds), ratio, _memory(r.extra_bytes), error))
    print(markdown.table(("implementation", "time", "ratio", "extra memory", "error"), rows))


def _network(options: argparse.Namespace, device: Any, record: Record) -> None:
    import torch

    from nnunet_mamba.benchmarks import networks

    patch = options.patch or DEFAULT_PATCH[device.type]
    work = networks.task(patch, options.batch, options.channels, options.classes, options.features)
    names = networks.select(work, options.only)
    head = _head(device)
    say = f"patch {work.patch}, batch {work.batch}, widths {work.features}, {options.dtype}"
    training = not options.no_training
    record.begin(head, task=say, dtype=options.dtype)
    for row in networks.run(work, names, device, getattr(torch, options.dtype), training, _say):
        record.add(row)
    print(f"\n{say}\n")
    head_line = ("network", "parameters", "prediction", "extra memory", "training step", "extra memory")
    print(markdown.table(head_line, [_network_cells(r) for r in record.rows]))


def _network_cells(r: Any) -> tuple[str, ...]:
    if r.note:
        return (r.network, r.note, "", "", "", "")
    return (r.network, f"{r.parameters / 1e6:.1f} M", _time(r.predict_seconds), _memory(r.predict_bytes),
            _time(r.train_seconds), _memory(r.train_bytes))  # fmt: skip


def _estimates(options: argparse.Namespace, device: Any, record: Record) -> None:
    import torch

    from nnunet_mamba.benchmarks import memory

    where, sizes = memory.DEVICES[device.type], (options.channels, options.classes)
    if options.dtype and device.type == "cpu" and options.dtype != "float32":
        raise ValueError(f"-dtype {options.dtype}: on a CPU nnU-Net trains in float32")
    if options.dtype:
        where = replace(where, autocast=None if options.dtype == "float32" else getattr(torch, options.dtype))
    names = memory.select(options.only)
    budgets = options.budget or ([] if options.patch else list(DEFAULT_BUDGETS[device.type]))
    if any(not b > 0 for b in budgets) or options.batch < 1 or min(sizes) < 1:
        raise ValueError("-budget, -batch, -channels, -classes: expected numbers > 0")
    if device.type == "cuda" and not options.budget:
        budgets = [b for b in budgets if b * 1e9 < torch.cuda.get_device_properties(device).total_memory]
    head = _head(device)
    cases = [memory.given_case(n, patch, options.batch, *sizes, where) for patch in options.patch or () for n in names]
    for budget in budgets:
        found = {name: memory.budget_case(name, budget, *sizes, where) for name in names}
        cases += [case for case in found.values() if case is not None]
        for name in (name for name, case in found.items() if case is None):
            print(f"{name}: no patch fits into {budget:g} GB")
    print("\n" + markdown.table(("network", "patch", "batch", "estimated", "measured", "estimated / measured"), ()))
    dtype = str(where.autocast or torch.float32).removeprefix("torch.")
    record.begin(head, dtype=dtype, channels=sizes[0], classes=sizes[1])
    for r in memory.run(cases, device.type, _say):
        record.add(r)
        patch, ratio = "x".join(map(str, r.patch)), r.note if r.ratio is None else f"{r.ratio:.3f}"
        print(markdown.line((r.network, patch, str(r.batch), _memory(r.estimated), _memory(r.measured), ratio)))


def _conversion(options: argparse.Namespace, device: Any, record: Record) -> None:
    from nnunet_mamba.benchmarks import conversion

    if options.repeats < 1:
        raise ValueError(f"-repeats {options.repeats}: expected at least 1")
    head = _head(device)
    record.begin(head)
    print("\n" + markdown.table(("dataset", "files", "read and write", "convert", "ratio"), ()))
    for r in conversion.run(options.repeats, _say):
        record.add(r)
        times = _time(r.plain_seconds), _time(r.converted_seconds)
        print(markdown.line((r.dataset, str(r.files), *times, f"{r.ratio:.2f}")))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _memory(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
