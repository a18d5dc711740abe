"""What the exporter leaves in a process is cleared away, or a long run of tests gets slower and slower."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _without_traces_of_the_exporter() -> Iterator[None]:
    """pytest would collect every line that torch's tracer tells itself"""
    tracer = logging.getLogger("torch.__trace")
    before, tracer.propagate = tracer.propagate, False
    yield
    tracer.propagate = before
    torch._dynamo.reset()
