"""A backend that computes something wrong on this machine is found out before its first result is used."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nnunet_mamba.ops import backends, causal_conv1d, oriented_scan, selective_scan, self_test
from nnunet_mamba.ops.self_test import BACKWARD, CASES, FORWARD
from tests.ops.cases import as_leaves, conv_inputs, cpu_backends, gradients, relative_error, scan_inputs, tri_inputs

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def test_operators_that_networks_call_come_before_those_they_are_made_of() -> None:
    assert tuple(CASES) == ("oriented_scan", "oriented_ssd", "selective_scan", "ssd", "causal_conv1d")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No verdicts from before, none left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(self_test.SWITCH, raising=False)
    monkeypatch.setattr(self_test, "_verdicts", {})
    monkeypatch.setattr(backends, "_reported", set())


def _broken(module: ModuleType, part: str, how) -> ModuleType:
    """The module with one function replaced by one that changes the result."""
    double = ModuleType(module.__name__)
    double.__dict__.update({k: getattr(module, k) for k in ("why_not", "forward", "backward")})
    right = getattr(module, part)
    setattr(double, part, lambda *a: how(right(*a)))
    return double


def _use(monkeypatch: pytest.MonkeyPatch, op: str, name: str, module: ModuleType) -> None:
    load = backends.load
    monkeypatch.setattr(backends, "load", lambda o, n: module if (o, n) == (op, name) else load(o, n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", [FORWARD, BACKWARD])
@pytest.mark.parametrize("op", CASES)
def test_every_backend_passes(op: str, part: str, dtype: torch.dtype) -> None:
    like = torch.zeros(1, 1, 1, dtype=dtype)
    for name in cpu_backends(op):
        assert self_test.problem(op, name, backends.load(op, name), part, like) is None


def test_wrong_result_sends_auto_to_the_next_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scan_inputs(1, 4, 3, 20, torch.float32)
    expected = selective_scan(**inputs, backend="reference")
    module = backends.load("selective_scan", "numba")
    _use(monkeypatch, "selective_scan", "numba", _broken(module, FORWARD, lambda r: (r[0] * 1.001, r[1])))
    with pytest.warns(UserWarning, match=r"runs on the 'blocked' backend \(numba: its self-test gave a wrong result"):
        got = selective_scan(**inputs)
    assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", [FORWARD, BACKWARD])
def test_a_tenth_off_is_noticed_in_every_precision(part: str, dtype: torch.dtype) -> None:
    def off(result):
        first, *rest = result
        return (first + first.abs().max() / 10, *rest)

    module, like = backends.load("oriented_scan", "blocked"), torch.zeros(1, 1, 1, dtype=dtype)
    message = self_test.problem("oriented_scan", "other", _broken(module, part, off), part, like)
    assert message is not None
    assert "self-test gave a wrong" in message
    assert "error 0.1" in message
    assert f"in {dtype}, allowed" in message


def test_wrong_result_of_a_named_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = backends.load("oriented_scan", "blocked")
    _use(monkeypatch, "oriented_scan", "blocked", _broken(module, FORWARD, lambda r: (r[0] + 1, r[1])))
    inputs = tri_inputs(1, 12, 4, 3, 1, 4, orders=3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"'blocked' was asked for .* self-test gave a wrong result on cpu"):
        oriented_scan(**inputs, n_slices=3, backend="blocked")


@pytest.mark.parametrize(
    ("op", "index"), [(op, i) for op, n in (("oriented_scan", 9), ("oriented_ssd", 7), ("ssd", 7)) for i in range(n)]
)
def test_every_wrong_gradient_is_noticed(op: str, index: int) -> None:
    def change(grads):
        return [g * 1.01 if i == index else g for i, g in enumerate(grads)]

    module = _broken(backends.load(op, "blocked"), BACKWARD, change)
    like = torch.zeros(1, 1, 1)
    assert self_test.problem(op, "other", module, FORWARD, like) is None
    message = self_test.problem(op, "other", module, BACKWARD, like)
    assert message is not None
    assert f"gradient {index}" in message


def test_nan_and_crashes_are_refused_too() -> None:
    def crash(_):
        raise RuntimeError("no kernel image is available\nfor execution")

    module, like = backends.load("causal_conv1d", "blocked"), torch.zeros(1, 1, 1)
    nan = self_test.problem("causal_conv1d", "a", _broken(module, FORWARD, lambda y: y * float("nan")), FORWARD, like)
    assert nan is not None
    assert "wrong result" in nan
    crashed = self_test.problem("causal_conv1d", "b", _broken(module, FORWARD, crash), FORWARD, like)
    assert crashed == "its self-test failed with RuntimeError: no kernel image is available"


def test_a_pass_is_remembered_by_later_processes_a_failure_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    module, like, runs = backends.load("causal_conv1d", "blocked"), torch.zeros(1, 1, 1), []
    counted = _broken(module, FORWARD, lambda y: (runs.append(1), y)[1])
    for _ in range(2):  # one process
        assert self_test.problem("causal_conv1d", "blocked", counted, FORWARD, like) is None
    self_test.forget()
    assert self_test.problem("causal_conv1d", "blocked", counted, FORWARD, like) is None
    assert len(runs) == 1, "the second process found the mark"

    monkeypatch.setattr(self_test, "_version", lambda name: "another")
    self_test.forget()
    assert self_test.problem("causal_conv1d", "blocked", counted, FORWARD, like) is None
    assert len(runs) == 2, "other versions are tested again"

    wrong = _broken(module, FORWARD, lambda y: (runs.append(1), y + 1)[1])
    for count in (3, 4):
        self_test.forget()
        assert self_test.problem("causal_conv1d", "wrong", wrong, FORWARD, like) is not None
        assert len(runs) == count


def test_an_unusable_cache_folder_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    inputs = as_leaves(conv_inputs(1, 3, 4, 9, torch.float32))
    y = causal_conv1d(**inputs, backend="blocked")
    assert gradients(y, inputs)["x"].isfinite().all()


def test_that_triton_compiles_is_said_once_whatever_has_to_pass(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class OnAGPU:
        """As much of a tensor on a GPU as the test looks at before it computes"""

        device = torch.device("cuda", 0)

        def __init__(self, dtype: torch.dtype):
            self.dtype = dtype

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card of this test")
    monkeypatch.setattr(self_test, "_compare", lambda *arguments: None)
    monkeypatch.setattr(self_test, "_mark", lambda *arguments: None)
    for dtype in (torch.float32, torch.float16):
        assert self_test.problem("ssd", "triton", ModuleType("triton"), "forward", OnAGPU(dtype)) is None
    self_test.forget()
    assert capfd.readouterr().err.count("compiling and testing the Triton kernels for A card of this test") == 1


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(self_test.SWITCH, "0")
    broken = _broken(backends.load("causal_conv1d", "blocked"), FORWARD, lambda y: y + 1)
    assert self_test.problem("causal_conv1d", "blocked", broken, FORWARD, torch.zeros(1, 1, 1)) is None


def test_leaves_the_programs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    self_test.problem(
        "oriented_scan", "blocked", backends.load("oriented_scan", "blocked"), BACKWARD, torch.zeros(1, 1, 1)
    )
    assert torch.equal(torch.rand(3), expected)


def test_works_where_another_device_is_the_default() -> None:
    inputs = conv_inputs(1, 3, 4, 9, torch.float32)
    with torch.device("meta"):
        y = causal_conv1d(**inputs, backend="blocked")
    assert y.device.type == "cpu"
    folder = self_test.cache_folder()
    assert folder is not None
    assert list(folder.iterdir()), "the test ran"


def test_is_quick() -> None:
    module, like = backends.load("oriented_scan", "blocked"), torch.zeros(1, 1, 1)
    start = time.perf_counter()
    assert self_test.problem("oriented_scan", "blocked", module, FORWARD, like) is None
    assert self_test.problem("oriented_scan", "blocked", module, BACKWARD, like) is None
    # about 0.2 s on a quiet machine; 5 s would be felt by everybody who starts a prediction
    assert time.perf_counter() - start < 5
