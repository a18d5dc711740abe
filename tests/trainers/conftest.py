"""Folders and settings for trainings within the test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainers.tiny import write_preprocessed


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders, which it reads from the environment when it needs them."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_wandb_enabled", "0")
    for name in ("nnUNet_mamba_precision", "nnUNet_mamba_seed"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def dataset(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of five preprocessed cases, batches made in this process."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return write_preprocessed(folders)


@pytest.fixture(autouse=True)
def _switches_as_before() -> Iterator[None]:
    """A seeded training turns on what is deterministic for its whole process."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
