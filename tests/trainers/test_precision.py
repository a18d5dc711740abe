"""The number format of a training: chosen, refused, used, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_mamba.trainers import precision
from nnunet_mamba.trainers.precision import choose, training_in
from tests.trainers.tiny import make, without_pictures

CPU, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    def has_bf16(answer: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: answer)

    monkeypatch.delenv(precision.VARIABLE, raising=False)
    return has_bf16


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_trains_in_what_it_has(gpu: Any, has_bf16: bool, expected: str) -> None:
    gpu(has_bf16)
    assert choose(CUDA, None) == expected
    assert choose(CUDA, "fp32") == "fp32"


def test_other_devices_train_in_full_precision(gpu: Any) -> None:
    assert choose(CPU, None) == choose(MPS, None) == "fp32"
    assert choose(CPU, "bf16") == "bf16"


def test_the_environment_decides_where_the_name_does_not(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(True)
    monkeypatch.setenv(precision.VARIABLE, "fp16")
    assert choose(CUDA, None) == choose(CUDA, "fp16") == "fp16"
    with pytest.raises(ValueError, match="precision=fp16, but the trainer's name says _fp32; leave one of them out"):
        choose(CUDA, "fp32")
    monkeypatch.setenv(precision.VARIABLE, "fp8")
    with pytest.raises(ValueError, match="precision=fp8; expected one of bf16, fp16, fp32"):
        choose(CUDA, None)


def test_what_a_device_lacks_is_refused(gpu: Any, folders: Path) -> None:
    gpu(False)
    with pytest.raises(ValueError, match="this GPU computes no bfloat16; take fp16 or fp32"):
        choose(CUDA, "bf16")
    with pytest.raises(ValueError, match="fp16 training on mps"):
        choose(MPS, "fp16")


def test_no_gpu_at_all(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no CUDA GPU; to train on the CPU: .* -device cpu"):
        choose(CUDA, None)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_nnunets_autocast_takes_the_type_from_here(gpu: Any, name: str) -> None:
    """On a GPU nnU-Net opens autocast without a type; then torch's own decides."""
    before = torch.get_autocast_dtype("cuda")
    with training_in(name, CUDA):
        assert torch.autocast("cuda", enabled=False).fast_dtype == precision.DTYPES[name]
    assert torch.get_autocast_dtype("cuda") == before


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_every_step_runs_in_it_and_weights_do_not(dataset: Path, name: str) -> None:
    trainer = without_pictures(make(f"nnUNetTrainerSegMamba_{name}_1epoch_1its"))
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    trainer.initialize()

    def see(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        seen[torch.is_grad_enabled()].add(output.dtype)

    next(m for m in trainer.network.modules() if isinstance(m, torch.nn.Conv3d)).register_forward_hook(see)
    trainer.run_training()
    assert seen == {True: {precision.DTYPES[name]}, False: {precision.DTYPES[name]}}
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert (trainer.grad_scaler is not None) == (name == "fp16")
    assert not torch.is_autocast_enabled("cpu")
