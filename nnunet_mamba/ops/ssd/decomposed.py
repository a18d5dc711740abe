"""SSD written out in torch's own operators, for programs that leave this package: matrix products over rows of 64.

As `blocked`, but one row after the other. The exponent of a decay between two steps is a sum of negative numbers, taken
for every pair anew by a product with ones: no difference of sums, and nothing that exp could overflow on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.exporting import over_blocks
from nnunet_mamba.ops.numerics import accumulation_dtype

ROW = 64


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """x (b l h p); dt (b l h); A, D, dt_bias (h); B, C (b l g n) -> y (b l h p)"""
    acc = accumulation_dtype(x)
    x_, step = x.to(acc), dt.to(acc)
    if dt_bias is not None:
        step = step + dt_bias.to(acc)
    y = walk(x_, F.softplus(step) if softplus else step, A.to(acc), B.to(acc), C.to(acc))
    if D is not None:
        y = y + D.to(acc)[:, None] * x_
    return y.to(x.dtype)


def walk(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """x (b l h p); dt (b l h); A (h); B, C (b l g n) -> y (b l h p)

    S[t] = exp(dt[t] A) S[t-1] + dt[t] B[t] x[t]^T, y[t] = C[t] . S[t]. Source: Dao & Gu 2024, section 6.
    """
    batch, length, heads, p = x.shape
    groups, n = B.shape[2:]
    q = min(ROW, length)
    up_to = torch.ones(q, q, dtype=x.dtype, device=x.device).tril()  # [i, j]: step j is not after step i
    before = up_to - torch.eye(q, dtype=x.dtype, device=x.device)

    def step(
        S: Tensor, given: Tensor, exponent: Tensor, B_: Tensor, C_: Tensor
    ) -> tuple[Tensor, Tensor]:  # S (b g k n p); given = dt x (b g k q p); exponent = dt A (b g k q); B, C (b g q n)
        since_start = torch.exp(exponent @ up_to.T)
        # [i, j]: decay from step j to step i, the exponents of j + 1 ... i; one where j > i, before the mask
        between = torch.exp(up_to @ (exponent[..., None] * before)) * up_to
        y = (between * (C_ @ B_.transpose(-1, -2))[:, :, None]) @ given
        y = y + since_start[..., None] * (C_[:, :, None] @ S)
        to_end = (B_[:, :, None] * between[..., -1, :, None]).transpose(-1, -2)
        return since_start[..., -1:, None] * S + to_end @ given, y

    of_heads = (dt[..., None] * x).flatten(2), dt * A
    given, exponent = (_fold(t, q).unflatten(3, (groups, heads // groups, -1)) for t in of_heads)  # (c b q g k p)
    B_, C_ = (_fold(t.flatten(2), q).unflatten(3, (groups, n)).transpose(2, 3) for t in (B, C))
    blocks = given.permute(0, 1, 3, 4, 2, 5), exponent[..., 0].permute(0, 1, 3, 4, 2), B_, C_
    first = x.new_zeros(batch, groups, heads // groups, n, p)
    y = over_blocks(step, first, blocks)  # (c b g k q p)
    return y.permute(1, 0, 4, 2, 3, 5).reshape(batch, -1, heads, p)[:, :length]


def _fold(t: Tensor, q: int) -> Tensor:
    """(b l k) -> (c b q k): step l = c * q + i; missing steps are zero"""
    count = -(-t.shape[1] // q)
    t = F.pad(t, (0, 0, 0, count * q - t.shape[1]))
    return t.unflatten(1, (count, q)).transpose(0, 1)
