"""Files of others are read without running code in them, and what is not a checkpoint is named."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import checkpoints, released
from nnunet_mamba.nnunet_folders import FoldFolder
from nnunet_mamba.study.comparison.training import read_fold
from tests.stock_plans import DATASET_JSON, stock_plans

UMAMBA = {"input_channels": 1, "num_classes": 3, "features_per_stage": [4, 8, 8], "kernel_sizes": [[3, 3, 3]] * 3,
          "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}  # fmt: skip


class RunsCode:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def nnunet_checkpoint(path: Path, weights: dict[str, torch.Tensor], **more: Any) -> Path:
    """Written by stock nnU-Net's own save_checkpoint, with what a training of two epochs has logged."""
    os.environ.setdefault("nnUNet_results", str(path.parent))
    trainer: Any = nnUNetTrainer.__new__(nnUNetTrainer)
    network = torch.nn.Module()
    network.state_dict = lambda: weights  # type: ignore[method-assign, assignment]
    logged = {"mean_fg_dice": [np.float64(0.5), np.float64("nan")], "ema_fg_dice": [np.float64(0.5)] * 2,
              "dice_per_class_or_region": [[np.float64(0.4), np.float64(0.6)]] * 2,
              "train_losses": [np.float32(0.1)] * 2, "val_losses": [np.float32(0.2)] * 2, "lrs": [0.01, 0.009],
              "epoch_start_timestamps": [1.0, 3.0], "epoch_end_timestamps": [2.0, 5.0]}  # fmt: skip
    trainer.local_rank, trainer.disable_checkpointing, trainer.is_ddp = 0, False, False
    trainer.network, trainer.grad_scaler = network, None
    trainer.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    trainer.logger = type("Logger", (), {"get_checkpoint": lambda self: logged})()
    trainer._best_ema, trainer.current_epoch = np.float64(0.5), 1
    trainer.my_init_kwargs = {"plans": stock_plans(), "configuration": "3d_fullres", "fold": 0,
                              "dataset_json": DATASET_JSON, "device": torch.device("cuda")}  # fmt: skip
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    trainer.save_checkpoint(str(path))
    if more:
        torch.save({**torch.load(path, weights_only=False), **more}, path)
    return path


