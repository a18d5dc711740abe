"""When Triton can run, asked of machines that are not here: what it lacks is said, and looked for once."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from nnunet_mamba.ops.kernels import triton_support


def _tensor(*shape: int, device: str = "cuda") -> Any:
    return SimpleNamespace(shape=shape, device=SimpleNamespace(type=device))


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as a fresh process has it, on a machine with everything that Triton needs"""
    spec = importlib.util.spec_from_file_location("freshtriton_support", triton_support.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module.Path, "exists", lambda path: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    return module


def test_the_disk_is_asked_once(support: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`why_not` is on the way of every call of every operator."""
    asked = []
    monkeypatch.setattr(support, "find_spec", lambda name: asked.append(name) or object())
    monkeypatch.setattr(shutil, "which", lambda name: asked.append(name) or f"/usr/bin/{name}")
    monkeypatch.setattr(support.Path, "exists", lambda path: asked.append(path.name) or True)
    for length in range(1, 100):
        assert support.why_not(_tensor(1, 2, length), 2) is None
    assert asked == ["triton", "gcc", "Python.h"]


def test_what_depends_on_the_tensor_is_asked_of_each(support: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert support.why_not(_tensor(1, 2, 3), 2) is None
    assert support.why_not(_tensor(1, 2, 3, device="mps"), 2) == "needs a CUDA or ROCm tensor, got mps"
    longest = support.LONGEST
    assert support.why_not(_tensor(1, 2, longest), 2) is None
    assert "tokens are more than" in support.why_not(_tensor(1, 2, longest + 1), 2)
    assert support.why_not(_tensor(1, 2, longest + 1), 1) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert support.why_not(_tensor(1, 2, 3), 2) == "needs a GPU of compute capability 7.5 or newer, got an old card"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert support.why_not(_tensor(1, 2, 3), 2) is None, "AMD counts otherwise"


def test_a_missing_package(support: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    assert support.why_not(_tensor(1, 2, 3), 2) == "triton is not installed: pip install triton"


@pytest.mark.parametrize(
    ("distribution", "installed", "runs"),
    [
        ("triton", "3.2.0", False),
        ("triton", "2.3.1", False),
        ("triton", "3.3.0", True),
        ("triton", "3.10.1+git1234", True),
        ("triton", "4.0.0", True),
        ("triton-windows", "3.2.0.post21", False),
        ("pytorch-triton-rocm", "3.3.1", True),
        ("another", "1.0", True),
    ],
)
def test_a_triton_that_cannot_compile_the_kernels(
    support: ModuleType, monkeypatch: pytest.MonkeyPatch, distribution: str, installed: str, runs: bool
) -> None:
    def version(name: str) -> str:
        if name == distribution:
            return installed
        raise PackageNotFoundError(name)

    monkeypatch.setattr(support, "version", version)
    reason = support.why_not(_tensor(1, 2, 3), 2)
    assert (reason is None) == runs
    assert runs or reason == (f"needs triton 3.3 or newer, got {installed}: pip install -U torch brings one along")


@pytest.mark.parametrize(("there", "variable", "runs"), [((), "", False), (("clang",), "", True), ((), "tcc", True)])
def test_a_missing_compiler(
    support: ModuleType, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], variable: str, runs: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setenv("CC", variable)
    reason = support.why_not(_tensor(1, 2, 3), 2)
    assert (reason is None) == runs
    assert runs or "install gcc or clang, or set the environment variable CC" in reason


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_missing_headers(support: ModuleType, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Triton's builds for Windows bring a compiler along."""
    monkeypatch.setattr(support.Path, "exists", lambda path: False)
    monkeypatch.setattr(sys, "platform", platform)
    reason = support.why_not(_tensor(1, 2, 3), 2)
    assert (reason is None) == (platform == "win32")
    assert reason is None or "install the python3-dev package" in reason


def test_products_of_doubles_need_a_newer_triton(support: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    x = _tensor(1, 2, 3)
    x.dtype = torch.float64
    monkeypatch.setattr(support, "version", lambda name: "3.3.1")
    assert support.why_not(x, 2) is None
    assert support.why_not(x, 2, multiplies=True) == "needs triton 3.6 or newer for float64, got 3.3.1"
    x.dtype = torch.float32
    assert support.why_not(x, 2, multiplies=True) is None
