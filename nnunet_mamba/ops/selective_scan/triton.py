"""The scan on a GPU by Triton, in parallel over chunks of l.

Works channel-last, so that neighbouring threads read neighbouring addresses: (b d l) tensors are copied once unless
they are views of contiguous (b l d) ones. State entries beyond 16 (float64: 4) are scanned block after block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_sizes as sizes
from nnunet_mamba.ops.kernels import triton_support as support
from nnunet_mamba.ops.numerics import accumulation_dtype, n_chunks

if TYPE_CHECKING:
    from nnunet_mamba.ops.kernels.triton_scan import Scan


def why_not(u: Tensor) -> str | None:
    """None when Triton kernels can run for u (b d l), otherwise the reason in one sentence."""
    return support.why_not(u, length_axis=2)


def tested_as(u: Tensor) -> tuple[int, dict[str, int]]:
    """Channels and options of a small case that runs the very kernels that u (b d l) will need"""
    batch, channels, length = u.shape
    return channels, {"chunk": sizes.choose_chunk(batch, length, channels)}


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
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """u, delta, z (b d l); A (d n); B, C (b n l); D, delta_bias (d) -> y (b d l), states (b c n d)

    chunk: steps per program, a divisor of 256 and multiple of 8; chosen by size if not given.
    """
    batch, channels, length = u.shape
    if not u.numel():
        return torch.empty_like(u), u.new_empty(
            (batch, n_chunks(length), A.shape[1], channels), dtype=accumulation_dtype(u)
        )
    with support.launching(u):
        scan = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk)
        starts = scan.starts()
        y = u.new_empty((batch, length, channels))
        partial = u.new_empty(y.shape, dtype=scan.A.dtype) if len(scan.blocks) > 1 else None
        scan.outputs(starts, partial, y, add=False)
        return y.transpose(1, 2).contiguous(), scan.saved(starts).clone(memory_format=torch.contiguous_format)


def backward(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    states: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor | None, ...]:
    """grad_y (b d l) -> gradients of u, delta, A, B, C, D, z, delta_bias; None where the argument was None"""
    if not u.numel():
        given = (u, delta, A, B, C, D, z, delta_bias)
        return tuple(None if x is None else torch.zeros_like(x) for x in given)
    from nnunet_mamba.ops.kernels import triton_projection

    with support.launching(u):
        scan = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk)
        batch, channels, length = u.shape
        n, padded, acc = A.shape[1], scan.A.shape[1], scan.A.dtype
        grad_delta = scan.A.new_empty((batch, length, channels))
        grad_z = None if z is None else z.new_empty((batch, length, channels))
        partial = torch.empty_like(grad_z, dtype=acc) if grad_z is not None and len(scan.blocks) > 1 else None
        grad_rows = _channel_last(grad_y)
        behind = grad_rows.to(acc) if scan.z is None else triton_projection.gated(grad_rows, scan.z, acc)
        grad_u, grad_bc, grad_A, grad_bias, grad_D = scan.backward(
            grad_rows, behind, scan.restored(states), grad_delta, partial, grad_z, add=False
        )
        grad_bc = grad_bc.sum(0)
        return (
            _channel_first(grad_u, u),
            _channel_first(grad_delta, delta),
            grad_A[0, :n].T.to(A.dtype).contiguous(),
            _channel_first(grad_bc[..., :n], B),
            _channel_first(grad_bc[..., padded : padded + n], C),
            None if D is None or grad_D is None else grad_D[0].to(D.dtype),
            None if z is None or grad_z is None else _channel_first(grad_z, z),
            None if delta_bias is None else grad_bias[0].to(delta_bias.dtype),
        )


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    chunk: int | None,
) -> Scan:
    from nnunet_mamba.ops.kernels import triton_scan

    batch, channels, length = u.shape
    acc, n = accumulation_dtype(u), A.shape[1]
    packed = triton_scan.pack_decays(A[None], acc)
    padded = packed.shape[1]
    bc = packed.new_zeros((batch, length, 2 * padded))
    bc[..., :n] = B.transpose(1, 2)
    bc[..., padded : padded + n] = C.transpose(1, 2)
    return triton_scan.Scan(
        u=_channel_last(u), dt=_time_steps(_channel_last(delta).to(acc), delta_bias, delta_softplus), bc=bc, A=packed,
        D=None if D is None else D[None].to(acc), z=None if z is None else _channel_last(z), n=n,
        softplus=delta_softplus, orders=triton_scan.Orders("f", 1),
        chunk=chunk or sizes.choose_chunk(batch, length, channels),
    )  # fmt: skip


def _time_steps(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """delta (b l d) in accumulation precision -> what the recurrence multiplies with"""
    if bias is not None:
        delta = delta + bias.to(delta.dtype)
    # without a threshold, which would cut small terms of float64; log1p(exp(x)) overflows beyond that
    return torch.logaddexp(delta, delta.new_zeros(())) if softplus else delta


def _channel_last(x: Tensor) -> Tensor:
    """(b d l) -> (b l d)"""
    return x.transpose(1, 2).contiguous()


def _channel_first(x: Tensor, like: Tensor) -> Tensor:
    """(b l d) -> (b d l) in the dtype of `like`

    Always a copy: of one token even a slice is contiguous, and two gradients must not share their memory.
    """
    return x.to(like.dtype).transpose(1, 2).clone(memory_format=torch.contiguous_format)
