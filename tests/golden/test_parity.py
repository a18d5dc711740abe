"""Parity with the released networks, on numbers recorded from them (tests/data/golden/README.md).

`pytest tests/golden --golden DIR` runs every case in DIR whose kind this project has. In float64 only the rounding of
the stored float32 numbers is left (2e-6 of the maximum); in float32 ten times the error measured at recording.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_mamba import released
from nnunet_mamba.ops import backends, causal_conv1d, selective_scan, ssd
from tests.conftest import DATA
from tests.golden.cases import Case, compare, fill, named_tensor, read_cases
from tests.golden.kinds import BUILD, is_another_function
from tests.ops.cases import cpu_backends

FLOAT64, FLOAT32_FLOOR, FLOAT32_FACTOR = 2e-6, 2e-5, 10
SMALL = 300_000
"""Parameters up to which a case is worth repeating on every backend."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = read_cases(metafunc.config.getoption("--golden"))
    modules = [c for c in cases if c.kind in BUILD and not is_another_function(c.config)]
    if "module_case" in metafunc.fixturenames:
        metafunc.parametrize("module_case", modules, ids=lambda c: c.name)
    if "small_case" in metafunc.fixturenames:
        small = [c for c in modules if c.info["n_parameters"] <= SMALL and "mamba" in json.dumps(c.info)]
        metafunc.parametrize("small_case", small, ids=lambda c: c.name)
    for fixture, kind in (("ops_case", "ops"), ("ssd_case", "ssd")):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [c for c in cases if c.kind == kind], ids=lambda c: c.name)


def _build(case: Case, dtype: torch.dtype) -> nn.Module:
    module = BUILD[case.kind](case.config).eval()
    fill(module)
    return module.to(dtype)


def _output_name(case: Case, index: int) -> str:
    return "out" if "out" in case.info["outputs"] else f"out{index}"


def _check_values_and_gradients(case: Case, module: nn.Module) -> None:
    x = case.input()
    wanted = [name for name in case.info["outputs"] if name.startswith("grad")]
    x.requires_grad_(bool(wanted))
    with torch.set_grad_enabled(bool(wanted)):
        output: Tensor | list[Tensor] = module(x)
    outputs = [output] if isinstance(output, Tensor) else output
    for i, y in enumerate(outputs):
        compare(case, _output_name(case, i), y, FLOAT64)
    if not wanted:
        return
    loss = torch.stack([(y * case.cotangent(i, tuple(y.shape))).mean() for i, y in enumerate(outputs)]).sum()
    compare(case, "loss", loss, FLOAT64)
    loss.backward()
    parameters = module.state_dict(keep_vars=True)
    for name in wanted:
        grad = x.grad if name == "grad_input" else parameters[name.removeprefix("grad:")].grad
        assert grad is not None, name
        compare(case, name, grad, FLOAT64)


def _is_dead(case: Case, key: str, present: Collection[str]) -> bool:
    """Constructed by the released SegResMamba and never used; left out here, unless the case uses them"""
    if not case.kind.startswith("segresmamba") or key in present:
        return False
    return re.match(r"segresnet\.(convInit|down_layers|conv_final)|(vit\.gscs\.\d\.)?mamba_layer\.", key) is not None


def test_state_dict_is_the_released_one(module_case: Case) -> None:
    module = _build(module_case, torch.float32)
    state = module.state_dict()
    expected = {k: shape for k, shape in module_case.keys().items() if not _is_dead(module_case, k, state)}
    assert {k: list(v.shape) for k, v in state.items()} == expected
    if expected.keys() != module_case.keys().keys():
        return  # the recorded sums count the dead parameters
    parameters = [p.detach().double() for p in module.parameters()]
    assert sum(p.numel() for p in parameters) == module_case.info["n_parameters"]
    total = float(sum(p.sum() for p in parameters))
    assert total == pytest.approx(module_case.info["param_sum"], rel=1e-9, abs=1e-6)


def test_float64_values_and_gradients(module_case: Case) -> None:
    _check_values_and_gradients(module_case, _build(module_case, torch.float64))


def test_float32_values(module_case: Case) -> None:
    with torch.no_grad():
        y = _build(module_case, torch.float32)(module_case.input().float())
    for i, output in enumerate([y] if isinstance(y, Tensor) else y):
        name = _output_name(module_case, i)
        measured = module_case.info["fp32_vs_fp64_max_abs_and_rel_to_max"][name][1]
        compare(module_case, name, output, max(FLOAT32_FLOOR, FLOAT32_FACTOR * measured))


