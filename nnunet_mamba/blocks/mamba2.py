"""The Mamba-2 mixer (Dao & Gu 2024, arXiv 2405.21060, section 7) along one or more token orders.

With the single order "f" this is the released mixer. With several, our own definition after the tri-orientated Mamba-1
block (Xing et al. 2024): the linear maps, the gate and the norm are shared by all orders, the convolution and what is
one number per head are per order. The norm comes once, after the sum. Parameter names are those of released
checkpoints: forward without suffix, backward `_b`, inter-slice `_s`.

    e  inner channels = h p        h  heads        p  channels of a head        g  groups that share B and C
    n  size of the state
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.mamba import SUFFIX, check_letters, inverse_softplus_of_random_steps
from nnunet_mamba.blocks.volume_conv import convolve_tokens, volume_conv
from nnunet_mamba.names.head_width import WIDEST_HEAD, head_width
from nnunet_mamba.ops import oriented_ssd
from nnunet_mamba.ops.oriented_weights import SSDWeights

A_MIN, A_MAX = 1.0, 16.0
EPS = 1e-5


class Mamba2(nn.Module):
    """in_proj - [causal conv, SiLU, scan] per order, summed - gate and norm - out_proj.

    headdim: p, None for the widest up to 64 that divides e (`head_width`). ngroups: g, which the norm follows.
    bias: of the two linear maps. conv_axes: a convolution of the volume of so many axes instead of the causal one of
    the sequence, the same for all orders.
    Raises ValueError for widths that do not divide each other.
    """

    def __init__(
        self,
        channels: int,
        orders: str = "f",
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int | None = None,
        ngroups: int = 1,
        bias: bool = False,
        conv_axes: int | None = None,
    ):
        super().__init__()
        check_letters(orders)
        self.channels, self.orders, self.inner = channels, orders, expand * channels
        self.d_state, self.ngroups = d_state, ngroups
        self.headdim = head_width(self.inner, WIDEST_HEAD) if headdim is None else headdim
        if self.headdim < 1 or self.inner % self.headdim:
            raise ValueError(
                f"headdim={headdim} does not divide the {self.inner} inner channels ({expand} times {channels}): "
                f"give a divisor, for example {head_width(self.inner, max(1, self.headdim))}, or None"
            )
        self.heads = self.inner // self.headdim
        if ngroups < 1 or self.heads % ngroups:
            raise ValueError(f"ngroups={ngroups} does not divide the {self.heads} heads; give a divisor, for example 1")
        for order in orders:
            self._add_scalars(SUFFIX[order])
        mixed = self.inner + 2 * ngroups * d_state  # x, B, C
        self.in_proj = nn.Linear(channels, self.inner + mixed + self.heads, bias=bias)
        if conv_axes is None:
            for order in orders:
                conv1d = nn.Conv1d(mixed, mixed, d_conv, groups=mixed, padding=d_conv - 1)
                self.add_module(f"conv1d{SUFFIX[order]}", conv1d)
            self.conv3d = None
        else:
            self.conv3d = volume_conv(mixed, conv_axes)
        self.norm = GatedRMSNorm(self.inner, ngroups)
        self.out_proj = nn.Linear(self.inner, channels, bias=bias)
        self._mark()

    def _add_scalars(self, suffix: str) -> None:
        """One number per head each, drawn anew for every order; the step sizes as in Mamba-1"""
        A = torch.empty(self.heads).uniform_(A_MIN, A_MAX)
        steps = inverse_softplus_of_random_steps(self.heads)
        self.register_parameter(f"dt_bias{suffix}", nn.Parameter(steps))
        self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.log(A)))
        self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(self.heads)))

    def _mark(self) -> None:
        """What weight decay would pull to a meaningless zero carries mamba-ssm's own mark; the norm too, as norms do"""
        self.norm.weight._no_weight_decay = True  # type: ignore[attr-defined]
        for suffix in map(SUFFIX.__getitem__, self.orders):
            for name in (f"dt_bias{suffix}", f"A{suffix}_log", f"D{suffix}"):
                getattr(self, name)._no_weight_decay = True

    def __setstate__(self, state: dict) -> None:
        """A copy's parameters are new, without their attributes"""
        super().__setstate__(state)
        self._mark()

    def forward(self, tokens: Tensor, n_slices: int = 1, space: Sequence[int] = ()) -> Tensor:
        """(b l c) -> (b l c); `n_slices`: slices of the inter-slice order, must divide l; `space`: sizes of the volume
        that the tokens fill, needed for its convolution only"""
        z, xBC, dt = _linear(self.in_proj, tokens).split(
            (self.inner, self.inner + 2 * self.ngroups * self.d_state, self.heads), dim=-1
        )
        if self.conv3d is not None:
            xBC = convolve_tokens(self.conv3d, xBC, space)
        y = oriented_ssd(
            xBC, dt, *self._weights(), d_state=self.d_state, n_groups=self.ngroups, orders=self.orders,
            n_slices=n_slices,
        )  # fmt: skip
        return _linear(self.out_proj, self.norm(y, z))

    def _weights(self) -> SSDWeights:
        """Of all orders, stacked"""
        per_order = [self._order_weights(SUFFIX[order]) for order in self.orders]
        return SSDWeights(*(torch.stack(weights) for weights in zip(*per_order, strict=True)))

    def _order_weights(self, suffix: str) -> SSDWeights:
        dt_bias, D = getattr(self, f"dt_bias{suffix}"), getattr(self, f"D{suffix}")
        A = -torch.exp(getattr(self, f"A{suffix}_log"))
        if self.conv3d is None:
            conv1d = getattr(self, f"conv1d{suffix}")
            return SSDWeights(conv1d.weight[:, 0], conv1d.bias, dt_bias, A, D)
        one_tap = D.new_ones(self.inner + 2 * self.ngroups * self.d_state, 1)  # the operator's changes nothing then
        return SSDWeights(one_tap, torch.zeros_like(one_tap[:, 0]), dt_bias, A, D)


class GatedRMSNorm(nn.Module):
    """v / rms(v) * weight of v = y SiLU(z), the mean square over each of the groups; in float32 or wider.

    Per group as class `Mamba2` and the fused kernels of mamba-ssm do; its `Mamba2Simple(use_mem_eff_path=False)` takes
    the mean over all channels, which is the same for one group.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.groups, self.eps = groups, EPS

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """(b l e), (b l e) -> (b l e) in y's dtype"""
        dtype = torch.promote_types(y.dtype, torch.float32)
        v = (y.to(dtype) * F.silu(z.to(dtype))).unflatten(-1, (self.groups, -1))
        v = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + self.eps)
        return (v.flatten(-2) * self.weight.to(dtype)).to(y.dtype)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)
