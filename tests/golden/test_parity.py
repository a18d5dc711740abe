"""Parity with the released networks, on numbers recorded from them (tests/data/golden/README.md).

`pytest tests/golden --golden DIR` runs every case in DIR whose kind this project has. In float64 only the rounding of
the stored float32 numbers is left (2e-6 of the maximum); in float32 ten times the error measured at recording.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_mamba.architectures.segmamba_released import ReleasedSegMamba
from nnunet_mamba.ops import backends, causal_conv1d, selective_scan
from tests.conftest import DATA
from tests.golden.cases import Case, compare, fill, named_tensor, read_cases
from tests.golden.kinds import BUILD
from tests.ops.cases import cpu_backends

FLOAT64, FLOAT32_FLOOR, FLOAT32_FACTOR = 2e-6, 2e-5, 10
SMALL = 300_000
"""Parameters up to which a case is worth repeating on every backend."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = read_cases(metafunc.config.getoption("--golden"))
    modules = [c for c in cases if c.kind in BUILD]
    if "module_case" in metafunc.fixturenames:
        metafunc.parametrize("module_case", modules, ids=lambda c: c.name)
    if "small_case" in metafunc.fixturenames:
        small = [c for c in modules if c.info["n_parameters"] <= SMALL and "mamba" in json.dumps(c.info)]
        metafunc.parametrize("small_case", small, ids=lambda c: c.name)
    if "ops_case" in metafunc.fixturenames:
        metafunc.parametrize("ops_case", [c for c in cases if c.kind == "ops"], ids=lambda c: c.name)


def _build(case: Case, dtype: torch.dtype) -> nn.Module:
    module = BUILD[case.kind](case.config).eval()
    fill(module)
    return module.to(dtype)


def _check_values_and_gradients(case: Case, module: nn.Module) -> None:
    x = case.input()
    wanted = [name for name in case.info["outputs"] if name.startswith("grad")]
    x.requires_grad_(bool(wanted))
    with torch.set_grad_enabled(bool(wanted)):
        output: Tensor | list[Tensor] = module(x)
    outputs = [output] if isinstance(output, Tensor) else output
    for i, y in enumerate(outputs):
        compare(case, "out" if len(outputs) == 1 else f"out{i}", y, FLOAT64)
    if not wanted:
        return
    loss = torch.stack([(y * case.cotangent(i, tuple(y.shape))).mean() for i, y in enumerate(outputs)]).sum()
    compare(case, "loss", loss, FLOAT64)
    loss.backward()
    parameters = dict(module.named_parameters())
    for name in wanted:
        grad = x.grad if name == "grad_input" else parameters[name.removeprefix("grad:")].grad
        assert grad is not None, name
        compare(case, name, grad, FLOAT64)


def test_state_dict_is_the_released_one(module_case: Case) -> None:
    module = _build(module_case, torch.float32)
    assert {k: list(v.shape) for k, v in module.state_dict().items()} == module_case.keys()
    parameters = [p.detach().double() for p in module.parameters()]
    assert sum(p.numel() for p in parameters) == module_case.info["n_parameters"]
    total = float(sum(p.sum() for p in parameters))
    assert total == pytest.approx(module_case.info["param_sum"], rel=1e-9, abs=1e-6)


def test_float64_values_and_gradients(module_case: Case) -> None:
    _check_values_and_gradients(module_case, _build(module_case, torch.float64))


def test_float32_values(module_case: Case) -> None:
    with torch.no_grad():
        y = _build(module_case, torch.float32)(module_case.input().float())
    measured = module_case.info["fp32_vs_fp64_max_abs_and_rel_to_max"]["out"][1]
    compare(module_case, "out", y, max(FLOAT32_FLOOR, FLOAT32_FACTOR * measured))


@pytest.mark.parametrize("backend", cpu_backends("tri_scan"))
def test_every_backend(small_case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, backend)
    _check_values_and_gradients(small_case, _build(small_case, torch.float64))


@pytest.mark.parametrize("backend", cpu_backends("selective_scan"))
def test_single_ops(ops_case: Case, backend: str) -> None:
    b, d, n, length, w = (ops_case.config[key] for key in ("B", "D", "N", "L", "conv_width"))

    def drawn(name: str, *shape: int) -> np.ndarray:
        return named_tensor(ops_case, name, shape)

    def leaf(values: np.ndarray) -> Tensor:  # rounded once, as recorded
        return torch.from_numpy(values.astype(np.float32)).double().requires_grad_()

    inputs = {
        "u": leaf(drawn("u", b, d, length)),
        "delta": leaf(0.5 * drawn("delta", b, d, length)),
        "A": leaf(-np.exp(0.3 * drawn("A", d, n))),
        "B": leaf(drawn("B", b, n, length)),
        "C": leaf(drawn("C", b, n, length)),
        "D": leaf(drawn("D", d)),
        "z": leaf(drawn("z", b, d, length)),
        "delta_bias": leaf(0.5 * drawn("delta_bias", d)),
    }
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    compare(ops_case, "out", y, FLOAT64)
    grads = torch.autograd.grad((y * ops_case.cotangent(0, tuple(y.shape))).mean(), list(inputs.values()))
    for name, grad in zip(inputs, grads, strict=True):
        compare(ops_case, f"grad_{name}", grad, FLOAT64)
    conv = causal_conv1d(
        leaf(drawn("conv_x", b, d, length)), leaf(drawn("conv_w", d, 1, w)[:, 0]), leaf(drawn("conv_b", d)), "silu",
        backend=backend,
    )  # fmt: skip
    compare(ops_case, "conv_out", conv, FLOAT64)


def test_default_segmamba_has_the_published_keys_and_size() -> None:
    expected = json.loads((DATA / "state_dict_keys" / "segmamba_in4_out4.json").read_text())
    with torch.device("meta"):
        network = ReleasedSegMamba(4, 4)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == expected
    assert sum(p.numel() for p in network.parameters()) == 67_416_196


def test_folder_without_cases_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no golden case"):
        read_cases(tmp_path)
