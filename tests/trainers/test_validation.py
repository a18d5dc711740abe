"""nnU-Net's final validation with the network compiled for training, in fp16: as good as a later prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch._dynamo.utils import counters

from nnunet_mamba.trainers import fold_lock
from tests.trainers.tiny import make, without_pictures

NAMES = ("nnUNetTrainerSegMamba", "nnUNetTrainerUMambaEnc")


def keep_logits(logits: torch.Tensor, *arguments: Any) -> None:
    """In nnU-Net's place, in its own process: what would be written as a segmentation."""
    target = next(a for a in arguments if isinstance(a, str))
    np.save(f"{target}.npy", logits.numpy())


def _not_normalised(folder: Path) -> None:
    """Images up to 1e5, as without nnU-Net's normalisation: within fp16 only after the first norm."""
    for path in folder.glob("case?.b2nd"):
        image = blosc2.open(str(path))[:] * 3e4
        path.unlink()
        blosc2.asarray(image, urlpath=str(path), chunks=image.shape, blocks=image.shape)


@pytest.fixture
def validated(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Validation of a compiled trainer in fp16, by its name: the logits of its cases."""
    _not_normalised(dataset)
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: plain(model, backend="eager"))
    monkeypatch.setattr(predict_from_raw_data, "dummy_context", lambda: torch.autocast("cpu", dtype=torch.float16))
    monkeypatch.setattr(nnunet_module, "default_num_processes", 1)
    monkeypatch.setattr(nnunet_module, "export_prediction_from_logits", keep_logits)
    monkeypatch.setattr(
        nnunet_module, "compute_metrics_on_folder", lambda *_, **__: {"mean": {}, "foreground_mean": {"Dice": 0.0}}
    )

    def run(name: str, compiled: bool = True) -> dict[str, np.ndarray]:
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        trainer = without_pictures(make(name))
        trainer._do_i_compile = lambda: compiled  # nnU-Net compiles on GPUs only
        trainer.initialize()
        trainer.perform_actual_validation()
        folder = Path(trainer.output_folder)
        assert not (folder / fold_lock.LOCK).exists()
        return {path.stem: np.load(path) for path in (folder / "validation").glob("*.npy")}

    return run


@pytest.mark.parametrize("name", NAMES)
def test_overflow_in_a_compiled_validation_falls_back(validated: Any, name: str) -> None:
    logits = validated(name)
    assert counters["stats"]["unique_graphs"] > 0  # it was compiled
    assert set(logits) == {"case3", "case4"}
    assert all(np.isfinite(v).all() for v in logits.values())


def test_compiled_and_eager_validation_agree(validated: Any) -> None:
    compiled, eager = validated(NAMES[0]), validated(NAMES[0], compiled=False)
    assert all(np.array_equal(compiled[case], eager[case]) for case in eager)


def test_the_images_do_overflow(validated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the way back to float32 the logits are no numbers: the tests above would fail."""
    from nnunet_mamba.architectures import overflow

    monkeypatch.setattr(overflow, "_in_fp16", lambda device: False)
    assert not all(np.isfinite(v).all() for v in validated(NAMES[0]).values())
