"""`nnunet-mamba bench ops`: our scans compared with other people's, every one checked against the reference first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nnunet_mamba.benchmarks.measure import Measurement, measure, synchronize
from nnunet_mamba.benchmarks.rivals import Implementation, mixers, ours, scans
from nnunet_mamba.benchmarks.scan_inputs import STATES, make_inputs, make_mamba2_inputs

CHECK_LENGTH = 512
# of the largest value, of y and of every gradient: rounding of sums, and of the format for half types
CHECK_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2, torch.float64: 1e-9}
FORWARD, TRAINING = "forward", "forward + backward"


@dataclass(frozen=True)
class ScanCase:
    """One measured size: channels of the scan, tokens, and for the mixer slices of the inter-slice order."""

    op: str
    batch: int
    channels: int
    length: int
    n_slices: int = 1

    def __str__(self) -> str:
        slices = f", {self.n_slices} slices" if self.op == "mixer" else ""
        return f"{self.op}: batch {self.batch}, {self.channels} channels, {self.length:,} tokens{slices}"


@dataclass(frozen=True)
class ScanRow:
    """One line of a table. seconds and extra_bytes are None where `note` says why."""

    case: str
    part: str
    implementation: str
    seconds: float | None
    extra_bytes: int | None
    error: float | None
    note: str = ""

    def as_json(self) -> dict:
        return asdict(self)


def default_cases(device: torch.device) -> list[ScanCase]:
    """SegMamba's stages for one 128^3 patch (batch 2 on a GPU), deepest last."""
    batch = 2 if device.type == "cuda" else 1
    sizes = [(96, 64), (384, 16), (768, 8)]
    single = [ScanCase("scan", batch, channels, edge**3) for channels, edge in sizes]
    return [*single, *(ScanCase("mixer", batch, channels, edge**3, edge) for channels, edge in sizes)]


def run(
    cases: list[ScanCase], device: torch.device, dtype: torch.dtype, limit: float, say: Callable[[str], None]
) -> Iterator[ScanRow]:
    """Measure every implementation on every case; `limit`: seconds that one call may take, by extrapolation."""
    for case in cases:
        say(str(case))
        for implementation in scans() if case.op == "scan" else mixers():
            yield from _measure(case, implementation, device, dtype, limit)


def _measure(
    case: ScanCase, implementation: Implementation, device: torch.device, dtype: torch.dtype, limit: float
) -> Iterator[ScanRow]:
    def row(part: str, measured: Measurement | None, error: float | None, note: str = "") -> ScanRow:
        seconds, extra = (measured.seconds, measured.extra_bytes) if measured else (None, None)
        return ScanRow(str(case), part, implementation.name, seconds, extra, error, note)

    reason = implementation.why_not(torch.empty(1, 1, 1, device=device, dtype=dtype))
    if reason is not None:
        yield row(FORWARD, None, None, reason)
        return
    try:
        error, seconds_per_token = check(case, implementation, device, dtype)
        if not error <= CHECK_TOLERANCE[dtype]:
            yield row(FORWARD, None, error, f"wrong: error {error:.1e}, allowed {CHECK_TOLERANCE[dtype]:g}")
            return
        inputs = _inputs(case, implementation, device, dtype)
        for part, call in ((FORWARD, _forward), (TRAINING, _training)):
            expected = seconds_per_token[part] * case.length
            most = implementation.most_tokens
            if part == TRAINING and most is not None and case.length > most:
                yield row(part, None, error, f"not run: no end in sight beyond {most:,} tokens")
                continue
            if expected > limit:
                yield row(part, None, error, f"not run: about {expected:.0f} s by extrapolation")
                continue
            yield row(part, measure(lambda call=call: call(implementation, case, inputs), device), error)
    except Exception as failure:  # out of memory, or a rival that does not work here, in whatever way
        yield row(TRAINING, None, None, f"failed: {(str(failure) or type(failure).__name__).splitlines()[0]}")


def check(
    case: ScanCase, implementation: Implementation, device: torch.device, dtype: torch.dtype
) -> tuple[float, dict[str, float]]:
    """Largest error of y and all gradients at a short length against the reference in float64, and seconds per token"""
    length = min(case.length, CHECK_LENGTH)
    slices = case.n_slices if length % case.n_slices == 0 else 1
    short = ScanCase(case.op, case.batch, case.channels, length, slices)
    inputs = _inputs(short, implementation, device, dtype)
    judge = {k: v.detach().cpu().double().requires_grad_() for k, v in inputs.items()}
    wanted = _call(ours(case.op, "reference", implementation.mamba2_states), short, judge)
    grads = torch.autograd.grad(wanted.sum(), list(judge.values()))

    _training(implementation, short, inputs)  # compile
    seconds = {}
    for part, call in ((FORWARD, _forward), (TRAINING, _training)):
        start = time.perf_counter()
        result = call(implementation, short, inputs)
        synchronize(device)
        seconds[part] = (time.perf_counter() - start) / length
    errors = [_error(a, b) for a, b in zip(result, (wanted.detach(), *grads), strict=True)]
    return max(errors), seconds


def _error(got: Tensor, expected: Tensor) -> float:
    difference = (got.detach().cpu().double() - expected).abs().max() / expected.abs().max()
    return float(difference) if difference == difference else float("inf")


def _forward(implementation: Implementation, case: ScanCase, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [_call(implementation, case, inputs)]


def _training(implementation: Implementation, case: ScanCase, inputs: dict[str, Tensor]) -> list[Tensor]:
    y = _call(implementation, case, inputs)
    return [y, *torch.autograd.grad(y.sum(), list(inputs.values()))]


def _call(implementation: Implementation, case: ScanCase, inputs: dict[str, Tensor]) -> Tensor:
    extra = {"n_slices": case.n_slices} if case.op == "mixer" else {}
    return implementation.run(**inputs, **extra)


def _inputs(
    case: ScanCase, implementation: Implementation, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    sizes, states = (case.op, case.batch, case.channels, case.length, device, dtype), implementation.mamba2_states
    return make_inputs(*sizes) if states is None else make_mamba2_inputs(*sizes, states)


def floor_bytes(case: ScanCase, dtype: torch.dtype, part: str) -> int:
    """Bytes that must cross memory at least, for Mamba-1: every input read and every result written once.

    The gradient reads the inputs and grad_y and writes a gradient of every input.
    """
    element = torch.finfo(dtype).bits // 8
    tokens = case.batch * case.length
    per_token = 3 * case.channels + 2 * STATES if case.op == "scan" else 2 * case.channels
    inputs, y = tokens * per_token * element, tokens * case.channels * element
    return inputs + y if part == FORWARD else 2 * (inputs + y) + inputs