@pytest.mark.parametrize("backend", sorted({*cpu_backends("oriented_scan"), *cpu_backends("oriented_ssd")}))
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


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
def test_mamba2_scan(ssd_case: Case, backend: str) -> None:
    config = ssd_case.config
    b, length, h, p, g, n = (config[key] for key in "BLHPGN")

    def leaf(name: str, *shape: int, of: Callable[[np.ndarray], np.ndarray] = np.array) -> Tensor:
        values = of(named_tensor(ssd_case, name, shape))
        return torch.from_numpy(values.astype(np.float32)).double().requires_grad_()  # rounded once, as recorded

    inputs = {
        "x": leaf("x", b, length, h, p),
        "dt": leaf("dt", b, length, h, of=lambda v: config["dt_shift"] + config["dt_scale"] * v),
        "A": leaf("A", h, of=lambda v: -config["A_scale"] * np.exp(0.3 * v)),
        "B": leaf("B", b, length, g, n),
        "C": leaf("C", b, length, g, n),
        "D": leaf("D", h),
        "dt_bias": leaf("dt_bias", h, of=lambda v: 0.5 * v),
    }
    y = ssd(**inputs, dt_softplus=True, backend=backend)
    compare(ssd_case, "out", y, FLOAT64)
    grads = torch.autograd.grad((y * ssd_case.cotangent(0, tuple(y.shape))).mean(), list(inputs.values()))
    for name, grad in zip(inputs, grads, strict=True):
        compare(ssd_case, f"grad_{name}", grad, FLOAT64)


def test_the_norm_of_several_groups_is_the_fused_kernels() -> None:
    """Two paths of the released Mamba-2 disagree for the same weights; ours must not meet the other one's case"""
    (case,) = (c for c in read_cases(DATA / "golden") if c.kind in BUILD and is_another_function(c.config))
    y = _build(case, torch.float64)(case.input())
    assert np.abs(y.detach().numpy() - case.array("out")).max() > 0.1 * np.abs(case.array("out")).max()


def test_every_bundled_case_has_a_kind() -> None:
    assert {case.kind for case in read_cases(DATA / "golden")} <= {*BUILD, "ops", "ssd"}


UMAMBA_3D = {"features_per_stage": [32, 64, 128, 256, 320, 320], "kernel_sizes": [[3] * 3] * 6}
UMAMBA_2D = {"features_per_stage": [32, 64, 128, 256, 512, 512, 512], "kernel_sizes": [[3] * 2] * 7}
ISOTROPIC_3D, ISOTROPIC_2D = [[1] * 3] + [[2] * 3] * 5, [[1] * 2] + [[2] * 2] * 6
PUBLISHED_SIZES = {
    "segmamba_in4_out4": ("segmamba", {"in_chans": 4, "out_chans": 4}, 67_416_196),
    "segmamba_v2_in4_out4": ("segmamba_v2", {"in_chans": 4, "out_chans": 4}, 138_776_824),
    # without 41,139,364 (1 -> 13) respectively 41,139,364 parameters that its forward never uses
    "segresmamba_in4_out3": ("segresmamba", {"in_chans": 4, "out_chans": 3}, None),
    "lightmunet_3d_f32_in1_out3": ("lightmunet", {"init_filters": 32, "out_channels": 3}, 5_015_766),
    "lightmunet_2d_f32_in1_out2": ("lightmunet", {"init_filters": 32, "spatial_dims": 2}, 5_011_683),
    "umamba_bot_3d_in1_out14": (
        "umamba_bot", {"input_channels": 1, "num_classes": 14, "strides": ISOTROPIC_3D, **UMAMBA_3D}, 42_130_054,
    ),
    "umamba_enc_3d_in1_out14_patch128": (
        "umamba_enc",
        {"input_channels": 1, "num_classes": 14, "strides": ISOTROPIC_3D, "patch_size": [128] * 3, **UMAMBA_3D},
        42_760_582,
    ),
    "umamba2_3d_in1_out14_6stages": (
        "umamba2",
        {"input_channels": 1, "num_classes": 14, "strides": ISOTROPIC_3D, "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
         **UMAMBA_3D},
        103_001_694,
    ),
    "umamba2_3d_in1_out47_7stages": (
        "umamba2",
        {"input_channels": 1, "num_classes": 47, "strides": [*ISOTROPIC_3D, [1] * 3],
         "n_blocks_per_stage": [1, 3, 4, 6, 6, 6, 6], "features_per_stage": [32, 64, 128, 256, 320, 320, 320],
         "kernel_sizes": [[3] * 3] * 7},
        141_865_746,
    ),
    "umamba_bot_2d_in1_out2": (
        "umamba_bot", {"input_channels": 1, "num_classes": 2, "strides": ISOTROPIC_2D, **UMAMBA_2D}, 47_514_892,
    ),
    "umamba_enc_2d_in1_out2_patch512": (
        "umamba_enc",
        {"input_channels": 1, "num_classes": 2, "strides": ISOTROPIC_2D, "patch_size": [512] * 2, **UMAMBA_2D},
        47_674_380,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(p.stem for p in (DATA / "state_dict_keys").glob("*.json")))
def test_default_sizes_have_the_published_keys(name: str) -> None:
    expected = json.loads((DATA / "state_dict_keys" / f"{name}.json").read_text(encoding="utf-8"))
    kind, config, parameters = PUBLISHED_SIZES[name]
    with torch.device("meta"):
        network = released.build(kind, **config)
    got = {k: list(v.shape) for k, v in network.state_dict().items()}
    dead = released.PUBLISHED[kind].dead
    left_out = {k for k in expected if k not in got and dead is not None and re.match(dead, k)}
    assert got == {k: v for k, v in expected.items() if k not in left_out}
    count = sum(p.numel() for p in network.parameters())
    if kind == "segresmamba":
        assert count + sum(math.prod(expected[k]) for k in left_out) == 111_610_951
    else:
        assert count == parameters


def test_folder_without_cases_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no golden case"):
        read_cases(tmp_path)
