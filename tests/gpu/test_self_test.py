"""The self-test accepts the kernels in every dtype, with TF32 products and without, and says that it compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_mamba.ops import backends, self_test
from tests.gpu.conftest import DRY

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64] if not DRY else [torch.float32]


@pytest.mark.parametrize("op", ["oriented_scan", "oriented_ssd"])
@pytest.mark.parametrize("channels", [96, 192] if not DRY else [4])
@pytest.mark.parametrize("tf32", [False, True] if not DRY else [False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_verdicts(
    dtype: torch.dtype, tf32: bool, channels: int, op: str, device: torch.device,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(self_test.SWITCH, raising=False)
    if DRY:
        monkeypatch.setattr(self_test, "LONG", 42)
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
    self_test.forget()
    self_test._say_that_it_compiles.cache_clear()
    x = torch.zeros(2, 64 if not DRY else 8, channels, device=device, dtype=dtype)
    module = backends.load(op, "triton")
    problems = [self_test.problem(op, "triton", module, part, x) for part in ("forward", "backward")]
    torch.backends.cuda.matmul.allow_tf32 = before
    assert problems == [None, None]
    if not DRY:
        assert "compiling and testing the Triton kernels" in capfd.readouterr().err
    self_test.forget()
