"""The selective scan written out in torch's own operators, for programs that leave this package.

As `blocked`, in blocks of 16 x 8 steps and with few, large operators: 16 rows advance together for 8 steps, then the
true state at each row's start is carried down the rows. Decays are exponentials of negative numbers and products of
these, never quotients, so nothing overflows. Independent scans, of several orders, go side by side along an axis o.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.exporting import over_blocks
from nnunet_mamba.ops.numerics import accumulation_dtype

ROWS, STEPS = 16, 8
"""Of a block. Measured in onnxruntime on a CPU: a block of these fits the cache, and has few operators to start."""


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """u, delta, z (b d l); A (d n); B, C (b n l); D, delta_bias (d) -> y (b d l)"""
    dtype = accumulation_dtype(u)
    u_, dt, B_, C_ = (x.to(dtype).transpose(1, 2)[:, None] for x in (u, delta, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)
    y = walk(u_, F.softplus(dt) if delta_softplus else dt, A.to(dtype)[None], B_, C_)
    if D is not None:
        y = y + D.to(dtype) * u_
    y = y[:, 0].transpose(1, 2)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)


def walk(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """u, dt (b o l d); A (o d n); B, C (b o l n) -> y (b o l d)

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t], y[t] = C[t] . h[t]. Source: Gu & Dao 2023, equations 2 and 4.
    """
    batch, scans, length, channels = u.shape
    rows = min(ROWS, -(-length // STEPS))
    first = u.new_zeros(1, batch, scans, 1, A.shape[2], channels)
    decays = A.transpose(1, 2)[:, None].contiguous()  # (o 1 n d)
    y = over_blocks(partial(_block, decays), first, [_fold(x, rows) for x in (u, dt, B, C)])
    return y.permute(2, 3, 0, 4, 1, 5).reshape(batch, scans, -1, channels)[:, :, :length]


def _fold(x: Tensor, rows: int) -> Tensor:
    """(b o l k) -> (c s b o r k): step l = (c * rows + r) * STEPS + s; missing steps are zero"""
    batch, scans, length, channels = x.shape
    count = -(-length // (rows * STEPS))
    x = F.pad(x, (0, 0, 0, count * rows * STEPS - length))
    return x.reshape(batch, scans, count, rows, STEPS, channels).permute(2, 4, 0, 1, 3, 5)


def _block(decays: Tensor, state: Tensor, u: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """State before the block (1 b o 1 n d); u, dt (s b o r d); B, C (s b o r n) -> state after it, y (s b o r d)

    Missing steps at the end have dt = 0: they decay by exp(0) = 1 and add nothing, so the last state is right.
    """
    decay = torch.exp(dt[..., None, :] * decays).split(1)
    added = ((dt * u)[..., None, :] * B[..., None]).split(1)  # each step's (1 b o r n d)
    within, reach = [added[0]], [decay[0]]  # the state from a row's start on, and what is left of the one before it
    for s in range(1, STEPS):
        within.append(decay[s] * within[-1] + added[s])
        reach.append(decay[s] * reach[-1])
    starts = []
    for left, of_row in zip(reach[-1].split(1, 3), within[-1].split(1, 3), strict=True):
        starts.append(state)
        state = left * state + of_row
    h = torch.cat(within) + torch.cat(reach) * torch.cat(starts, 3)
    return state, (C[..., None, :] @ h)[..., 0, :]
