"""SSD on a GPU by Triton: products of matrices within rows of 32 steps, in parallel over chunks of l and heads.

x, B and C are packed side by side once, as the oriented SSD has them anyway.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_ssd_sizes as sizes
from nnunet_mamba.ops.kernels import triton_support as support
from nnunet_mamba.ops.numerics import accumulation_dtype, n_chunks

if TYPE_CHECKING:
    from nnunet_mamba.ops.kernels.triton_ssd import Scan


def why_not(x: Tensor) -> str | None:
    """None when Triton kernels can run for x (b l h p), otherwise the reason in one sentence."""
    return support.why_not(x, length_axis=1, multiplies=True)


def tested_as(x: Tensor) -> tuple[int, dict[str, int]]:
    """Channels of a head and options of a small case that runs kernels as x (b l h p) will need"""
    return x.shape[3], {"chunk": sizes.choose_chunk(*x.shape)}


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x (b l h p); dt (b l h); A, D, dt_bias (h); B, C (b l g n) -> y (b l h p), states (b c h n p)

    chunk: steps per program, 32, 64, 128 or 256; chosen by size if not given.
    """
    batch, length, heads, p = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = x.new_empty((batch, n_chunks(length), heads, B.shape[3], p), dtype=accumulation_dtype(x))
    if not x.numel():
        return y, states
    with support.launching(x):
        scan = _scan(x, dt, A, B, C, D, dt_bias, softplus, chunk)
        starts = scan.starts()
        scan.outputs(starts, None, y, add=False)
        states.copy_(scan.saved(starts))
        return y, states


def backward(
    grad_y: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    states: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor | None, ...]:
    """grad_y (b l h p) -> gradients of x, dt, A, B, C, D, dt_bias; None where the argument was None"""
    if not x.numel():
        return tuple(None if t is None else torch.zeros_like(t) for t in (x, dt, A, B, C, D, dt_bias))
    with support.launching(x):
        scan = _scan(x, dt, A, B, C, D, dt_bias, softplus, chunk)
        grad_u, grad_dt, grad_A, grad_bias, grad_D = scan.backward(grad_y.contiguous(), states)
        e, gn = x.shape[2] * x.shape[3], B.shape[2] * B.shape[3]
        grad_x, grad_B, grad_C = (
            # always a copy: of one step even a slice is contiguous, and two gradients must not share their memory
            grad.reshape(t.shape).to(t.dtype).clone(memory_format=torch.contiguous_format)
            for grad, t in zip(grad_u.split([e, gn, gn], -1), (x, B, C), strict=True)
        )
        return (
            grad_x, grad_dt.to(dt.dtype), grad_A[0].to(A.dtype), grad_B, grad_C,
            None if D is None or grad_D is None else grad_D[0].to(D.dtype),
            None if dt_bias is None else grad_bias[0].to(dt_bias.dtype),
        )  # fmt: skip


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    chunk: int | None,
) -> Scan:
    from nnunet_mamba.ops.kernels import triton_ssd
    from nnunet_mamba.ops.kernels.triton_scan import AS_THEY_COME

    acc = accumulation_dtype(x)
    packed = reduce(torch.promote_types, (B.dtype, C.dtype), x.dtype)
    return triton_ssd.Scan(
        u=torch.cat([t.flatten(2).to(packed) for t in (x, B, C)], -1),
        dt=dt if dt.stride(2) == 1 else dt.contiguous(),
        A=A[None].to(acc).contiguous(),
        dt_bias=None if dt_bias is None else dt_bias[None].to(acc).contiguous(),
        D=None if D is None else D[None].to(acc).contiguous(),
        groups=B.shape[2],
        n=B.shape[3],
        softplus=softplus,
        orders=AS_THEY_COME,
        chunk=chunk or sizes.choose_chunk(*x.shape),
    )
