"""What only a GPU shows: `make test-gpu`. Without one everything here is skipped.

With NNUNET_MAMBA_GPU_TESTS=dry what can be run on a CPU, in Triton's interpreter and on tiny sizes, is: the tests must
not rot until a GPU is at hand (tests/ops/test_gpu_tests_run_dry.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
DRY = os.environ.get("NNUNET_MAMBA_GPU_TESTS") == "dry"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker("gpu")
        if item.get_closest_marker("card"):
            available = torch.cuda.is_available() and not DRY
        else:
            available = torch.cuda.is_available() or DRY
        if not available:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device"))


@pytest.fixture
def device() -> torch.device:
    """The GPU; in a dry run the CPU"""
    return torch.device("cpu" if DRY else "cuda")


@pytest.fixture
def second_device() -> torch.device:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second CUDA device")
    return torch.device("cuda", 1)
