"""Compiled taps and SiLU in one pass over the tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.kernels.numba_runtime import TILE, as_array, call, why_not
from nnunet_mamba.ops.numerics import accumulation_dtype

__all__ = ["backward", "forward", "why_not"]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """x (b d l), weight (d w), bias (d) -> (b d l) in x's dtype"""
    rows, taps, shift = _arrays(x, weight, bias)
    y = np.empty_like(rows)
    call("convolve", rows, 0, taps, shift, 0, 1, x.shape[0], TILE, silu, y)
    return _channels_first(y, x)


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """grad_y (b d l) -> gradients of x, weight, bias"""
    rows, taps, shift = _arrays(x, weight, bias)
    grad = as_array(grad_y.transpose(1, 2), accumulation_dtype(x)).reshape(rows.shape).copy()
    if silu:
        call("convolve_backward_activation", rows, 0, taps, shift, 0, 1, x.shape[0], TILE, grad)
    grad_x = np.zeros_like(rows)
    grad_weight, grad_bias = convolve_gradients(grad, rows, 0, taps, 0, 1, x.shape[0], grad_x)
    return (
        _channels_first(grad_x, x),
        torch.from_numpy(grad_weight.T.copy()).to(weight.dtype),
        None if bias is None else torch.from_numpy(grad_bias).to(bias.dtype),
    )


def convolve_gradients(
    grad: np.ndarray,
    x: np.ndarray,
    x0: int,
    taps: np.ndarray,
    order: int,
    n_slices: int,
    batch: int,
    grad_x: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Adds to grad_x (rows e); returns the gradients of the taps (w e) and the bias (e)"""
    length = grad.shape[0] // max(1, batch)
    tasks = batch * -(-length // TILE)
    grad_weight = np.zeros((tasks, *taps.shape), grad.dtype)
    grad_bias = np.zeros((tasks, taps.shape[1]), grad.dtype)
    call("convolve_backward", grad, x, x0, taps, order, n_slices, batch, TILE, grad_x, grad_weight, grad_bias)
    return grad_weight.sum(0), grad_bias.sum(0)


def _arrays(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x as rows (b*l d), weight (w d), bias (d)"""
    dtype = accumulation_dtype(x)
    batch, channels, length = x.shape
    rows = as_array(x.transpose(1, 2), dtype).reshape(batch * length, channels)
    shift = as_array(bias, dtype) if bias is not None else np.zeros(channels, rows.dtype)
    return rows, as_array(weight.T, dtype), shift


def _channels_first(rows: np.ndarray, like: Tensor) -> Tensor:
    batch, channels, length = like.shape
    return torch.from_numpy(rows).view(batch, length, channels).transpose(1, 2).to(like.dtype).contiguous()
