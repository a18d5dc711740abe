"""The CPU default: compiled loops, parallel over batch, channel blocks and, on many cores, pieces of the sequence.

They work on rows (one token after the other); (b d l) tensors are transposed tile by tile on the way in and out, unless
they are views of contiguous (b l d) ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops._numba_runtime import TILE, Scan, Workspace, as_array, call, n_segments, scaled_A, why_not
from nnunet_mamba.ops.numerics import accumulation_dtype

__all__ = ["backward", "forward", "why_not"]

TRANSPOSED = 64
"""Tokens per transposed tile: 64 x 16 numbers stay in the first cache."""


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
    scan = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    y = np.zeros_like(scan.u)
    states = scan.forward(y)
    if z is not None:
        call("gate", y, to_rows(z), 0, TILE)
    return to_channels(y, u), torch.from_numpy(states)


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
    scan = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    grad, y, n = to_rows(grad_y), np.zeros_like(scan.u), A.shape[1]
    gate = None if z is None else to_rows(z)
    ungated = grad
    if gate is not None:
        ungated = np.empty_like(grad)
        call("ungate", grad, gate, 0, TILE, ungated)
    grads = scan.backward(ungated, as_array(states, accumulation_dtype(u)), y, Workspace())
    grad_z = None
    if z is not None and gate is not None:
        call("gate_backward", grad, gate, 0, TILE, y)
        grad_z = to_channels(y, z)
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
    rows = to_rows(u)
    none = np.zeros(channels, rows.dtype)
    return Scan(
        u=rows,
        given=to_rows(delta.to(dtype)),
        proj=np.concatenate((to_rows(B.to(dtype)), to_rows(C.to(dtype))), 1),
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


def to_rows(x: Tensor) -> np.ndarray:
    """(b d l) -> (b*l d) in accumulation precision"""
    dtype = accumulation_dtype(x)
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
