"""Mamba-2's scan on every backend: the reference in float64, mathematics, and Mamba-1's scan as a second judge."""

from __future__ import annotations

import pytest
import torch

from nnunet_mamba.ops import causal_conv1d, oriented_ssd, selective_scan, ssd
from nnunet_mamba.ops.oriented_scan.orders import permute, restore
from tests.ops.cases import (
    GRADIENT_TOLERANCE,
    VALUE_TOLERANCE,
    as_leaves,
    compare,
    cpu_backends,
    gradients,
    oriented_ssd_inputs,
    relative_error,
    ssd_inputs,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SCANS = [  # b, l, h, p, g, n: one step, around chunks of 64 and 256, one head, groups, narrow, wide and odd heads
    (1, 1, 2, 4, 1, 2),
    (2, 63, 4, 8, 2, 16),
    (1, 64, 1, 32, 1, 16),
    (1, 65, 3, 1, 3, 5),
    (2, 100, 6, 5, 2, 64),
    (1, 256, 2, 80, 1, 16),
    (1, 257, 1, 3, 1, 128),
    (1, 700, 48, 1, 1, 3),
    (1, 300, 4, 32, 2, 7),
]
ORIENTED = [  # orders, n_slices, (b, l, h, p, g, n, w)
    ("f", 1, (1, 1, 2, 4, 1, 2, 4)),
    ("fbs", 4, (2, 96, 2, 8, 1, 16, 4)),
    ("fbs", 3, (1, 15, 1, 5, 1, 3, 3)),
    ("fb", 1, (1, 257, 4, 3, 2, 4, 4)),
    ("s", 7, (1, 301, 4, 1, 1, 8, 2)),
    ("fbs", 1, (2, 5, 3, 3, 3, 1, 4)),
    ("fs", 4, (2, 20, 2, 80, 1, 32, 4)),
]


def _ssd(tensors: dict[str, torch.Tensor], backend: str) -> torch.Tensor:
    return ssd(**tensors, dt_softplus=True, backend=backend)


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SCANS, ids=lambda s: "b{}-l{}-h{}-p{}-g{}-n{}".format(*s))
def test_ssd(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    compare(_ssd, ssd_inputs(*shape), dtype, backend)


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
@pytest.mark.parametrize("left_out", ["D", "dt_bias", "softplus", "everything"])
def test_ssd_without_optional_parts(left_out: str, backend: str) -> None:
    inputs = ssd_inputs(2, 70, 4, 3, 2, 4)
    inputs["dt"] = inputs["dt"].abs()  # a step size, when no softplus makes it one
    softplus = left_out not in ("softplus", "everything")
    for name in ("D", "dt_bias") if left_out == "everything" else (left_out,):
        inputs.pop(name, None)
    if not softplus and "dt_bias" in inputs:
        inputs["dt_bias"] = inputs["dt_bias"].abs()
    compare(lambda t, be: ssd(**t, dt_softplus=softplus, backend=be), inputs, torch.float64, backend)


@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ORIENTED, ids=lambda c: f"{c[0]}-n{c[1]}-l{c[2][1]}-h{c[2][2]}-p{c[2][3]}")
def test_oriented_ssd(case: tuple, dtype: torch.dtype, backend: str) -> None:
    orders, n_slices, (*shape, g, n, w) = case
    inputs = oriented_ssd_inputs(*shape, g, n, w, orders=len(orders))
    sizes = {"d_state": n, "n_groups": g, "orders": orders, "n_slices": n_slices}
    compare(lambda t, be: oriented_ssd(**t, **sizes, backend=be), inputs, dtype, backend)


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
@pytest.mark.parametrize("groups", [1, 2])
def test_selective_scan_with_repeated_decays_is_the_same(groups: int, backend: str) -> None:
    """A second judge: A repeated over states, dt, D and the bias over a head's channels; group by group"""
    b, length, h, p, n = 2, 300, 4, 5, 6
    inputs = as_leaves(ssd_inputs(b, length, h, p, groups, n))
    y = _ssd(inputs, backend)
    parts, per_group = [], h // groups
    for g in range(groups):
        own = slice(g * per_group, (g + 1) * per_group)
        wide = {k: inputs[k][own].repeat_interleave(p) for k in ("A", "D", "dt_bias")}
        parts.append(
            selective_scan(
                inputs["x"][:, :, own].flatten(2).transpose(1, 2),
                inputs["dt"][:, :, own].repeat_interleave(p, 2).transpose(1, 2),
                wide["A"][:, None].expand(-1, n),
                inputs["B"][:, :, g].transpose(1, 2),
                inputs["C"][:, :, g].transpose(1, 2),
                wide["D"], None, wide["dt_bias"], True, backend="reference",
            ).transpose(1, 2).unflatten(2, (per_group, p))
        )  # fmt: skip
    expected = torch.cat(parts, 2)
    assert relative_error(y, expected) <= VALUE_TOLERANCE[torch.float64]
    wanted = gradients(expected, inputs)
    for name, grad in gradients(y, inputs).items():
        assert relative_error(grad, wanted[name]) <= GRADIENT_TOLERANCE[torch.float64], name


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
def test_without_decay_it_is_a_running_sum(backend: str) -> None:
    inputs = ssd_inputs(2, 600, 3, 4, 1, 5)
    x, dt, B, C = inputs["x"], inputs["dt"].abs(), inputs["B"], inputs["C"]
    running = torch.cumsum((dt[..., None] * x)[..., None, :] * B[..., None], dim=1)  # (b l h n p)
    y = ssd(x, dt, torch.zeros(3, dtype=x.dtype), B, C, backend=backend)
    assert relative_error(y, (running * C[..., None]).sum(3)) < 1e-12


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
def test_it_is_causal(backend: str) -> None:
    inputs = ssd_inputs(1, 180, 2, 3, 1, 4)
    before = ssd(**inputs, backend=backend)
    inputs["x"][:, 150:] += 1
    after = ssd(**inputs, backend=backend)
    assert torch.equal(before[:, :150], after[:, :150])
    assert not torch.equal(before[:, 150:], after[:, 150:])


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
@pytest.mark.parametrize(("step", "decay"), [(0.03, 1.0), (0.3, 16.0), (4.0, 16.0)])
def test_steep_decays_are_right(step: float, decay: float, backend: str) -> None:
    """From those of a fresh network on. A form that masks after exp, or that takes differences of long sums, gives NaN
    or a wrong gradient of A."""
    inputs = ssd_inputs(1, 520, 4, 3, 1, 16)
    inputs["dt"] = step * (inputs["dt"].abs() + 0.1)
    inputs["A"] *= decay
    inputs["dt_bias"] *= 0
    compare(lambda t, be: ssd(**t, backend=be), inputs, torch.float32, backend)


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
def test_extreme_steps_stay_finite(backend: str) -> None:
    inputs = as_leaves(ssd_inputs(1, 520, 4, 3, 1, 16, torch.float32))
    with torch.no_grad():
        inputs["dt"] *= 1e3  # up to a thousand: exp(dt * A) is 0 or 1, nothing in between
        inputs["A"] *= 1e4
    y = _ssd(inputs, backend)
    assert y.isfinite().all()
    for name, grad in gradients(y, inputs).items():
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_bad_value_stays_in_its_head_and_after_its_step(poison: float, backend: str) -> None:
    inputs = ssd_inputs(1, 300, 3, 2, 1, 4, torch.float32)
    clean = _ssd(inputs, backend)
    inputs["x"][0, 150, 1] = poison
    y = _ssd(inputs, backend)
    assert torch.equal(y[:, :, [0, 2]], clean[:, :, [0, 2]])
    assert not y[0, 150:, 1].isfinite().any()


