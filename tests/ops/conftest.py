"""Fixtures of the op tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch):
    """Fresh memory holds NaN instead of what happened to be there: an element nobody writes cannot look right."""
    for name in ("empty", "empty_like"):
        allocate = getattr(np, name)

        def poisoned(*args, allocate=allocate, **kwargs):
            array = allocate(*args, **kwargs)
            if array.dtype.kind == "f":
                array.fill(np.nan)
            return array

        monkeypatch.setattr(np, name, poisoned)
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
