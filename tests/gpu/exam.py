"""Everything that a machine with a GPU can show, in one command, each step in a process of its own with a time limit.

    python -m tests.gpu.exam OUT                    right? then how fast? in about 20 minutes
    python -m tests.gpu.exam OUT --only "ops bfloat16" training
    python -m tests.gpu.exam OUT --dry              the same steps on a CPU, tiny, without meaning

OUT/exam.json is written after every step; the figures are files of `nnunet-mamba bench --out` beside it, from which
docs/generate.py makes tables (docs/reference/measurements). Needs torch, Triton, nnU-Net and pytest; no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = [(2, 96, 64), (2, 192, 32), (2, 384, 16), (2, 768, 8)]
"""Batch, channels of the scan and edge of the map: SegMamba on two patches of 128^3"""
DRY = {"NNUNET_MAMBA_GPU_TESTS": "dry"}
INTERPRETED = DRY | {"TRITON_INTERPRET": "1", "nnUNet_mamba_self_test": "0"}


@dataclass(frozen=True)
class Step:
    """alone: it measures time; environment: of a dry run"""

    name: str
    command: tuple[str, ...]
    seconds: int
    alone: bool = False
    environment: tuple[tuple[str, str], ...] = ()


def steps(out: Path, dry: bool) -> list[Step]:
    """Correctness first, side by side; then figures, one by one; the real training last but one"""
    device = "cpu" if dry else "cuda"

    def tests(name: str, seconds: int, environment: dict[str, str], alone: bool = False) -> Step:
        command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/gpu/test_{name}.py")
        return Step(name, command, seconds, alone, tuple(environment.items()))

    def bench(name: str, kind: str, seconds: int, *options: str) -> Step:
        file = out / f"{name.replace(' ', '_')}.json"
        command = ("-m", "nnunet_mamba.cli.main", "bench", kind, "-device", device, *options, "--out", str(file))
        return Step(name, command, seconds, alone=True)

    sizes: list[str] = []
    for batch, channels, edge in [(1, 4, 4)] if dry else STAGES:
        sizes += ["-size", *map(str, (batch, channels, edge**3, edge))]
    patch = ("-patch", *(["32"] * 3 if dry else ["128"] * 3))
    only = ("-only", "SegResMamba", "PlainConvUNet") if dry else ()
    half = "float32" if dry else "bfloat16"
    return [
        tests("operators", 300, INTERPRETED),
        tests("behaviour", 300, INTERPRETED),
        tests("self_test", 300, INTERPRETED),
        tests("sanitizer", 400, INTERPRETED),
        bench(f"ops {half}", "ops", 200, "-dtype", half, *sizes),
        bench("ops float32", "ops", 200, "-dtype", "float32", *sizes),
        bench("network", "network", 400, "-dtype", half, "-batch", "1" if dry else "2", *patch, *only),
        bench("memory", "memory", 400, "-dtype", half, "-batch", "1" if dry else "2", *patch, *only),
        tests("training", 300, DRY, alone=True),
        tests("memory", 600, DRY, alone=True),
    ]


@dataclass
class Exam:
    """Runs steps and keeps what they told"""

    out: Path
    dry: bool
    results: dict[str, dict]

    def run(self, step: Step) -> None:
        self.finish(step, self.start(step))

    def start(self, step: Step) -> tuple[subprocess.Popen[str], float]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (dict(step.environment) if self.dry else {})
        process = subprocess.Popen(
            [sys.executable, *step.command], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        return process, time.monotonic()

    def finish(self, step: Step, started: tuple[subprocess.Popen[str], float]) -> None:
        process, since = started
        try:
            text, _ = process.communicate(timeout=max(1.0, step.seconds - (time.monotonic() - since)))
            state = "ok" if process.returncode == 0 else f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with its workers
            text, state = process.communicate()[0], f"more than {step.seconds} s"
        seconds = round(time.monotonic() - since, 1)
        self.results[step.name] = {"state": state, "seconds": seconds, "output": text.splitlines()[-200:]}
        partial = self.out / "exam.json.partial"
        partial.write_text(json.dumps(self.results, indent=1))
        partial.replace(self.out / "exam.json")
        last = text.strip().splitlines()[-1] if text.strip() else ""
        print(f"{step.name}: {state} in {seconds} s; {last}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every step was"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps: " + ", ".join(_names()))
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny")
    options = parser.parse_args(arguments)
    unknown = set(options.only or ()) - {step.name for step in steps(options.out, options.dry)}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: unknown; steps: {', '.join(_names())}")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    exam = Exam(out, options.dry, {})
    chosen = [step for step in steps(out, options.dry) if not options.only or step.name in options.only]
    together = [step for step in chosen if not step.alone and not options.dry]
    started = [(step, exam.start(step)) for step in together]
    for step, process in started:
        exam.finish(step, process)
    for step in chosen:
        if step not in together:
            exam.run(step)
    return 0 if all(result["state"] == "ok" for result in exam.results.values()) else 1


def _names() -> list[str]:
    return list(dict.fromkeys(step.name for dry in (False, True) for step in steps(Path(), dry)))


if __name__ == "__main__":
    sys.exit(main())
