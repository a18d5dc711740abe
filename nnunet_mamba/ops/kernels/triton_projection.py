"""Launches of the kernels between matrix products and scan, and products over many tokens. Imports triton."""

# a launch takes more arguments than its kernel declares
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_projection_kernels as kernels
from nnunet_mamba.ops.kernels.triton_scan import OPTIONS
from nnunet_mamba.ops.kernels.triton_sizes import ALIGN, ROWS, state_block

BT, BD = 32, 32
"""Tokens and channels of one program."""


def time_steps(projected: Tensor, weight: Tensor, bias: Tensor, states: int) -> tuple[Tensor, Tensor]:
    """projected (s l p), weight (o e r), bias (o e) -> dt (s l e) after softplus, and B|C (s l 2*states), both in the
    precision of bias"""
    sequences, length, width = projected.shape
    orders, channels, rank = weight.shape
    dt, bc = bias.new_empty((sequences, length, channels)), bias.new_empty((sequences, length, 2 * states))
    kernels.time_steps_kernel[(triton.cdiv(length, BT), triton.cdiv(channels, BD), sequences)](
        projected, weight, bias, dt, bc, sequences // orders, length, CHANNELS=channels, STATES=states, RANK=rank,
        WIDTH=width, NB=state_block(states, bias.dtype), BT=BT, BD=BD, num_warps=4, **OPTIONS,
    )  # fmt: skip
    return dt, bc


def gated(grad_y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
    """grad_y, z (b l e) -> grad_y * silu(z) in this precision; grad_y contiguous, z's channels adjacent"""
    batch, length, channels = z.shape
    behind = grad_y.new_empty(z.shape, dtype=dtype)
    kernels.gate_kernel[(triton.cdiv(length, BT), triton.cdiv(channels, BD), batch)](
        grad_y, z, behind, length, z.stride(0), z.stride(1), CHANNELS=channels, BT=BT, BD=BD, num_warps=4, **OPTIONS,
    )  # fmt: skip
    return behind


def grad_projected(grad_bc: Tensor, grad_low: Tensor, width: int, states: int) -> Tensor:
    """grad_bc by blocks of channels (k s l 2n) and grad_low (s l r) -> (s l width) in the precision of grad_low"""
    sequences, length, rank = grad_low.shape
    out = grad_low.new_empty((sequences, length, width))
    kernels.grad_projected_kernel[(triton.cdiv(sequences * length, BT),)](
        grad_bc, grad_low, out, sequences * length, STATES=states, RANK=rank, WIDTH=width, D_BLOCKS=len(grad_bc),
        NB=state_block(states, grad_bc.dtype), ALIGN=ALIGN, BT=BT, num_warps=4, **OPTIONS,
    )  # fmt: skip
    return out


def over_tokens(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a (o t i), b (o t j) -> sum over tokens of a[i] b[j] (o i j), in this precision

    Partial sums over blocks of tokens, in a fixed order: one long product would keep a single multiprocessor busy.
    """
    tokens = a.shape[1]
    whole = tokens // ROWS * ROWS
    if not whole:
        return _product(a.transpose(1, 2), b, dtype)
    left, right = (t[:, :whole].unflatten(1, (-1, ROWS)).flatten(0, 1) for t in (a, b))
    total = _product(left.transpose(1, 2), right, dtype).unflatten(0, (len(a), -1)).sum(1)
    if whole < tokens:
        total += _product(a[:, whole:].transpose(1, 2), b[:, whole:], dtype)
    return total


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Half precision in, `dtype` out, where torch can (2.8 and newer, on a GPU); else rounded on the way"""
    if a.dtype != dtype and a.is_cuda and _HAS_OUT_DTYPE:
        return torch.bmm(a, b, out_dtype=dtype)
    return torch.bmm(a, b).to(dtype)


_HAS_OUT_DTYPE = "dtype" in torch.ops.aten.bmm.overloads()
