"""The Mamba-1 block (Gu & Dao 2023, section 3.4) along one or more token orders, and the layer around it.

With the single order "f" this is the plain block; with "fbs" SegMamba's tri-orientated block (Xing et al. 2024). The
linear maps in and out are shared by all orders, everything in between is per order. Parameter names are those of
released checkpoints: forward without suffix, backward `_b`, inter-slice `_s`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.volume_conv import convolve_tokens, volume_conv
from nnunet_mamba.ops import oriented_scan
from nnunet_mamba.ops.oriented_scan.orders import ORDERS
from nnunet_mamba.ops.oriented_weights import Weights

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
SUFFIX = {"f": "", "b": "_b", "s": "_s"}


class Mamba(nn.Module):
    """in_proj - [causal conv, SiLU, selective scan] per order, summed and gated - out_proj.

    conv_axes: a convolution of the volume of so many axes instead of the causal one of the sequence, the same for all
    orders; our own definition.
    """

    def __init__(
        self,
        channels: int,
        orders: str = "f",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        conv_axes: int | None = None,
    ):
        super().__init__()
        check_letters(orders)
        self.channels, self.orders, self.inner = channels, orders, expand * channels
        rank = math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * self.inner, bias=False)
        self.out_proj = nn.Linear(self.inner, channels, bias=False)
        self.conv3d = None if conv_axes is None else volume_conv(self.inner, conv_axes)
        for order in orders:
            self._add_order(SUFFIX[order], rank, d_state, d_conv)
        self._mark()

    def _mark(self) -> None:
        """What weight decay would pull to a meaningless zero carries mamba-ssm's own mark"""
        for suffix in map(SUFFIX.__getitem__, self.orders):
            step = getattr(self, f"dt_proj{suffix}").bias
            for parameter in (getattr(self, f"A{suffix}_log"), getattr(self, f"D{suffix}"), step):
                parameter._no_weight_decay = True

    def __setstate__(self, state: dict) -> None:
        """A copy's parameters are new, without their attributes"""
        super().__setstate__(state)
        self._mark()

    def _add_order(self, suffix: str, rank: int, d_state: int, d_conv: int) -> None:
        inner = self.inner
        if self.conv3d is None:
            self.add_module(f"conv1d{suffix}", nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1))
        dt_proj = nn.Linear(rank, inner)
        nn.init.uniform_(dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            dt_proj.bias.copy_(inverse_softplus_of_random_steps(inner))
        self.add_module(f"x_proj{suffix}", nn.Linear(inner, rank + 2 * d_state, bias=False))
        self.add_module(f"dt_proj{suffix}", dt_proj)
        A = torch.arange(1, d_state + 1, dtype=torch.float32).repeat(inner, 1)
        self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.log(A)))
        self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))

    def forward(self, tokens: Tensor, n_slices: int = 1, space: Sequence[int] = ()) -> Tensor:
        """(b l c) -> (b l c); `n_slices`: slices of the inter-slice order, must divide l; `space`: sizes of the volume
        that the tokens fill, needed for its convolution only"""
        xz = F.linear(tokens, self.in_proj.weight.to(tokens.dtype))
        x, z = xz.chunk(2, dim=-1)
        if self.conv3d is not None:
            x = convolve_tokens(self.conv3d, x, space)
        y = oriented_scan(x, z, *self._weights(), orders=self.orders, n_slices=n_slices)
        return F.linear(y, self.out_proj.weight.to(y.dtype))

    def _weights(self) -> Weights:
        """Of all orders, stacked"""
        per_order = [self._order_weights(SUFFIX[order]) for order in self.orders]
        return Weights(*(torch.stack(weights) for weights in zip(*per_order, strict=True)))

    def _order_weights(self, suffix: str) -> Weights:
        x_proj, dt_proj = (getattr(self, f"{name}{suffix}") for name in ("x_proj", "dt_proj"))
        A = -torch.exp(getattr(self, f"A{suffix}_log"))
        D = getattr(self, f"D{suffix}")
        if self.conv3d is None:
            conv1d = getattr(self, f"conv1d{suffix}")
            taps, bias = conv1d.weight[:, 0], conv1d.bias
        else:  # the operator's own convolution changes nothing then
            taps, bias = torch.ones_like(D)[:, None], torch.zeros_like(D)
        return Weights(taps, bias, x_proj.weight, dt_proj.weight, dt_proj.bias, A, D)


class MambaLayer(nn.Module):
    """x + Mamba(LayerNorm(x)) on a volume; `residual=False` leaves the sum out.

    The inter-slice order cuts the volume along its first axis, whatever its size (nnU-Net puts the axis of lowest
    resolution there), unless `n_slices` fixes the number, as released code does. mamba: another mixer than `Mamba` with
    these settings.
    """

    def __init__(
        self,
        channels: int,
        orders: str = ORDERS,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        n_slices: int | None = None,
        residual: bool = True,
        mamba: nn.Module | None = None,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, orders, d_state, d_conv, expand) if mamba is None else mamba
        self.n_slices = n_slices
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(b c *space) -> (b c *space)"""
        n_slices = x.shape[2] if self.n_slices is None else self.n_slices
        with torch.autocast(x.device.type, enabled=False):
            y = normed_mamba(self.norm, self.mamba, to_tokens(x), x.shape[2:], n_slices)
            y = to_volume(y, x.shape[2:])
            return x + y if self.residual else y


def to_tokens(x: Tensor) -> Tensor:
    """(b c *space) -> (b l c), row-major"""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, space: Sequence[int]) -> Tensor:
    """(b l c) -> (b c *space)"""
    return tokens.transpose(1, 2).unflatten(2, tuple(space))


def normed_mamba(norm: nn.Module, mamba: nn.Module, tokens: Tensor, space: Sequence[int], n_slices: int = 1) -> Tensor:
    """Mamba(LayerNorm(tokens)) in a precision that holds; call it with autocast off. `space`: of the tokens' volume.

    fp16 tokens are computed in float32, where the gated sum cannot overflow; bfloat16 has the range and keeps its
    dtype for the linear maps. The norm is float32 in both cases.
    """
    dtype = tokens.dtype if tokens.dtype != torch.float16 else torch.float32
    return mamba(norm(tokens.to(norm.weight.dtype)).to(dtype), n_slices, space)  # type: ignore[arg-type]


def check_letters(orders: str) -> None:
    """Raises ValueError for anything but different letters of scan orders."""
    if not orders or any(order not in ORDERS for order in orders) or len(set(orders)) < len(orders):
        raise ValueError(f"orders={orders!r}; expected different letters out of {', '.join(ORDERS)}")


def inverse_softplus_of_random_steps(count: int) -> Tensor:
    """Biases for which softplus gives step sizes log-uniform in [1e-3, 1e-1] (Gu & Dao 2023, section 3.6)."""
    dt = torch.exp(torch.rand(count) * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN)).clamp(min=DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))
