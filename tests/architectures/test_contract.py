"""The exam every network takes: what nnU-Net's trainer, loss, planner and loaders rely on, on plans of every shape."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from nnunet_mamba.architectures.segmamba import SegMamba
from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.mixers import MIXERS
from nnunet_mamba.blocks.same_size import SameSizeConv
from nnunet_mamba.names import networks
from tests.ops.cases import relative_error

CONV3D = "+conv3d"
"""Behind a mixer's name: with the convolution of the volume"""
MIXING = ("mamba", "none", "mamba2", "conv", f"mamba{CONV3D}", f"mamba2{CONV3D}")
NETWORKS = [(record, mixing) for record in networks.NETWORKS for mixing in MIXING]
COMPILED = [
    (record, mixing)
    for record, mixing in NETWORKS
    # one network of each way to call a mixer: by layers, bare, over channels
    if mixing in (record.published_mixer, "none") or record.name in ("SegMamba", "LightMUNet", "UMambaEnc")
]
EXAM = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
MAX_VOXELS = 4096


def _each(pairs: list[tuple[networks.Network, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("record", "mixer"), pairs, ids=lambda v: v.name if isinstance(v, networks.Network) else v
    )


every_network = _each(NETWORKS)


@dataclass(frozen=True)
class Plan:
    """What nnU-Net would plan: topology keywords as JSON gives them, and a patch."""

    kwargs: dict[str, Any]
    patch: tuple[int, ...]
    channels: int


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    dim = draw(st.sampled_from((2, 3)))
    n_stages = draw(st.integers(2, 8))
    single = draw(st.integers(0, dim - 1)) if draw(st.booleans()) else None  # an axis of one voxel
    strides, kernels, total = [[1] * dim], [], [1] * dim
    for _ in range(1, n_stages):
        stride = [1 if axis == single else draw(st.sampled_from((1, 2))) for axis in range(dim)]
        if all(s == 1 for s in stride):
            stride[0 if single != 0 else 1] = 2
        # keep the patch small: an axis that is long already stays as it is
        stride = [1 if s == 2 and np.prod(total) * 2 > MAX_VOXELS // 4 else s for s in stride]
        strides.append(stride)
        total = [t * s for t, s in zip(total, stride, strict=True)]
    for _ in range(n_stages):
        kernels.append([1 if axis == single else draw(st.sampled_from((1, 3))) for axis in range(dim)])
    patch = [1 if axis == single else total[axis] * draw(st.sampled_from((1, 2, 3))) for axis in range(dim)]
    patch = list(patch) if np.prod(patch) <= MAX_VOXELS else [1 if a == single else total[a] for a in range(dim)]
    kwargs = {
        "n_stages": n_stages,
        "features_per_stage": [min(8, 4 * 2**i) for i in range(n_stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": kernels,
        "strides": strides,
    }
    return Plan(json.loads(json.dumps(kwargs)), tuple(patch), draw(st.sampled_from((1, 4))))


def build(
    record: networks.Network, mixer: str, plan: Plan, deep_supervision: bool = True, classes: int = 3
) -> nn.Module:
    kwargs = {**plan.kwargs, "mixer": mixer.removesuffix(CONV3D), "conv3d": mixer.endswith(CONV3D)}
    if record.patch_sized:
        kwargs["patch_size"] = list(plan.patch)
    return get_network_from_plans(
        record.architecture, kwargs, ["conv_op"], plan.channels, classes, allow_init=True,
        deep_supervision=deep_supervision,
    )  # fmt: skip


@every_network
@EXAM
@given(plan=plans())
def test_outputs_and_gradients(record: networks.Network, mixer: str, plan: Plan) -> None:
    network = build(record, mixer, plan)
    x = torch.randn(2, plan.channels, *plan.patch)
    outputs = network(x)
    strides = np.array(plan.kwargs["strides"])
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]  # nnU-Net's _get_deep_supervision_scales
    assert len(outputs) == plan.kwargs["n_stages"] - 1
    for output, scale in zip(outputs, scales, strict=True):
        assert list(output.shape) == [2, 3, *(np.array(plan.patch) * scale).round().astype(int)]
    sum(output.square().mean() for output in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} is not used"
        assert parameter.grad.isfinite().all(), name

    network.decoder.deep_supervision = False
    single = network(x)
    assert isinstance(single, Tensor)
    assert torch.equal(single, outputs[0])


@every_network
@EXAM
@given(plan=plans())
def test_checkpoints_do_not_depend_on_deep_supervision(record: networks.Network, mixer: str, plan: Plan) -> None:
    with_heads, without = build(record, mixer, plan, True), build(record, mixer, plan, False)
    without.load_state_dict(with_heads.state_dict(), strict=True)
    with_heads.load_state_dict(without.state_dict(), strict=True)
    x = torch.randn(1, plan.channels, *plan.patch)
    assert torch.equal(with_heads(x)[0], without(x))
    heads = {key.split(".seg_layers.")[1].split(".")[0] for key in without.state_dict() if ".seg_layers." in key}
    assert heads == {str(i) for i in range(plan.kwargs["n_stages"] - 1)}
    # whatever else depends on the number of classes would break nnU-Net's loader of pretrained weights
    other = build(record, mixer, plan, classes=5).state_dict()
    assert all(other[k].shape == v.shape for k, v in without.state_dict().items() if ".seg_layers." not in k)


def _small(dim: int = 3, **changes: Any) -> SegMamba:
    keywords: dict[str, Any] = {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": nn.Conv3d if dim == 3 else nn.Conv2d,
        "kernel_sizes": 3, "strides": [1, 2, 2],
    }  # fmt: skip
    return SegMamba(1, 2, **{**keywords, **changes})


def test_mamba_starts_as_published() -> None:
    block = Mamba(32, "fbs")
    expected = torch.arange(1, 17).float().repeat(64, 1)
    for suffix in ("", "_b", "_s"):
        assert torch.allclose(torch.exp(getattr(block, f"A{suffix}_log")), expected)
        steps = nn.functional.softplus(getattr(block, f"dt_proj{suffix}").bias)
        assert steps.min() >= 1e-4 * 0.999
        assert steps.max() <= 0.1 * 1.001
        assert getattr(block, f"D{suffix}").eq(1).all()


@pytest.mark.parametrize("spatial", [(4, 6, 8), (2, 3, 5), (3, 7)], ids=str)
def test_interslice_scan_follows_the_first_axis(spatial: tuple[int, ...]) -> None:
    """The layer with only the inter-slice order equals a forward-order layer on the volume with its axes rolled."""
    sliced, plain = MambaLayer(4, "s").double(), MambaLayer(4, "f").double()
    plain.load_state_dict({k.replace("_s_log", "_log").replace("conv1d_s", "conv1d").replace("x_proj_s", "x_proj")
                           .replace("dt_proj_s", "dt_proj").replace(".D_s", ".D"): v
                           for k, v in sliced.state_dict().items()})  # fmt: skip
    volume = torch.randn(2, 4, *spatial).double()
    rolled = plain(volume.movedim(2, -1)).movedim(-1, 2)
    assert relative_error(sliced(volume), rolled) < 1e-12


def test_interslice_order_is_found_among_all_three() -> None:
    """A convolution of zeros silences an order; what is left of the released block is its inter-slice order."""
    layer, plain = MambaLayer(4).double(), MambaLayer(4, "f").double()
    weights = layer.state_dict()
    plain.load_state_dict({
        key: weights[key.replace("A_log", "A_s_log").replace("mamba.D", "mamba.D_s").replace("conv1d.", "conv1d_s.")
                     .replace("x_proj.", "x_proj_s.").replace("dt_proj.", "dt_proj_s.")]
        for key in plain.state_dict()
    })  # fmt: skip
    with torch.no_grad():
        for convolution in (layer.mamba.conv1d, layer.mamba.conv1d_b):
            convolution.weight.zero_()
            convolution.bias.zero_()
    volume = torch.randn(2, 4, 3, 4, 5).double()
    permuted = volume.permute(0, 1, 3, 4, 2)  # d h w -> h w d
    expected = plain(permuted).permute(0, 1, 4, 2, 3)
    assert relative_error(layer(volume), expected) < 1e-12
    assert relative_error(plain(volume), expected) > 1e-6, "the order makes no difference: the test is void"


def _loss(outputs: list[Tensor]) -> Tensor:
    return torch.stack([output.square().mean() for output in outputs]).sum()


def _plan(dim: int, n_stages: int = 3, edge: int = 8) -> Plan:
    kwargs = {
        "n_stages": n_stages, "features_per_stage": [4, 8, 8, 8][:n_stages],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d", "kernel_sizes": 3, "strides": [1, *[2] * (n_stages - 1)],
    }  # fmt: skip
    return Plan(kwargs, (edge,) * dim, 1)


@_each(COMPILED)
def test_float64_and_compilation(record: networks.Network, mixer: str) -> None:
    plan = _plan(2 if mixer == "none" else 3)
    network = build(record, mixer, plan).double()
    x = torch.randn(1, 1, *plan.patch).double()
    expected = network(x)
    assert expected[0].dtype == torch.float64
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")  # fullgraph: a graph break is an error
    outputs = compiled(x)
    for output, wanted in zip(outputs, expected, strict=True):
        assert relative_error(output, wanted) < 1e-12
    parameters = list(network.parameters())
    wanted_gradients = torch.autograd.grad(_loss(expected), parameters)
    for gradient, wanted in zip(torch.autograd.grad(_loss(outputs), parameters), wanted_gradients, strict=True):
        # float64 sums in another order; relative to all gradients, because some are zero but for rounding
        assert (gradient - wanted).abs().max() < 1e-10 * max(g.abs().max() for g in wanted_gradients)


@every_network
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_finite_and_close(record: networks.Network, mixer: str, dtype: torch.dtype) -> None:
    plan = _plan(2, edge=32)
    plan.kwargs["features_per_stage"] = [32, 64, 64]
    network = build(record, mixer, plan, deep_supervision=False)
    x = torch.randn(2, 1, 32, 32)
    expected = network(x)
    with torch.autocast("cpu", dtype=dtype):
        output = network(x)
        output.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    # about 20 layers, each rounding to 8 (11) bits; measured: 0.06 (0.008) at most
    assert relative_error(output.float(), expected) < (0.15 if dtype == torch.bfloat16 else 0.02)


@every_network
def test_initialize_touches_convolutions_only(record: networks.Network, mixer: str) -> None:
    network = build(record, mixer, _plan(3))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.apply(network.initialize)
    convolutions = {
        f"{name}.weight"
        for name, m in network.named_modules(remove_duplicate=False)
        if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    }
    changed = {k for k, v in network.state_dict().items() if not torch.equal(before[k], v)}
    assert convolutions <= changed
    assert {k.removesuffix("bias").removesuffix("weight") for k in changed} == {
        k.removesuffix("weight") for k in convolutions
    }


@every_network
def test_the_network_has_the_mixer_that_was_asked_for(record: networks.Network, mixer: str) -> None:
    kind = MIXERS[mixer.removesuffix(CONV3D)]
    for dim in (2, 3):
        for n_stages in (2, 4):
            network = build(record, mixer, _plan(dim, n_stages, 16))
            found = {type(m) for m in network.modules()} & {Mamba, Mamba2, SameSizeConv}
            assert found == ({kind} if kind is not None else set())


@every_network
def test_wrong_patch_is_refused_with_sizes_that_work(record: networks.Network, mixer: str) -> None:
    network = build(record, mixer, _plan(3))
    with pytest.raises(ValueError, match=r"Use \(8, 12, 8\) or \(12, 12, 12\)"):
        network(torch.randn(1, 1, 10, 12, 9))
    with pytest.raises(ValueError, match="has 2 axes; this network is 3d"):
        network.check_patch((8, 8))


# sum of |logits| of each network, seeded, in float64: changes only when a network computes something else than before.
# Another CPU or torch rounds in another order: 1.09e-9 was seen between an Intel and an AMD machine. Half as much again
# in the eps of the norms, the smallest change one could make, is six times the tolerance or more
FROZEN_TOLERANCE = 1e-7
FROZEN = json.loads((Path(__file__).parent / "frozen_outputs.json").read_text(encoding="utf-8"))


@every_network
@pytest.mark.parametrize("dim", [2, 3])
def test_frozen_output(record: networks.Network, mixer: str, dim: int) -> None:
    assert frozen_output(record, mixer, dim) == pytest.approx(
        FROZEN[f"{record.name} {mixer} {dim}d"], rel=FROZEN_TOLERANCE
    )


@every_network
def test_frozen_output_notices_a_small_change(record: networks.Network, mixer: str) -> None:
    def change(module: nn.Module) -> None:
        if isinstance(getattr(module, "eps", None), float):
            module.eps *= 1.5  # type: ignore[operator]

    changed = frozen_output(record, mixer, 2, change)
    assert changed != pytest.approx(FROZEN[f"{record.name} {mixer} 2d"], rel=3 * FROZEN_TOLERANCE)


def frozen_output(
    record: networks.Network, mixer: str, dim: int, change: Callable[[nn.Module], None] = lambda module: None
) -> float:
    """To record: python -m tests.architectures.record_frozen_outputs"""
    network = build(record, mixer, _plan(dim, 4, 16), deep_supervision=False).double().eval()
    network.apply(change)
    weights = np.random.RandomState(0)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if name.endswith("_log") and parameter.dim() == 1:  # Mamba-2's is drawn, Mamba-1's 1, 2, ...
                parameter.copy_(torch.arange(1, len(parameter) + 1).log())
            elif not name.endswith("_log"):
                values = weights.standard_normal(parameter.shape) / np.sqrt(max(1, parameter[0].numel()))
                parameter.copy_(torch.from_numpy(values))
        x = torch.from_numpy(weights.standard_normal((1, 1, *(16,) * dim)))
        return float(network(x).abs().sum())


def test_large_activations_survive_fp16() -> None:
    """The gated sum of a Mamba layer may exceed 65504, the largest float16, long before anything is wrong."""
    layer = MambaLayer(8)
    with torch.no_grad():
        layer.mamba.in_proj.weight *= 300
    x = torch.randn(1, 8, 4, 4, 4)
    with torch.autocast("cpu", dtype=torch.float16):
        y = layer(x.half())
    assert layer.mamba(layer.norm(x.flatten(2).transpose(1, 2)), 4).abs().max() > 65504
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [2, 2, 2]}, r"strides\[0\]=\(2, 2, 2\); expected all 1"),
        ({"strides": [1, 2]}, "strides=.* expected 3 entries"),
        ({"kernel_sizes": [3, 3, 2]}, "kernel_sizes=.* expected odd"),
        ({"features_per_stage": [4, 8]}, "features_per_stage=.* expected 3 positive"),
        ({"n_stages": 1}, "n_stages=1; expected at least 2"),
        ({"conv_op": nn.Conv1d}, "conv_op is .*expected torch.nn.Conv2d or torch.nn.Conv3d"),
        ({"mixer": "attention"}, "mixer='attention'; expected one of mamba, mamba2, conv, none"),
        ({"depths": [1, 1, 1]}, r"depths=\[1, 1, 1\]; expected 2 numbers"),
    ],
)
def test_wrong_keywords_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**changes)


def test_wrong_patch_names_sizes_that_work() -> None:
    network = _small()
    with pytest.raises(ValueError, match=r"Use \(8, 12, 8\) or \(12, 12, 12\)"):
        network(torch.randn(1, 1, 10, 12, 9))
    for size in ((8, 12, 8), (12, 12, 12)):
        assert network(torch.randn(1, 1, *size)).shape[2:] == size
    with pytest.raises(ValueError, match="has 2 axes; this network is 3d"):
        network.topology.check_patch((8, 8))


def test_hippocampus_patch_runs() -> None:
    """nnU-Net plans 40x56x40 with 4 stages there; the released network refuses it."""
    network = SegMamba(
        1, 3, n_stages=4, features_per_stage=[4, 8, 8, 8], conv_op=nn.Conv3d, kernel_sizes=3, strides=[1, 2, 2, 2]
    )
    assert network(torch.randn(1, 1, 40, 56, 40)).shape == (1, 3, 40, 56, 40)


def test_depths_per_stage() -> None:
    network = _small(depths=[1, 3])
    assert [len(stage.layers) for stage in network.encoder.stages] == [1, 3]
    names = itertools.chain.from_iterable(k.split(".") for k in _small(mixer="none").state_dict())
    assert "mamba" not in set(names)
