"""Operators written out for export: equal to the reference, finite where decays are steep, and none of ours left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mamba.ops import causal_conv1d, oriented_scan, oriented_ssd, selective_scan, ssd
from nnunet_mamba.ops.exporting import exporting, is_exporting
from nnunet_mamba.ops.selective_scan.decomposed import ROWS, STEPS
from nnunet_mamba.ops.ssd.decomposed import ROW
from tests.ops.cases import (
    VALUE_TOLERANCE,
    conv_inputs,
    oriented_ssd_inputs,
    relative_error,
    scan_inputs,
    ssd_inputs,
    tri_inputs,
)

BLOCK = ROWS * STEPS
LENGTHS = (1, 3, STEPS, ROW - 1, ROW + 1, BLOCK, BLOCK + 2, 3 * BLOCK - 5)
ORIENTED = {"orders": "fbs", "n_slices": 3}


def _each(length: int, dtype: torch.dtype) -> list[tuple[Callable[..., Tensor], dict[str, Tensor], dict[str, Any]]]:
    tokens = -(-length // 3) * 3
    return [
        (selective_scan, scan_inputs(2, 3, 4, length, dtype), {"delta_softplus": True}),
        (ssd, ssd_inputs(2, length, 4, 3, 2, 5, dtype), {"dt_softplus": True}),
        (causal_conv1d, conv_inputs(2, 3, 4, length, dtype), {"activation": "silu"}),
        (oriented_scan, tri_inputs(2, tokens, 6, 5, 2, 4, 3, dtype), ORIENTED),
        (
            oriented_ssd,
            oriented_ssd_inputs(2, tokens, 4, 3, 2, 5, 4, 3, dtype),
            {"d_state": 5, "n_groups": 2} | ORIENTED,
        ),
    ]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_reference(length: int, dtype: torch.dtype) -> None:
    for op, tensors, options in _each(length, dtype):
        with exporting():
            y = op(**tensors, **options)
        expected = op(**{k: v.double() for k, v in tensors.items()}, **options, backend="reference")
        assert y.dtype == dtype
        assert y.shape == expected.shape
        assert relative_error(y, expected) <= VALUE_TOLERANCE[dtype], op


def test_without_what_is_optional() -> None:
    u, delta, A, B, C = (scan_inputs(1, 2, 3, 9)[k] for k in ("u", "delta", "A", "B", "C"))
    x, dt, A2, B2, C2 = (ssd_inputs(1, 9, 2, 3, 1, 4)[k] for k in ("x", "dt", "A", "B", "C"))
    with exporting():
        written_out = selective_scan(u, delta.abs(), A, B, C), ssd(x, dt.abs(), A2, B2, C2)
    assert relative_error(written_out[0], selective_scan(u, delta.abs(), A, B, C, backend="reference")) < 1e-12
    assert relative_error(written_out[1], ssd(x, dt.abs(), A2, B2, C2, backend="reference")) < 1e-12


@pytest.mark.parametrize("steepness", [1e-6, 1.0, 1e3, 1e6])
def test_nothing_overflows(steepness: float) -> None:
    """Decays over a block go from none at all to far below the smallest float32"""
    for op, tensors, options in _each(BLOCK + 3, torch.float32):
        if "A" not in tensors:
            continue
        tensors["A"] = tensors["A"] * steepness
        with exporting():
            y = op(**tensors, **options)
        expected = op(**{k: v.double() for k, v in tensors.items()}, **options, backend="reference")
        assert relative_error(y, expected) <= VALUE_TOLERANCE[torch.float32], op


class _Operator(nn.Module):
    def __init__(self, op: Callable[..., Tensor], options: dict[str, Any]):
        super().__init__()
        self.op, self.options = op, options

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.op(*tensors, **self.options)


@pytest.mark.parametrize("index", [2, 3, 4], ids=["causal_conv1d", "oriented_scan", "oriented_ssd"])
def test_an_exported_program_has_no_operator_of_ours(index: int) -> None:
    op, tensors, options = _each(BLOCK + 2, torch.float32)[index]
    given = tuple(tensors.values())
    module = _Operator(op, options)
    expected = module(*given)
    with torch.no_grad(), exporting():
        program = torch.export.export(module, given, strict=False)
    names = {str(node.target) for graph in program.graph_module.modules() for node in graph.graph.nodes}
    assert not [name for name in names if "nnunet_mamba" in name]
    assert relative_error(program.module()(*given), expected) <= VALUE_TOLERANCE[torch.float32]


def test_the_mode_ends_with_its_block() -> None:
    with exporting():
        with exporting():
            pass
        assert is_exporting()
    with pytest.raises(ValueError, match="has shape"), exporting():
        causal_conv1d(torch.zeros(1, 1, 0), torch.zeros(1, 1))
    assert not is_exporting()
