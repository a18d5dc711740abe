"""Mamba-2 as a module: start values, widths of heads, several orders, the convolution of the volume, precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.blocks.mamba2 import GatedRMSNorm, Mamba2
from nnunet_mamba.blocks.same_size import SameSizeConv
from nnunet_mamba.names.head_width import head_width
from nnunet_mamba.ops.oriented_scan.orders import ORDERS
from tests.ops.cases import relative_error


def token_loop(module: Mamba2, tokens: Tensor, n_slices: int) -> Tensor:
    """What the specification says, one token after the other"""
    batch, length, _ = tokens.shape
    p, n, h = module.headdim, module.d_state, module.heads
    projected = tokens @ module.in_proj.weight.T
    z, xBC, dt = projected.split([h * p, h * p + 2 * n, h], dim=-1)
    total = torch.zeros_like(z)
    for order in module.orders:
        suffix = {"f": "", "b": "_b", "s": "_s"}[order]
        read = torch.arange(length)
        if order == "b":
            read = read.flip(0)
        elif order == "s":
            read = read.view(n_slices, length // n_slices).T.flatten()
        conv = getattr(module, f"conv1d{suffix}")
        padded = F.pad(xBC[:, read].transpose(1, 2), (conv.weight.shape[2] - 1, 0))
        mixed = F.silu(F.conv1d(padded, conv.weight, conv.bias, groups=conv.groups)).transpose(1, 2)
        x, B, C = mixed.split([h * p, n, n], dim=-1)
        step = F.softplus(dt[:, read] + getattr(module, f"dt_bias{suffix}"))
        A, D = -getattr(module, f"A{suffix}_log").exp(), getattr(module, f"D{suffix}")
        state, outputs = tokens.new_zeros(batch, h, p, n), []
        for t in range(length):
            xt = x[:, t].view(batch, h, p)
            decay = (step[:, t] * A).exp()[..., None, None]
            state = decay * state + (step[:, t, :, None] * xt)[..., None] * B[:, t, None, None]
            outputs.append((state @ C[:, t, None, :, None])[..., 0] + D[:, None] * xt)
        total[:, read] += torch.stack(outputs, 1).flatten(2)
    v = total * F.silu(z)
    v = v / (v.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.norm.weight
    return v @ module.out_proj.weight.T


@pytest.mark.parametrize("orders", ["f", "b", "s", "fb", "fbs"])
def test_it_is_the_token_loop(orders: str) -> None:
    module = Mamba2(12, orders, d_state=5, headdim=4).double()
    tokens = torch.randn(2, 30, 12).double()
    assert relative_error(module(tokens, 5), token_loop(module, tokens, 5)) < 1e-12


def test_it_starts_as_published() -> None:
    module = Mamba2(64, "fbs")
    assert (module.d_state, module.headdim, module.heads, module.ngroups) == (64, 64, 2, 1)
    many = Mamba2(64, "fbs", headdim=1)
    draws = []
    for suffix in ("", "_b", "_s"):
        A, steps = getattr(many, f"A{suffix}_log").exp(), F.softplus(getattr(many, f"dt_bias{suffix}"))
        assert A.min() >= 1
        assert A.max() <= 16 * 1.001
        assert A.max() - A.min() > 10
        assert steps.min() >= 1e-4 * 0.999
        assert steps.max() <= 0.1 * 1.001
        assert getattr(many, f"D{suffix}").eq(1).all()
        draws.append(A)
    assert not torch.equal(draws[0], draws[1]), "every order has its own draw"
    assert many.norm.weight.eq(1).all()


def test_keys_stand_in_the_released_order() -> None:
    assert list(Mamba2(8).state_dict()) == [
        "dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight", "out_proj.weight",
    ]  # fmt: skip
    module = Mamba2(320, d_state=32, headdim=80)
    assert sum(p.numel() for p in module.parameters()) + 2 * 320 == 642_264
    assert Mamba2(8, bias=True).in_proj.bias is not None


@pytest.mark.parametrize(
    ("inner", "widest", "width"),
    [(640, 80, 80), (1024, 80, 64), (512, 80, 64), (64, 80, 64), (62, 64, 62), (2 * 37, 64, 37), (48, 64, 48),
     (8, 64, 8), (2, 64, 2), (96, 64, 48), (160, 64, 40), (200, 64, 40)],
)  # fmt: skip
def test_width_of_heads(inner: int, widest: int, width: int) -> None:
    assert head_width(inner, widest) == width
    assert inner % width == 0


def test_wrong_widths_are_named() -> None:
    with pytest.raises(ValueError, match=r"headdim=80 does not divide the 64 inner channels .*for example 64, or None"):
        Mamba2(32, headdim=80)
    with pytest.raises(ValueError, match="ngroups=3 does not divide the 4 heads; give a divisor"):
        Mamba2(16, headdim=8, ngroups=3)
    with pytest.raises(ValueError, match="orders='fx'; expected different letters"):
        Mamba2(16, "fx")


@pytest.mark.parametrize("kind", [Mamba, Mamba2])
@pytest.mark.parametrize("space", [(3, 4, 5), (6, 7), (11,)], ids=str)
def test_the_convolution_of_the_volume_takes_the_place_of_the_causal_one(kind: type, space: tuple[int, ...]) -> None:
    """A volume convolution whose only weight is in the middle is a causal one whose only weight is the last tap"""
    causal, volume = kind(8, "fb").double(), kind(8, "fb", conv_axes=len(space)).double()
    with torch.no_grad():
        middle = volume.conv3d.weight.flatten(2).shape[2] // 2
        for conv in (causal.conv1d, causal.conv1d_b):
            conv.weight.zero_()
            conv.weight[:, 0, -1] = torch.arange(1, len(conv.weight) + 1)
            conv.bias.copy_(torch.linspace(-1, 1, len(conv.bias)))
        volume.conv3d.weight.zero_()
        volume.conv3d.weight.flatten(2)[:, 0, middle] = causal.conv1d.weight[:, 0, -1]
        volume.conv3d.bias.copy_(causal.conv1d.bias)
    shared = {k: v for k, v in causal.state_dict().items() if not k.startswith("conv1d")}
    assert set(volume.load_state_dict(shared, strict=False).missing_keys) == {"conv3d.weight", "conv3d.bias"}
    tokens = torch.randn(2, torch.Size(space).numel(), 8).double()
    assert relative_error(volume(tokens, 1, space), causal(tokens)) < 1e-12
    with torch.no_grad():
        volume.conv3d.weight.normal_()
    probe = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(volume(probe, 1, space)[0, 0].sum(), probe)
    assert gradient[0, -1].abs().sum() > 0, "the last token reaches the first one"
    with pytest.raises(ValueError, match=r"tokens in a space of \(2, 2\); expected the .* sizes of the volume"):
        volume(tokens, 1, (2, 2))


@pytest.mark.parametrize("channels", [8, 32, 48, 96, 320])
@pytest.mark.parametrize("orders", ["f", ORDERS])
@pytest.mark.parametrize("replaced", [Mamba, Mamba2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_one_control_is_as_large_as_one_mixer(channels: int, orders: str, replaced: type, axes: int) -> None:
    with torch.device("meta"):
        control, mixer = SameSizeConv(channels, orders, axes=axes, replaced=replaced), replaced(channels, orders)
    counts = [sum(p.numel() for p in module.parameters()) for module in (control, mixer)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_norm_and_gate_hold_in_half_precision() -> None:
    norm = GatedRMSNorm(8, 1)
    y, z = torch.full((1, 3, 8), 3e4), torch.full((1, 3, 8), 30.0)
    assert norm(y.half(), z.half()).isfinite().all(), "the product is beyond fp16"
    layer = MambaLayer(8, mamba=Mamba2(8, ORDERS))
    x = torch.randn(1, 8, 4, 4, 4)
    expected = layer(x)
    for dtype, limit in ((torch.float16, 2e-3), (torch.bfloat16, 3e-2)):
        with torch.autocast("cpu", dtype=dtype):
            assert relative_error(layer(x.to(dtype)).float(), expected) < limit
