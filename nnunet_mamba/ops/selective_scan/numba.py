"""The CPU default: compiled loops, parallel over batch, channel blocks and, on many cores, pieces of the sequence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops._numba_runtime import Scan, as_array, n_segments, scaled_A, why_not
from nnunet_mamba.ops.numerics import accumulation_dtype
from nnunet_mamba.ops.selective_scan.recurrence import Recurrence

__all__ = ["backward", "forward", "why_not"]


def recurrence(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """u, dt (b l d); A (d n); B, C (b l n) -> y (b l d), states (b c n d)"""
    scan = _scan(u, dt, A, B, C)
    y = np.zeros_like(scan.u)
    states = scan.forward(y)
    return torch.from_numpy(y).view(u.shape), torch.from_numpy(states)


def recurrence_backward(
    grad_y: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad_y (b l d) -> gradients of u, dt, A, B, C, and y (b l d) once more"""
    scan = _scan(u, dt, A, B, C)
    dtype = accumulation_dtype(u)
    y = np.zeros_like(scan.u)
    grads = scan.backward(as_array(grad_y, dtype).reshape(scan.u.shape), as_array(states, dtype), y)
    grad_u, grad_dt, grad_BC, grad_A, _ = (torch.from_numpy(g) for g in grads)
    # copies, because the results of an op must not share memory
    grad_B, grad_C = (g.clone() for g in grad_BC.view(*B.shape[:2], 2 * B.shape[2]).split(B.shape[2], -1))
    return grad_u.view(u.shape), grad_dt.view(u.shape), grad_A.T, grad_B, grad_C, torch.from_numpy(y).view(u.shape)


def _scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Scan:
    dtype = accumulation_dtype(u)
    batch, length, channels = u.shape
    rows = batch * length
    empty = np.empty((0, channels), as_array(A, dtype).dtype)
    return Scan(
        u=as_array(u, dtype).reshape(rows, channels),
        given=as_array(dt, dtype).reshape(rows, channels),
        proj=as_array(torch.cat((B, C), -1), dtype).reshape(rows, 2 * B.shape[2]),
        dt_proj=empty,
        dt_bias=np.zeros(channels, empty.dtype),
        A2=scaled_A(A, dtype),
        D=np.zeros(channels, empty.dtype),
        batch=batch,
        order=0,
        n_slices=1,
        segments=n_segments(batch, channels, length),
    )


_RECURRENCE = Recurrence(recurrence, recurrence_backward)
forward = _RECURRENCE.forward
backward = _RECURRENCE.backward
