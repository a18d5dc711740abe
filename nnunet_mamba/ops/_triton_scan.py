"""Launches of the scan kernels: block sizes, buffers, and the order of the passes. Imports triton."""

# a launch takes more arguments than its kernel declares
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from nnunet_mamba.ops import _triton_kernels as kernels
from nnunet_mamba.ops._triton_sizes import BD, CHECKPOINT, padded_states, state_block
from nnunet_mamba.ops.numerics import CHUNK

CARRY_CHUNKS, CARRY_LANES = 64, 32
OPTIONS = {"enable_fp_fusion": True}
"""Multiply-adds in one instruction: Triton is about to turn its default off."""


def choose_sub(x: Tensor) -> int:
    """Steps that the backward pass holds in registers at once: four where the compiled kernel then spills none"""
    is_nvidia = x.device.type == "cuda" and torch.version.hip is None
    return 4 if is_nvidia and torch.cuda.get_device_capability(x.device) >= (9, 0) else 2


def pack_decays(A: Tensor, dtype: torch.dtype) -> Tensor:
    """A (e n) -> (padded n, e)"""
    channels, n = A.shape
    packed = A.new_zeros((padded_states(n, dtype), channels), dtype=dtype)
    packed[:n] = A.T
    return packed


@dataclass(frozen=True)
class Scan:
    """One scan over tensors in scan order, in the precision of A. All contiguous but z, whose last stride is 1.

    u, delta (b l e); bc (b l 2*padded n): B, then C, each padded with zeros, in A's precision;
    A (padded n, e); bias, D (e) or None; z (b l e), in token order, or None; chunk: a divisor of 256 that 8 divides;
    sub: 2 or 4.
    """

    u: Tensor
    delta: Tensor
    bc: Tensor
    A: Tensor
    bias: Tensor | None
    D: Tensor | None
    z: Tensor | None
    n: int
    softplus: bool
    order: str
    n_slices: int
    chunk: int
    sub: int

    @property
    def n_chunks(self) -> int:
        return triton.cdiv(self.u.shape[1], self.chunk)

    @property
    def block(self) -> int:
        return state_block(self.n, self.A.dtype)

    def starts(self) -> Tensor:
        """The state at the start of every chunk (b c padded-n e)"""
        shape = (self.u.shape[0], self.n_chunks, *self.A.shape)
        if self.n_chunks == 1:
            return self.A.new_zeros(shape)
        ends, sums = self.A.new_empty(shape), self.A.new_empty((*shape[:2], shape[3]))
        kernels.chunk_ends_kernel[self._grid(self.A.shape[0] // self.block)](
            self.u, self.delta, self.bias, self.bc, self.A, ends, sums,
            *self.u.shape[1:], self.A.shape[0],
            CHUNK=self.chunk, NB=self.block, BD=BD, SOFTPLUS=self.softplus, num_warps=1, **OPTIONS,
        )  # fmt: skip
        return self._carry(ends, sums, reverse=False)

    def saved(self, starts: Tensor) -> Tensor:
        """Of the chunks' start states, those to keep for the gradient (b ceil(l/256) n e)"""
        return starts[:, :: CHUNK // self.chunk, : self.n].contiguous()

    def restored(self, saved: Tensor) -> Tensor:
        """The chunks' start states from those kept; computed again if the chunks are shorter than what was kept"""
        if self.chunk != CHUNK:
            return self.starts()
        if self.n == self.A.shape[0]:
            return saved.contiguous()
        return torch.nn.functional.pad(saved, (0, 0, 0, self.A.shape[0] - self.n))

    def outputs(self, starts: Tensor, partial: Tensor | None, out: Tensor | None, add: bool) -> None:
        """y (b l e) in token order, into `out` through the gate, or into the running sum `partial` if `out` is None

        add: `partial` already holds something to be added to. `partial` may be None if nothing is ever added.
        """
        blocks = range(0, self.A.shape[0], self.block)
        for n0 in blocks:
            is_last = out is not None and n0 == blocks[-1]
            kernels.outputs_kernel[self._grid()](
                self.u, self.delta, self.bias, self.bc, self.A, self.D if n0 == 0 else None, self.z, starts,
                partial, out, *self.u.shape[1:], self.A.shape[0], n0, self.n_slices, *self._gate_strides(),
                CHUNK=self.chunk, NB=self.block, BD=BD, SOFTPLUS=self.softplus, ORDER=self.order,
                ADD=add or n0 > 0, LAST=is_last, num_warps=1, **OPTIONS,
            )  # fmt: skip

    def backward(
        self,
        grad_y: Tensor,
        starts: Tensor,
        grad_delta: Tensor,
        partial: Tensor | None,
        grad_z: Tensor | None,
        add: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """grad_y (b l e) in token order -> gradients of u (b l e), bc (b l 2*padded n), A (n e), bias (e), D (e)

        Fills grad_delta (b l e), which may be delta itself, and, as `outputs` does y, the gradient of z if z is given.
        """
        batch, length, channels = self.u.shape
        padded, d_blocks = self.A.shape[0], triton.cdiv(channels, BD)
        grad_u = self.A.new_empty((batch, length, channels))
        grad_bc = self.A.new_empty((d_blocks, batch, length, 2 * padded))
        grad_A = self.A.new_empty((batch, self.n_chunks, padded, channels))
        grad_bias, sums = self.A.new_empty((2, batch, self.n_chunks, channels))
        grad_D = None if self.D is None else torch.empty_like(sums)
        ends = torch.empty_like(grad_A)
        checkpoints = self.A.new_empty((batch, self.n_chunks * (self.chunk // CHECKPOINT), self.block, channels))
        sizes = (batch, length, channels, padded)
        blocks = range(0, padded, self.block)
        delta = self.delta
        if len(blocks) > 1 and delta.data_ptr() == grad_delta.data_ptr():
            delta = delta.clone()  # later state blocks read it again
        for n0 in blocks:
            strides = self._gate_strides()
            constants = {"CHUNK": self.chunk, "NB": self.block, "BD": BD, "SOFTPLUS": self.softplus}
            D = self.D if n0 == 0 else None
            kernels.again_kernel[self._grid()](
                self.u, delta, self.bias, self.bc, self.A, D, self.z, grad_y, starts, checkpoints, ends, sums,
                grad_bc, grad_D, partial, grad_z, *sizes, n0, self.n_slices, *strides, **constants,
                ORDER=self.order, ADD=add or n0 > 0, LAST=grad_z is not None and n0 == blocks[-1],
                EVERY=CHECKPOINT, num_warps=1, **OPTIONS,
            )  # fmt: skip
            # only this block's entries of `ends` are new; what is carried for the others is not read
            entering = self._carry(ends, sums, reverse=True)
            kernels.adjoints_kernel[self._grid()](
                self.u, delta, self.bias, self.bc, self.A, D, self.z, grad_y, checkpoints, entering, grad_u,
                grad_delta, grad_bc, grad_A, grad_bias, *sizes, n0, self.n_slices, *strides, **constants,
                ORDER=self.order, ADD=n0 > 0, EVERY=CHECKPOINT, SUB=self.sub, num_warps=1, **OPTIONS,
            )  # fmt: skip
        return (
            grad_u,
            grad_bc.sum(0),
            grad_A.sum((0, 1)),
            grad_bias.sum((0, 1)),
            None if grad_D is None else grad_D.sum((0, 1)),
        )

    def _carry(self, ends: Tensor, sums: Tensor, reverse: bool) -> Tensor:
        starts = torch.empty_like(ends)
        tile = ends.shape[2] * ends.shape[3]
        kernels.carry_kernel[(triton.cdiv(tile, CARRY_LANES), ends.shape[0])](
            ends, sums, self.A, starts, ends.shape[1], ends.shape[3], tile,
            CB=min(CARRY_CHUNKS, triton.next_power_of_2(ends.shape[1])), BK=CARRY_LANES, REVERSE=reverse,
            num_warps=4, **OPTIONS,
        )  # fmt: skip
        return starts

    def _grid(self, state_blocks: int = 1) -> tuple[int, int, int]:
        return self.n_chunks, triton.cdiv(self.u.shape[2], BD) * state_blocks, self.u.shape[0]

    def _gate_strides(self) -> tuple[int, int]:
        return (0, 0) if self.z is None else (self.z.stride(0), self.z.stride(1))