def test_nnunets_own_checkpoints_are_read(tmp_path: Path) -> None:
    network = released.build("umamba_bot", **UMAMBA)
    path = nnunet_checkpoint(tmp_path / "checkpoint_final.pth", network.state_dict())
    loaded = released.load_released(path, strides=UMAMBA["strides"])
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in network.state_dict().items())
    assert checkpoints.read(path)["logging"]["train_losses"] == [np.float32(0.1)] * 2


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "value", [np.float64(1), np.float32(2), np.float16(3), np.int64(-4), np.uint8(5), np.bool_(True), np.arange(6.0)]
)
def test_numpy_numbers_are_read(tmp_path: Path, value: Any, zipped: bool) -> None:
    torch.save({"a": value, "b": b"bytes"}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    content = checkpoints.read(tmp_path / "c.pth", mmap=True)
    assert np.array_equal(content["a"], value)
    assert content["a"].dtype == value.dtype
    assert content["b"] == b"bytes"


def test_the_names_of_numpy_1_are_read(tmp_path: Path) -> None:
    """As checkpoints of trainings with NumPy 1 have them."""
    torch.save({"a": np.float64(1.5)}, tmp_path / "new.pth", pickle_module=_OldNames)
    assert b"numpy.core.multiarray" in (tmp_path / "new.pth").read_bytes()
    assert checkpoints.read(tmp_path / "new.pth")["a"] == 1.5


class _NamingAsNumPy1(pickle._Pickler):  # type: ignore[name-defined]
    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__module__", "") == "numpy._core.multiarray":
            self.write(f"cnumpy.core.multiarray\n{obj.__name__}\n".encode())  # type: ignore[attr-defined]
            self.memoize(obj)  # type: ignore[attr-defined]
        else:
            super().save_global(obj, name)  # type: ignore[misc]


_plain = pickle._Pickler.save_global  # type: ignore[attr-defined]
_NamingAsNumPy1.dispatch = {
    kind: _NamingAsNumPy1.save_global if method is _plain else method
    for kind, method in pickle._Pickler.dispatch.items()  # type: ignore[attr-defined]
}


class _OldNames:
    """Stands for the module pickle."""

    dumps, Pickler = pickle.dumps, _NamingAsNumPy1


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"network_weights": {}, "x": RunsCode(ran)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth holds an object of \w+\.open, and reading that could run code"):
        released.read_weights(tmp_path / "bad.pth")
    assert not ran.exists()


def test_a_report_on_others_results_runs_nothing_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran, folder = tmp_path / "ran", tmp_path / "fold_2"
    folder.mkdir()
    nnunet_checkpoint(folder / "checkpoint_final.pth", {"a": torch.zeros(7)})
    honest = read_fold(FoldFolder(folder))
    assert (honest.parameters, honest.epochs, honest.seconds) == (7, 2, 3.0)
    nnunet_checkpoint(folder / "checkpoint_final.pth", {"a": torch.zeros(7)}, extra=RunsCode(ran))
    record = read_fold(FoldFolder(folder))
    assert not ran.exists()
    assert (record.fold, record.parameters, record.curves) == (2, 0, {})
    assert "could run code" in capsys.readouterr().out


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/readme.txt", "hello")


DAMAGED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: p.write_text("<!DOCTYPE html><title>Google Drive - Virus scan warning</title>"), "is a web page, not a"),
    (lambda p: p.write_text("\n  <html>"), "is a web page"),
    (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "is a pointer of Git LFS"),
    (lambda p: p.write_text('{"message": "not found"}'), r"is a text file, not a checkpoint; it begins with '\{\"mess"),
    (lambda p: p.write_bytes(b""), "is empty: the download or copy failed"),
    (_cut, "is cut off after 0.0 MB: copy or download it again"),
    (_zip_of_text, "is a zip archive without a checkpoint"),
    (lambda p: p.write_bytes(b"\x1f\x8b\x08rest"), "is a gzip file, not a checkpoint: unpack it"),
    (lambda p: p.write_bytes(bytes(range(128, 256)) * 9), "is damaged, or no checkpoint"),
    (lambda p: p.unlink(), ": no such file"),
    (lambda p: (p.unlink(), p.mkdir()), "is a folder; name the file in it"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_what_is_no_checkpoint_is_called_by_its_name(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {"a": torch.zeros(5000)}}, path)
    damage(path)
    with pytest.raises(ValueError, match=rf"weights\.pt ?{message}") as error:
        released.load_released(path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(5)}, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"weights\.pt: Permission denied: it belongs to somebody else"):
        checkpoints.read(path)


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(5)}, path)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        checkpoints.read(path)


def test_the_advice_on_files_that_could_run_code_makes_files_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"a": torch.arange(3.0)}
    torch.save({"network_weights": weights, "x": RunsCode(tmp_path / "ran")}, "bad.pth")
    with pytest.raises(ValueError, match="could run code") as error:
        checkpoints.read("bad.pth")
    (advice,) = re.findall(r"torch\.save\(.*\)", str(error.value))
    exec(advice, {"torch": torch, "FILE": "bad.pth", "NEW": "good.pth"})
    assert torch.equal(released.read_weights("good.pth")["a"], weights["a"])
    assert torch.equal(checkpoints.read("good.pth")["network_weights"]["a"], weights["a"])


@given(share=st.floats(0, 0.999), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_a_sentence_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, share: float, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "weights.pt"
    torch.save({"state_dict": {"a": torch.arange(50.0)}, "epoch": np.float64(3)}, path)
    content = bytearray(path.read_bytes())
    place = int(share * len(content))
    path.write_bytes(
        content[:place] if cut else content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    )
    said = ""
    try:
        checkpoints.read(path)
    except ValueError as error:
        said = str(error)
    assert said == "" or (said.startswith(str(path)) and "\n" not in said)


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    page, plans = tmp_path / "segmamba.pt", tmp_path / "plans.json"
    page.write_text("<!DOCTYPE html>")
    plans.write_text("{}")
    command = [sys.executable, "-m", "nnunet_mamba.cli.main", "convert-checkpoint", str(page), "--pretrained",
               str(tmp_path / "out.pth"), "--plans", str(plans)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "plans.json is not nnU-Net plans" in run.stderr
    assert "Traceback" not in run.stderr
