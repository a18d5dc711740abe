"""The ops are good torch citizens: gradients, fake kernels, compilation; and they refuse what cannot work by name."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nnunet_mamba.ops import backends, causal_conv1d, oriented_scan, selective_scan
from tests.ops.cases import as_leaves, conv_inputs, cpu_backends, gradients, scan_inputs, tri_inputs

OPS = torch.ops.nnunet_mamba
oriented_scan_package = import_module("nnunet_mamba.ops.oriented_scan")  # the name in nnunet_mamba.ops is the function


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_gradcheck(backend: str) -> None:
    scan, conv, tri = (
        as_leaves(t) for t in (scan_inputs(2, 2, 3, 5), conv_inputs(2, 2, 4, 5), tri_inputs(1, 6, 2, 2, 1, 3, orders=3))
    )
    check = torch.autograd.gradcheck
    assert check(lambda *t: selective_scan(*t, True, backend=backend), tuple(scan.values()))
    assert check(lambda *t: causal_conv1d(*t, "silu", backend=backend), tuple(conv.values()))
    assert check(lambda *t: oriented_scan(*t, n_slices=3, backend=backend), tuple(tri.values()))


def test_opcheck() -> None:
    scan = as_leaves(scan_inputs(2, 3, 4, 10, torch.float32))
    torch.library.opcheck(OPS.selective_scan.default, (*scan.values(), True, "auto"))
    scan.update(D=None, z=None, delta_bias=None)
    torch.library.opcheck(OPS.selective_scan.default, (*scan.values(), False, "auto"))
    conv = as_leaves(conv_inputs(2, 3, 4, 10, torch.float32))
    torch.library.opcheck(OPS.causal_conv1d.default, (*conv.values(), True, "auto"))
    tri = as_leaves(tri_inputs(2, 12, 4, 3, 1, 4, orders=3, dtype=torch.float32))
    torch.library.opcheck(OPS.tri_scan.default, (*tri.values(), "fbs", 4, "auto"))


@pytest.mark.parametrize("backend", ["numba", "blocked"])
@pytest.mark.parametrize("length", [255, 256, 257, 512])
def test_fake_tensors_have_the_shapes_of_real_ones(length: int, backend: str) -> None:
    """Around whole chunks of saved states"""
    scan = scan_inputs(1, 2, 2, length, torch.float32)
    check = {"test_utils": ["test_faketensor"]}
    torch.library.opcheck(OPS.selective_scan.default, (*scan.values(), True, backend), **check)
    tri = tri_inputs(1, length, 2, 2, 1, 4, orders=2, dtype=torch.float32)
    torch.library.opcheck(OPS.tri_scan.default, (*tri.values(), "fb", 1, backend), **check)


def test_compiles_whole_with_the_same_gradients() -> None:
    tri = as_leaves(tri_inputs(1, 12, 4, 3, 1, 4, orders=3))

    def block(*tensors):
        return oriented_scan(*tensors, n_slices=3).sin() * 2

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    a, b = block(*tri.values()), compiled(*tri.values())
    assert torch.equal(a, b)
    wanted = gradients(a, tri)
    for name, grad in gradients(b, tri).items():
        assert torch.equal(grad, wanted[name]), name


def _scan(**changes):
    return selective_scan(**{**scan_inputs(2, 3, 4, 10, torch.float32), **changes})


def _tri(orders="fbs", n_slices=3, **changes):
    tensors = tri_inputs(2, 12, 4, 3, 1, 4, orders=3, dtype=torch.float32)
    return oriented_scan(**{**tensors, **changes}, orders=orders, n_slices=n_slices)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _scan(u=torch.zeros(2, 3)), r"u has shape \(2, 3\); expected \(b d l\)"),
        (lambda: _scan(u=torch.zeros(2, 3, 0)), "l >= 1"),
        (lambda: _scan(B=torch.zeros(2, 4, 9)), r"B has shape \(2, 4, 9\); expected \(b n l\) = \(2, 4, 10\)"),
        (lambda: _scan(z=torch.zeros(2, 3, 10, dtype=torch.long)), "z has dtype torch.int64"),
        (lambda: _scan(delta_bias=torch.zeros(4)), r"delta_bias has shape \(4,\)"),
        (lambda: _scan(D=torch.zeros(3, device="meta")), "D is on meta"),
        (lambda: _scan(A=torch.ones(3, 4)), "A has positive entries"),
        (lambda: _scan(A=torch.eye(3, 4) - 0.5), r"A has positive entries \(largest 0.5\)"),
        (lambda: _scan(backend="cuda"), "backend='cuda' is unknown; known: auto, "),
        (lambda: causal_conv1d(torch.zeros(1, 2, 3), torch.zeros(2, 4), activation="relu"), "'relu' is unknown"),
        (lambda: causal_conv1d(torch.zeros(1, 2, 3), torch.zeros(3, 4)), r"weight has shape \(3, 4\); expected"),
        (lambda: _tri(n_slices=5), "12 tokens cannot be cut into n_slices=5"),
        (lambda: _tri(n_slices=0), "12 tokens cannot be cut into n_slices=0"),
        (lambda: _tri(n_slices=-3), "12 tokens cannot be cut into n_slices=-3"),
        (lambda: _tri(orders="fbx"), "orders='fbx'"),
        (lambda: _tri(orders=""), "orders=''"),
        (lambda: _tri(orders="fb"), "conv_weight has shape"),
        (lambda: _tri(z=torch.zeros(2, 12, 5)), r"z has shape \(2, 12, 5\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_environment_variable_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 1, 1)
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert backends.choose("oriented_scan", "auto", x).__name__.endswith("reference")
    assert backends.choose("oriented_scan", "blocked", x).__name__.endswith("blocked")
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "nonsense")
    with pytest.raises(ValueError, match="nnUNet_mamba_backend='nonsense' is unknown"):
        backends.choose("oriented_scan", "auto", x)


def test_named_backend_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module = backends.load("oriented_scan", "blocked")
    monkeypatch.setattr(module, "why_not", lambda x: "the moon is full")
    with pytest.raises(ValueError, match=r"'blocked' was asked for .* the moon is full"):
        backends.choose("oriented_scan", "blocked", torch.zeros(1, 1, 1))


def test_automatic_fallback_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in backends.PREFERENCE["cpu"][:-1]:
        monkeypatch.setattr(backends.load("oriented_scan", name), "why_not", lambda x: "out of order")
    monkeypatch.setattr(backends, "_reported", set())
    with pytest.warns(UserWarning, match="out of order"):
        assert backends.choose("oriented_scan", "auto", torch.zeros(1, 1, 1)).__name__.endswith("reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.choose("oriented_scan", "auto", torch.zeros(1, 1, 1))


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A backend that `oriented_scan` has and the other ops have not, the first of the CPU's list"""
    module = ModuleType("nnunet_mamba.ops.oriented_scan.swift")
    blocked = backends.load("oriented_scan", "blocked")
    module.__dict__.update(why_not=lambda x: None, forward=blocked.forward, backward=blocked.backward)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(backends.PREFERENCE, "cpu", ("swift", *backends.PREFERENCE["cpu"]))
    monkeypatch.setattr(backends, "_reported", set())
    return module


