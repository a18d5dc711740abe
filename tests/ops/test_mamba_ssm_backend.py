"""The adapter to mamba-ssm's CUDA extension, against a stand-in that obeys the extension's calling convention.

The extension itself needs a GPU: here its signatures, memory layouts and optional parts are checked, its place taken by
the reference computing in the layout that the extension expects.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from nnunet_mamba.ops import backends, selective_scan
from nnunet_mamba.ops.oriented_scan import mamba_ssm as tri_mamba_ssm
from nnunet_mamba.ops.oriented_scan import reference as tri_reference
from nnunet_mamba.ops.oriented_weights import Weights
from nnunet_mamba.ops.selective_scan import mamba_ssm, reference, reference_adjoint
from tests.ops.cases import relative_error, scan_inputs, tri_inputs


def _tokens_last(u, delta, A, B, C):
    """What `selective_scan_cuda` demands of its arguments, then the reference's layout."""
    batch, channels, length = u.shape
    n = A.shape[1]
    assert delta.shape == u.shape
    assert A.shape == (channels, n)
    assert B.shape == C.shape == (batch, 1, n, length)
    for x in (u, delta, B, C):
        assert x.stride(-1) == 1 or x.shape[-1] == 1
        assert x.dtype == torch.float32
    assert A.is_contiguous()
    return u.transpose(1, 2), delta.transpose(1, 2), A, B[:, 0].transpose(1, 2), C[:, 0].transpose(1, 2)


def _fwd(u, delta, A, B, C, D, z, delta_bias, softplus):
    assert (D, z, delta_bias, softplus) == (None, None, None, False)
    y, states = reference.recurrence(*_tokens_last(u, delta, A, B, C))
    return y.transpose(1, 2).contiguous(), states, "whatever else"


def _bwd(u, delta, A, B, C, D, z, delta_bias, grad, kept, out, grad_z, softplus, recompute_out_z):
    assert (D, z, delta_bias, out, grad_z, softplus, recompute_out_z) == (None, None, None, None, None, False, False)
    assert grad.stride(-1) == 1 or grad.shape[-1] == 1
    rows = _tokens_last(u, delta, A, B, C)
    gu, gd, gA, gB, gC, _ = reference_adjoint.recurrence_backward(grad.transpose(1, 2), *rows, kept)
    first = (gu.transpose(1, 2), gd.transpose(1, 2), gA)
    return *first, gB.transpose(1, 2).unsqueeze(1), gC.transpose(1, 2).unsqueeze(1), None, None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("selective_scan_cuda")
    module.fwd, module.bwd = _fwd, _bwd  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", module)
    monkeypatch.setattr(mamba_ssm, "find_spec", lambda name: object())


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_scan(batch: int) -> None:
    inputs = list(scan_inputs(batch, 5, 4, 300, torch.float32).values())
    y, states = mamba_ssm.forward(*inputs, True)
    expected, expected_states = reference.forward(*inputs, True)
    assert states.shape == expected_states.shape
    assert relative_error(y, expected) <= 1e-6
    grads = mamba_ssm.backward(torch.ones_like(y), *inputs, True, states)
    wanted = reference.backward(torch.ones_like(y), *inputs, True, expected_states)
    for got, want in zip(grads, wanted, strict=True):
        assert got is not None
        assert relative_error(got, want) <= 1e-6


@pytest.mark.usefixtures("stand_in")
def test_oriented_scan() -> None:
    x, z, *weights = tri_inputs(2, 60, 4, 3, 1, 4, orders=3, dtype=torch.float32).values()
    inputs = (x, z, Weights(*weights))
    y, states = tri_mamba_ssm.forward(*inputs, "fbs", 5)
    expected, expected_states = tri_reference.forward(*inputs, "fbs", 5)
    assert relative_error(y, expected) <= 1e-6
    grads = tri_mamba_ssm.backward(torch.ones_like(y), *inputs, "fbs", 5, states)
    wanted = tri_reference.backward(torch.ones_like(y), *inputs, "fbs", 5, expected_states)
    for got, want in zip(grads, wanted, strict=True):
        assert relative_error(got, want) <= 1e-5


@pytest.mark.usefixtures("stand_in")
def test_too_many_states_are_refused() -> None:
    inputs = list(scan_inputs(1, 2, 257, 4, torch.float32).values())
    with pytest.raises(ValueError, match="at most 256 states per channel, got n = 257"):
        mamba_ssm.forward(*inputs, True)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((), r'mamba-ssm is not installed: pip install "nnunet-mamba\[mamba-ssm\]"'),
        (("mamba_ssm",), "built without selective_scan_cuda.*MAMBA_KEEP_CUDA_BUILD=TRUE pip install"),
    ],
)
def test_missing_parts_are_named_with_the_command(found, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm, "find_spec", lambda name: object() if name in found else None)
    with pytest.raises(ValueError, match=message):
        selective_scan(**scan_inputs(1, 2, 2, 4, torch.float32), backend="mamba_ssm")


def test_an_extension_built_for_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError("undefined symbol: _ZN3c104cuda")

    monkeypatch.setattr(mamba_ssm, "find_spec", lambda name: object())
    monkeypatch.setattr(mamba_ssm, "import_module", fail)
    reason = mamba_ssm.why_not(torch.zeros(1, 1, 1))
    assert reason is not None
    assert "does not load (undefined symbol: _ZN3c104cuda); rebuild it for this torch with: MAMBA_KEEP" in reason


@pytest.mark.usefixtures("stand_in")
def test_needs_a_gpu_and_is_never_chosen_by_itself() -> None:
    assert mamba_ssm.why_not(torch.zeros(1, 1, 1)) == "needs a CUDA tensor, got cpu"
    assert "mamba_ssm" in backends.names()
    assert all("mamba_ssm" not in order for order in (*backends.PREFERENCE.values(), backends.OTHER_DEVICES))
