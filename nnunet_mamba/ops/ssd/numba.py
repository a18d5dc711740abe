"""The CPU default: a compiled walk over tokens with one decay per head, parallel over batch and blocks of channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.kernels.numba_runtime import Workspace, as_array, as_rows, why_not
from nnunet_mamba.ops.kernels.numba_ssd import Scan, Sizes, scaled_decays
from nnunet_mamba.ops.numerics import accumulation_dtype

__all__ = ["backward", "forward", "why_not"]


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """x (b l h p); dt (b l h); A, D, dt_bias (h); B, C (b l g n) -> y (b l h p), states (b c h n p)"""
    scan = _scan(x, dt, A, B, C, D, dt_bias, softplus)
    y = np.zeros((x.shape[0] * x.shape[1], scan.sizes.channels), scan.A2.dtype)
    states = scan.forward(y)
    return _like(y, x), torch.from_numpy(states)


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
) -> tuple[Tensor | None, ...]:
    """grad_y (b l h p) -> gradients of x, dt, A, B, C, D, dt_bias; None where the argument was None"""
    acc = accumulation_dtype(x)
    scan = _scan(x, dt, A, B, C, D, dt_bias, softplus)
    grad_rows = as_array(grad_y, acc).reshape(-1, scan.sizes.channels)
    of_groups = scan.sizes.groups * scan.sizes.n
    grad_x, grad_BC = np.empty_like(grad_rows), np.empty((len(grad_rows), 2 * of_groups), grad_rows.dtype)
    grads = scan.backward(grad_rows, as_array(states, acc), grad_x, (grad_BC, 0), Workspace())
    return (
        _like(grad_x, x),
        _like(grads.dt, dt),
        _like(grads.A, A),
        _like(np.ascontiguousarray(grad_BC[:, :of_groups]), B),
        _like(np.ascontiguousarray(grad_BC[:, of_groups:]), C),
        None if D is None else _like(grads.D, D),
        None if dt_bias is None else _like(grads.dt_bias, dt_bias),
    )


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
) -> Scan:
    acc = accumulation_dtype(x)
    sizes = Sizes(*x.shape, *B.shape[2:])
    A2 = scaled_decays(A, acc)
    none = np.zeros_like(A2)
    return Scan(
        x=as_rows(x.flatten(2), acc),
        B=as_rows(B.flatten(2), acc),
        C=as_rows(C.flatten(2), acc),
        dt=as_rows(dt, acc),
        dt_bias=none if dt_bias is None else as_array(dt_bias, acc),
        softplus=softplus,
        A2=A2,
        D=none if D is None else as_array(D, acc),
        sizes=sizes,
        order=0,
        n_slices=1,
        segments=sizes.segments,
    )


def _like(values: np.ndarray, tensor: Tensor) -> Tensor:
    return torch.from_numpy(values).view(tensor.shape).to(tensor.dtype)