@pytest.mark.usefixtures("swift")
def test_a_backend_may_exist_for_one_op_only() -> None:
    x = torch.zeros(1, 1, 1)
    assert backends.explain("oriented_scan", x)["swift"] == "ok"
    assert backends.explain("causal_conv1d", x)["swift"] == "causal_conv1d has no such backend"
    with pytest.raises(ValueError, match="causal_conv1d has no such backend"):
        backends.load("causal_conv1d", "swift")
    with pytest.raises(ValueError, match=r"'swift' was asked for \(backend\) but .* has no such backend"):
        causal_conv1d(torch.zeros(1, 2, 3), torch.zeros(2, 4), backend="swift")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numba is the best that this op has: nothing to report
        assert backends.choose("causal_conv1d", "auto", x).__name__.endswith("numba")
    assert backends.choose("oriented_scan", "auto", x).__name__.endswith("swift")


def test_a_package_that_a_backend_misses_is_not_taken_for_a_missing_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import a_package_that_nobody_has")
    monkeypatch.setattr(oriented_scan_package, "__path__", [*oriented_scan_package.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        backends.load("oriented_scan", "needy")


@pytest.mark.parametrize("how", ["", "auto"])
def test_an_empty_environment_variable_is_none(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, how)
    assert backends.choose("oriented_scan", "auto", torch.zeros(1, 1, 1)).__name__.endswith("numba")


def test_every_op_reports_its_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_reported", set())
    for op in ("oriented_scan", "selective_scan"):
        monkeypatch.setattr(backends.load(op, "numba"), "why_not", lambda x: "out of order")
        with pytest.warns(UserWarning, match=f"{op} runs on the 'blocked' backend"):
            backends.choose(op, "auto", torch.zeros(1, 1, 1))


def test_autocast_does_not_reach_inside() -> None:
    tri = tri_inputs(1, 12, 4, 3, 1, 4, orders=3, dtype=torch.float32)
    expected = oriented_scan(**tri, n_slices=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(oriented_scan(**tri, n_slices=3), expected)


@pytest.mark.parametrize("backend", ["numba", "blocked"])
def test_autocast_does_not_reach_inside_the_gradient_either(backend: str) -> None:
    """As in a training loop that leaves `backward()` under autocast"""
    tri = as_leaves(tri_inputs(1, 12, 4, 3, 1, 4, orders=3, dtype=torch.float32))
    expected = gradients(oriented_scan(**tri, n_slices=3, backend=backend), tri)
    y = oriented_scan(**tri, n_slices=3, backend=backend)
    cotangent = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(y, list(tri.values()), cotangent)
    for (name, wanted), grad in zip(expected.items(), got, strict=True):
        assert torch.equal(grad, wanted), name
