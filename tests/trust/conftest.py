"""nnU-Net's folders with a small cross-validation in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust import small_validation


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_compile", "f")
    return tmp_path


@pytest.fixture
def model(root: Path) -> Path:
    """Folder of a model with two folds, mirrored along two axes: four passes"""
    small_validation.write_cases(root)
    return small_validation.write_model(root / "nnUNet_results")
