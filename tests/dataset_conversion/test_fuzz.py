"""Damaged downloads of every kind: refused in words, or what comes out is what went in. See fuzz.py."""

from __future__ import annotations

import pytest

from tests.dataset_conversion.fuzz import KINDS, count

FAST = {"asoca": 4, "brats": 4, "msd": 6}
SLOW = {"asoca": 30, "brats": 30, "msd": 60, "nifti": 100, "nrrd": 200, "mha": 200, "description": 200}


@pytest.mark.parametrize("kind", KINDS)
def test_some_damaged_downloads(kind: str) -> None:
    _, wrong = count(kind, range(FAST.get(kind, 12)))
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_downloads(kind: str) -> None:
    found, wrong = count(kind, range(100, 100 + SLOW[kind]))
    assert not wrong
    assert found["ok"] > 0
    assert found["refused"] > 0