@pytest.mark.parametrize("backend", cpu_backends("ssd"))
def test_strided_inputs_give_the_same_and_are_not_changed(backend: str) -> None:
    inputs = ssd_inputs(2, 70, 4, 3, 2, 4, torch.float32)
    strided = {k: torch.stack((v, -v), -1)[..., 0] for k, v in inputs.items()}
    assert not any(v.is_contiguous() for v in strided.values())
    kept = {k: v.clone() for k, v in strided.items()}
    inputs, strided = as_leaves(inputs), as_leaves(strided)
    a, b = _ssd(inputs, backend), _ssd(strided, backend)
    assert relative_error(b, a) <= VALUE_TOLERANCE[torch.float32]
    wanted = gradients(a, inputs)
    for name, grad in gradients(b, strided).items():
        assert relative_error(grad, wanted[name]) <= GRADIENT_TOLERANCE[torch.float32], name
    assert all(torch.equal(strided[k], kept[k]) for k in kept)


@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
def test_parts_of_one_projection(backend: str) -> None:
    """As the mixer's input projection gives them: z | xBC | dt"""
    inputs = oriented_ssd_inputs(2, 60, 2, 4, 1, 3, 4, orders=3, dtype=torch.float32)
    projected = torch.cat((torch.randn(2, 60, 8), inputs["xBC"], inputs["dt"]), -1)
    copied = as_leaves({k: v.clone() for k, v in inputs.items()})
    _, inputs["xBC"], inputs["dt"] = projected.split([8, 14, 2], -1)
    inputs = as_leaves(inputs)
    y, again = (oriented_ssd(**t, d_state=3, n_slices=6, backend=backend) for t in (inputs, copied))
    assert relative_error(y, again) <= VALUE_TOLERANCE[torch.float32]
    wanted = gradients(again, copied)
    for name, grad in gradients(y, inputs).items():
        assert relative_error(grad, wanted[name]) <= GRADIENT_TOLERANCE[torch.float32], name


