"""The planner's estimate beside what a training step takes on the device, for every network."""

from __future__ import annotations

import pytest
import torch

from nnunet_mamba.benchmarks import memory
from nnunet_mamba.planning.memory.training_step import CPU, Device
from tests.gpu.conftest import DRY

NAMES = memory.select(()) if not DRY else ["SegMamba"]
TOO_LOW, TOO_HIGH = 0.97, 1.05


@pytest.mark.parametrize("name", NAMES)
def test_estimate(name: str) -> None:
    """128^3 in bfloat16 where the card has room for it, else 64^3. The estimate may be 5 % high and 3 % low."""
    device = CPU if DRY else Device("cuda", torch.bfloat16)
    edge = 32 if DRY else 128 if torch.cuda.get_device_properties(0).total_memory > 44e9 else 64
    case = memory.given_case(name, (edge,) * 3, 2, 1, 4, device)
    (row,) = memory.run([case], device.type, lambda text: None)
    assert row.measured is not None, row.note
    ratio = case.estimated / row.measured
    assert (0.85 if DRY else TOO_LOW) <= ratio <= (1.15 if DRY else TOO_HIGH), f"{ratio:.3f}: {row}"
