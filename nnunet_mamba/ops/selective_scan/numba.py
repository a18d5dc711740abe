"""The CPU default: compiled loops, parallel over batch, channel blocks and, on many cores, pieces of the sequence.

They work on rows (one token after the other); (b d l) tensors are transposed tile by tile on the way in and out, unless
they are views of contiguous (b l d) ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.kernels.numba_runtime import Scan, Workspace, as_array, call, n_segments, scaled_A, why_not
from nnunet_mamba.ops.numerics import accumulation_dtype

__all__ = ["backward", "forward", "why_not"]

TRANSPOSED = 512
"""Tokens per transposed tile: 16 channels of them fit the first cache, and shorter ones touch more pages per byte."""


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
) -> tuple[Tensor, Tensor]:
    """u, delta, z (b d l); A (d n); B, C (b n l); D, delta_bias (d) -> y (b d l), states (b c n d)"""
    dtype = accumulation_dtype(u)
    scan = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    y = np.zeros_like(scan.u)
    states = scan.forward(y)
    if z is None:
        return to_channels(y, u), torch.from_numpy(states)
    gated = np.empty(tuple(u.shape), y.dtype)
    call("to_channels_gated", y, as_array(z, dtype), TRANSPOSED, gated)
    return torch.from_numpy(gated).to(u.dtype), torch.from_numpy(states)


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
) -> tuple[Tensor | None, ...]:
    """grad_y (b d l) -> gradients of u, delta, A, B, C, D, z, delta_bias; None where the argument was None"""
    dtype = accumulation_dtype(u)
    scan = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    y, n, grad_z = np.zeros_like(scan.u), A.shape[1], None
    if z is None:
        grads = scan.backward(to_rows(grad_y, dtype), as_array(states, dtype), y, Workspace())
    else:
        grad, gate, ungated = as_array(grad_y, dtype), as_array(z, dtype), np.empty_like(scan.u)
        call("to_rows_gated", grad, gate, TRANSPOSED, ungated)
        grads = scan.backward(ungated, as_array(states, dtype), y, Workspace())
        target = np.empty(tuple(z.shape), y.dtype)
        call("gate_gradient", y, grad, gate, TRANSPOSED, target)
        grad_z = torch.from_numpy(target).to(z.dtype)
    del y
    return (
        to_channels(grads.u, u),
        to_channels(grads.dt, delta),
        torch.from_numpy(grads.A).T.to(A.dtype),
        to_channels(grads.BC[:, :n], B),
        to_channels(grads.BC[:, n:], C),
        None if D is None else torch.from_numpy(grads.D).to(D.dtype),
        grad_z,
        None if delta_bias is None else torch.from_numpy(grads.dt_bias).to(delta_bias.dtype),
    )


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> Scan:
    dtype = accumulation_dtype(u)
    batch, channels, length = u.shape
    rows = to_rows(u, dtype)
    none = np.zeros(channels, rows.dtype)
    return Scan(
        u=rows,
        given=to_rows(delta, dtype),
        proj=np.concatenate((to_rows(B, dtype), to_rows(C, dtype)), 1),
        dt_proj=np.empty((0, channels), rows.dtype),
        dt_bias=none if delta_bias is None else as_array(delta_bias, dtype),
        softplus=softplus,
        A2=scaled_A(A, dtype),
        D=none if D is None else as_array(D, dtype),
        batch=batch,
        order=0,
        n_slices=1,
        segments=n_segments(batch, channels, length),
    )


def to_rows(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """(b d l) -> (b*l d)"""
    batch, channels, length = x.shape
    rows = (batch * length, channels)
    if x.transpose(1, 2).is_contiguous():
        return as_array(x.transpose(1, 2), dtype).reshape(rows)
    source = as_array(x, dtype)
    target = np.empty(rows, source.dtype)
    call("to_rows", source, TRANSPOSED, target)
    return target


def to_channels(rows: np.ndarray, like: Tensor) -> Tensor:
    """(b*l d) -> (b d l), contiguous, in the dtype of `like`"""
    target = np.empty(tuple(like.shape), rows.dtype)
    call("to_channels", np.ascontiguousarray(rows), TRANSPOSED, target)
    return torch.from_numpy(target).to(like.dtype)