@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
@pytest.mark.parametrize("orders", ["f", "b", "s", "fbs"])
def test_oriented_ssd_is_made_of_the_single_ops(orders: str, backend: str) -> None:
    n_slices, h, p, g, n = 4, 4, 3, 2, 5
    t = oriented_ssd_inputs(2, 24, h, p, g, n, 4, orders=len(orders))
    total = torch.zeros(2, 24, h * p, dtype=torch.float64)
    for k, order in enumerate(orders):
        given = permute(t["xBC"], order, n_slices).transpose(1, 2)
        conv = causal_conv1d(given, t["conv_weight"][k], t["conv_bias"][k], "silu", backend="reference")
        x, B, C = conv.transpose(1, 2).split([h * p, g * n, g * n], 2)
        dt = permute(t["dt"], order, n_slices)
        y = ssd(
            x.unflatten(2, (h, p)), dt, t["A"][k], B.unflatten(2, (g, n)), C.unflatten(2, (g, n)), t["D"][k],
            t["dt_bias"][k], True, backend="reference",
        )  # fmt: skip
        total += restore(y.flatten(2), order, n_slices)
    y = oriented_ssd(**t, d_state=n, n_groups=g, orders=orders, n_slices=n_slices, backend=backend)
    assert relative_error(y, total) < 1e-12


@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
def test_empty_batch(backend: str) -> None:
    inputs = as_leaves(ssd_inputs(0, 10, 4, 3, 1, 2, torch.float32))
    y = ssd(**inputs, backend=backend)
    assert y.shape == (0, 10, 4, 3)
    assert gradients(y, inputs)["A"].abs().max() == 0
    oriented = as_leaves(oriented_ssd_inputs(0, 12, 4, 3, 1, 2, 4, orders=3, dtype=torch.float32))
    y = oriented_ssd(**oriented, d_state=2, n_slices=3, backend=backend)
    assert y.shape == (0, 12, 12)
    assert gradients(y, oriented)["conv_weight"].abs().max() == 0


@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
def test_runs_repeat_bit_for_bit(backend: str) -> None:
    inputs = as_leaves(oriented_ssd_inputs(2, 520, 4, 8, 1, 8, 4, orders=3, dtype=torch.float32))
    results = []
    for _ in range(2):
        y = oriented_ssd(**inputs, d_state=8, n_slices=8, backend=backend)
        results.append([y, *gradients(y, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", cpu_backends("oriented_ssd"))
def test_every_element_of_every_result_is_written(backend: str) -> None:
    for b, length, h, p, g in ((1, 1, 1, 1, 1), (2, 70, 4, 5, 2), (1, 515, 3, 32, 1)):
        compare(_ssd, ssd_inputs(b, length, h, p, g, 3), torch.float32, backend)
        inputs, slices = oriented_ssd_inputs(b, length, h, p, g, 3, 4, orders=3), 5 if length % 5 == 0 else 1
        sizes = {"d_state": 3, "n_groups": g, "n_slices": slices}
        compare(lambda t, be, s=sizes: oriented_ssd(**t, **s, backend=be), inputs, torch.float32, backend)
