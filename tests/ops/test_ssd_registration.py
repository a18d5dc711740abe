"""Mamba-2's operators are good torch citizens, and refuse what cannot work by name."""

from __future__ import annotations

import pytest
import torch

from nnunet_mamba.ops import oriented_ssd, ssd
from tests.ops.cases import as_leaves, cpu_backends, gradients, oriented_ssd_inputs, ssd_inputs

OPS = torch.ops.nnunet_mamba


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
def test_gradcheck(backend: str) -> None:
    scan = as_leaves(ssd_inputs(2, 5, 2, 2, 1, 3))
    oriented = as_leaves(oriented_ssd_inputs(1, 6, 2, 1, 2, 2, 3, orders=3))
    check = torch.autograd.gradcheck
    assert check(lambda *t: ssd(*t, True, backend=backend), tuple(scan.values()))
    sizes = {"d_state": 2, "n_groups": 2, "n_slices": 3}
    assert check(lambda *t: oriented_ssd(*t, **sizes, backend=backend), tuple(oriented.values()))


def test_opcheck() -> None:
    scan = as_leaves(ssd_inputs(2, 10, 4, 3, 2, 4, torch.float32))
    torch.library.opcheck(OPS.ssd.default, (*scan.values(), True, "auto"))
    scan.update(D=None, dt_bias=None)
    torch.library.opcheck(OPS.ssd.default, (*scan.values(), False, "auto"))
    oriented = as_leaves(oriented_ssd_inputs(2, 12, 4, 3, 2, 2, 4, orders=3, dtype=torch.float32))
    torch.library.opcheck(OPS.oriented_ssd.default, (*oriented.values(), 2, 2, "fbs", 4, "auto"))


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
@pytest.mark.parametrize("length", [255, 256, 257, 512])
def test_fake_tensors_have_the_shapes_of_real_ones(length: int, backend: str) -> None:
    """Around whole chunks of saved states"""
    scan = ssd_inputs(1, length, 4, 2, 2, 3, torch.float32)
    check = {"test_utils": ["test_faketensor"]}
    torch.library.opcheck(OPS.ssd.default, (*scan.values(), True, backend), **check)
    oriented = oriented_ssd_inputs(1, length, 4, 2, 2, 3, 4, orders=2, dtype=torch.float32)
    torch.library.opcheck(OPS.oriented_ssd.default, (*oriented.values(), 3, 2, "fb", 1, backend), **check)


def test_compiles_whole_with_the_same_gradients() -> None:
    inputs = as_leaves(oriented_ssd_inputs(1, 12, 2, 3, 1, 4, 4, orders=3))

    def block(*tensors):
        return oriented_ssd(*tensors, d_state=4, n_slices=3).sin() * 2

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    a, b = block(*inputs.values()), compiled(*inputs.values())
    assert torch.equal(a, b)
    wanted = gradients(a, inputs)
    for name, grad in gradients(b, inputs).items():
        assert torch.equal(grad, wanted[name]), name


@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
def test_autocast_does_not_reach_inside(backend: str) -> None:
    """Nor inside the gradient, as in a training loop that leaves `backward()` under autocast"""
    inputs = as_leaves(oriented_ssd_inputs(1, 12, 2, 3, 1, 4, 4, orders=3, dtype=torch.float32))

    def results() -> list[torch.Tensor]:
        y = oriented_ssd(**inputs, d_state=4, n_slices=3, backend=backend)
        return [y, *torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def _scan(**changes):
    return ssd(**{**ssd_inputs(2, 10, 4, 3, 2, 5, torch.float32), **changes})


def _oriented(orders="fbs", n_slices=3, d_state=4, n_groups=2, **changes):
    tensors = oriented_ssd_inputs(2, 12, 4, 3, 2, 4, 4, orders=3, dtype=torch.float32)
    sizes = {"orders": orders, "n_slices": n_slices, "d_state": d_state, "n_groups": n_groups}
    return oriented_ssd(**{**tensors, **changes}, **sizes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _scan(x=torch.zeros(2, 3)), r"x has shape \(2, 3\); expected \(b l h p\)"),
        (lambda: _scan(x=torch.zeros(2, 0, 4, 3)), "l, h, p >= 1"),
        (lambda: _scan(B=torch.zeros(2, 10, 5)), r"B has shape \(2, 10, 5\); expected \(b l g n\)"),
        (lambda: _scan(B=torch.zeros(2, 10, 3, 5)), "B has 3 groups, which do not divide x's 4 heads"),
        (lambda: _scan(C=torch.zeros(2, 9, 2, 5)), r"C has shape .*; expected \(b l g n\) = \(2, 10, 2, 5\)"),
        (lambda: _scan(dt=torch.zeros(2, 10, 4, dtype=torch.long)), "dt has dtype torch.int64"),
        (lambda: _scan(dt_bias=torch.zeros(5)), r"dt_bias has shape \(5,\)"),
        (lambda: _scan(D=torch.zeros(4, device="meta")), "D is on meta"),
        (lambda: _scan(A=torch.ones(4)), "ssd: A has positive entries"),
        (lambda: _scan(backend="cuda"), "backend='cuda' is unknown; known: auto, "),
        (lambda: _oriented(n_slices=5), "12 tokens cannot be cut into n_slices=5"),
        (lambda: _oriented(orders="fbx"), "orders='fbx'"),
        (lambda: _oriented(orders="fb"), "conv_weight has shape"),
        (lambda: _oriented(d_state=0), "d_state=0, n_groups=2; expected both at least 1"),
        (lambda: _oriented(d_state=7), "B and C take .* = 28; the other 0 are no multiple of dt's 4 heads"),
        (lambda: _oriented(n_groups=3, d_state=2), "n_groups=3 does not divide dt's 4 heads"),
        (lambda: _oriented(dt=torch.zeros(2, 11, 4)), r"dt has shape \(2, 11, 4\); expected \(b l h\) = \(2, 12, 4\)"),
        (lambda: _oriented(xBC=torch.zeros(2, 28)), r"xBC has shape \(2, 28\); expected \(b l e\+2gn\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
