"""Reading golden cases and rebuilding their parameters and inputs, as tests/data/golden/README.md defines them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

A_LOGS = ("A_log", "A_b_log", "A_s_log")
SKIPS = ("D", "D_b", "D_s", "skip_scale")
DT_PROJECTIONS = ("dt_proj", "dt_proj_b", "dt_proj_s")
DT_BIASES = ("dt_bias", "dt_bias_b", "dt_bias_s")


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    info: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.info["config"]

    @property
    def kind(self) -> str:
        return self.config["kind"]

    def array(self, name: str) -> np.ndarray:
        with np.load(self.folder / f"{self.name}.npz") as arrays:
            return arrays[name].astype(np.float64)

    def keys(self) -> dict[str, list[int]]:
        return json.loads((self.folder / "keys" / f"{self.name}.keys.json").read_text(encoding="utf-8"))

    def input(self) -> Tensor:
        return torch.from_numpy(_normal(f"input:{self.name}", self.info["input_shape"])).double()

    def cotangent(self, index: int, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(_normal(f"cotangent:{self.name}:{index}", shape)).double()


def read_cases(folder: Path) -> list[Case]:
    """All cases of a folder. Raises FileNotFoundError for a folder without any."""
    cases = [
        Case(path.stem, folder, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("*.json"))
        if (folder / f"{path.stem}.npz").exists()
    ]
    if not cases:
        raise FileNotFoundError(f"--golden {folder}: no golden case (NAME.json beside NAME.npz) in this folder")
    return cases


def fill(module: nn.Module) -> None:
    """Give every parameter the value that its name and shape determine."""
    filled = {key: torch.from_numpy(_parameter(key, tuple(value.shape))) for key, value in module.state_dict().items()}
    module.load_state_dict(filled, strict=True)


def named_tensor(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard-normal numbers of kinds `ops` and `ssd`, in float64."""
    return _normal(f"{case.name}:{name}", shape).astype(np.float64)


def compare(case: Case, name: str, got: Tensor, tolerance: float) -> None:
    """Fail unless `got` is within tolerance x max of the stored array, which may hold every k-th value only."""
    about = case.info["outputs"][name]
    assert list(got.shape) == about["shape"] or name == "loss", name
    stored = case.array(name)
    flat = got.detach().double().numpy().reshape(-1)
    if about["stored"] == "strided":
        assert abs(np.abs(flat).sum() - about["abs_sum"]) <= 10 * tolerance * about["abs_sum"], f"{name}: sum"
        flat = flat[:: about["stride"]]
    stored = stored.reshape(-1)
    assert flat.shape == stored.shape, name
    largest = max(abs(about["min"]), abs(about["max"]))
    # the loss of a gradient case is one number that nearly cancels: judged absolutely below 1e-3
    scale = max(largest, 1e-3) if name == "loss" else largest
    assert np.abs(flat - stored).max() <= tolerance * scale, name


def _normal(seed: str, shape: Any) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(seed.encode())).standard_normal(shape).astype(np.float32)


def _parameter(key: str, shape: tuple[int, ...]) -> np.ndarray:
    canonical = key.removeprefix("decoder.") if key.startswith("decoder.encoder.") else key
    canonical = canonical.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")
    g = np.random.RandomState(zlib.crc32(canonical.encode())).standard_normal(shape)
    *before, last = canonical.split(".")
    if last in A_LOGS:
        value = np.log(np.arange(1, shape[-1] + 1)) + 0.05 * g  # per head: one axis
    elif last in SKIPS:
        value = 1 + 0.1 * g
    elif last in DT_BIASES or (last == "bias" and before and before[-1] in DT_PROJECTIONS):
        value = -3 + 0.5 * g
    elif last == "bias":
        value = 0.1 * g
    elif len(shape) == 1:
        value = 1 + 0.1 * g
    else:
        value = g / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)
