"""Launches of the scan kernels: block sizes, buffers, and the order of the passes. Imports triton."""

# a launch takes more arguments than its kernel declares
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_backward, triton_forward
from nnunet_mamba.ops.kernels.triton_sizes import BD, CHECKPOINT, padded_states, state_block
from nnunet_mamba.ops.numerics import CHUNK

CARRY_CHUNKS, CARRY_LANES = 64, 32
OPTIONS = {"enable_fp_fusion": True}
"""Multiply-adds in one instruction: Triton is about to turn its default off."""
REGISTERS = {"outputs": 80, "again": 168}
"""Of a thread, at most, on NVIDIA's GPUs. A few values then move to memory and back, but more programs run next to each
other and hide each other's loads: on an H200, `outputs` took 1.26 ms instead of 2.31, `again` 3.07 instead of 3.65."""


@dataclass(frozen=True)
class Orders:
    """Token orders that go through the kernels together, as the letters of `oriented_scan`"""

    letters: str
    n_slices: int

    @property
    def codes(self) -> int:
        """Two bits an order, the first one lowest, as `triton_pieces.order_of` reads them"""
        return sum("fbs".index(letter) << 2 * k for k, letter in enumerate(self.letters))

    def __len__(self) -> int:
        return len(self.letters)


AS_THEY_COME = Orders("f", 1)


def pack_decays(A: Tensor, dtype: torch.dtype) -> Tensor:
    """A (o e n) -> (o, padded n, e)"""
    orders, channels, n = A.shape
    padded = padded_states(n, dtype)
    if padded == n:
        return A.transpose(1, 2).to(dtype).contiguous()
    packed = A.new_zeros((orders, padded, channels), dtype=dtype)
    packed[:, :n] = A.transpose(1, 2)
    return packed


@dataclass(frozen=True)
class Scan:
    """Scans of b samples in o orders, s = o * b sequences, in the precision of A. All contiguous.

    u, dt (s l e), the time step after softplus; bc (s l 2*padded n): B, then C, each padded with zeros, in A's
    precision; A (o, padded n, e); D (o e) or None; z (b l e), in token order, channels adjacent, or None; chunk: a
    divisor of 256 that 8 divides; softplus: whether the gradient of dt is wanted before softplus.
    """

    u: Tensor
    dt: Tensor
    bc: Tensor
    A: Tensor
    D: Tensor | None
    z: Tensor | None
    n: int
    softplus: bool
    orders: Orders
    chunk: int

    @property
    def batches(self) -> int:
        return self.u.shape[0] // len(self.orders)

    @property
    def n_chunks(self) -> int:
        return triton.cdiv(self.u.shape[1], self.chunk)

    @property
    def block(self) -> int:
        return state_block(self.n, self.A.dtype)

    @property
    def blocks(self) -> range:
        """First state entry of each block"""
        return range(0, self.A.shape[1], self.block)

    def starts(self, out: Tensor | None = None) -> Tensor:
        """The state at the start of every chunk (s c padded-n e), in `out` if given"""
        shape = (self.u.shape[0], self.n_chunks, *self.A.shape[1:])
        out = self.A.new_empty(shape) if out is None else out
        if self.n_chunks == 1:
            return out.zero_()
        ends, sums = self.A.new_empty(shape), self.A.new_empty((*shape[:2], shape[3]))
        triton_forward.chunk_ends_kernel[self._grid(len(self.u), len(self.blocks))](
            self.u, self.dt, self.bc, self.A, ends, sums, self.batches, self.u.shape[1], **self._constants(),
        )  # fmt: skip
        return self._carry(ends, sums, out, reverse=False)

    def saved(self, starts: Tensor) -> Tensor:
        """Of the chunks' start states, those to keep for the gradient (s ceil(l/256) n e)"""
        return starts[:, :: CHUNK // self.chunk, : self.n]

    def keeps_all(self) -> bool:
        """Whether the chunks' start states are what is kept"""
        return self.chunk == CHUNK and self.n == self.A.shape[1]

    def restored(self, saved: Tensor) -> Tensor:
        """The chunks' start states from those kept; computed again if the chunks are shorter than what was kept"""
        if self.chunk != CHUNK:
            return self.starts()
        if self.keeps_all():
            return saved.contiguous()
        return torch.nn.functional.pad(saved, (0, 0, 0, self.A.shape[1] - self.n))

    def outputs(self, starts: Tensor, partial: Tensor | None, out: Tensor | None, add: bool) -> None:
        """y (b l e) in token order, into `out` through the gate, or into the running sum `partial` if `out` is None

        add: `partial` already holds something to be added to. `partial` may be None if nothing is ever added.
        """
        for order, n0, is_first, is_last in self._passes():
            last = out is not None and is_last
            triton_forward.outputs_kernel[self._grid(self.batches)](
                self.u, self.dt, self.bc, self.A, self.D if n0 == 0 else None, self.z, starts, partial, out, order,
                self.batches, self.u.shape[1], n0, *self._order_arguments(), *self._gate_strides(),
                **self._constants(), **self._limit("outputs"), ADD=add or not is_first, LAST=last,
            )  # fmt: skip

    def backward(
        self,
        grad_y: Tensor,
        behind: Tensor,
        starts: Tensor,
        grad_delta: Tensor,
        partial: Tensor | None,
        grad_z: Tensor | None,
        add: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """grad_y (b l e) and grad_y * silu(z), `behind`, in token order -> gradients of u (s l e), of bc by blocks of
        channels (k s l 2*padded n), of A (o n e), of the bias of the time step, and of D (o e)

        Fills grad_delta (s l e) and, as `outputs` does y, the gradient of z if z is given.
        """
        sequences, length, channels = self.u.shape
        padded, n_orders = self.A.shape[1], len(self.orders)
        grad_u = self.A.new_empty((sequences, length, channels))
        grad_bc = self.A.new_empty((triton.cdiv(channels, BD), sequences, length, 2 * padded))
        grad_A = self.A.new_empty((sequences, self.n_chunks, padded, channels))
        grad_bias, sums, grad_D = self.A.new_empty((3, sequences, self.n_chunks, channels))
        ends, entering = torch.empty_like(grad_A), torch.empty_like(grad_A)
        checkpoints = self.A.new_empty((sequences, self.n_chunks * (self.chunk // CHECKPOINT), self.block, channels))
        constants = self._constants()
        for n0 in self.blocks:
            D = self.D if n0 == 0 else None
            for order in range(n_orders):
                is_first, is_last = order == 0 and n0 == 0, order == n_orders - 1 and n0 == self.blocks[-1]
                triton_backward.again_kernel[self._grid(self.batches)](
                    self.u, self.dt, self.bc, self.A, D, self.z, grad_y, behind, starts, checkpoints, ends, sums,
                    grad_bc, None if D is None else grad_D, partial, grad_z, order, self.batches, sequences, length, n0,
                    *self._order_arguments(), *self._gate_strides(), **constants, **self._limit("again"),
                    ADD=add or not is_first, LAST=grad_z is not None and is_last,
                )  # fmt: skip
            # only this block's entries of `ends` are new; what is carried for the others is not read
            self._carry(ends, sums, entering, reverse=True)
            triton_backward.adjoints_kernel[self._grid(sequences)](
                self.u, self.dt, self.bc, self.A, D, behind, checkpoints, entering, grad_u, grad_delta, grad_bc, grad_A,
                grad_bias, self.batches, sequences, length, n0, *self._order_arguments(), **constants,
                SOFTPLUS=self.softplus, ADD=n0 > 0,
            )  # fmt: skip

        def over_chunks(x: Tensor) -> Tensor:
            return x.unflatten(0, (n_orders, self.batches)).sum((1, 2))

        return (
            grad_u,
            grad_bc,
            over_chunks(grad_A),
            over_chunks(grad_bias),
            None if self.D is None else over_chunks(grad_D),
        )

    def _passes(self) -> list[tuple[int, int, bool, bool]]:
        """order, first state entry, and whether it is the first or the last, of the passes that sum up to y"""
        passes = [(order, n0) for order in range(len(self.orders)) for n0 in self.blocks]
        return [(*p, k == 0, k == len(passes) - 1) for k, p in enumerate(passes)]

    def _carry(self, ends: Tensor, sums: Tensor, out: Tensor, reverse: bool) -> Tensor:
        tile = ends.shape[2] * ends.shape[3]
        triton_forward.carry_kernel[(triton.cdiv(tile, CARRY_LANES), ends.shape[0])](
            ends, sums, self.A, out, self.batches, ends.shape[1], CHANNELS=ends.shape[3], STATES=ends.shape[2],
            CB=min(CARRY_CHUNKS, triton.next_power_of_2(ends.shape[1])), BK=CARRY_LANES, REVERSE=reverse,
            num_warps=4, **OPTIONS,
        )  # fmt: skip
        return out

    def _constants(self) -> dict[str, int | bool]:
        return {"CHANNELS": self.u.shape[2], "STATES": self.A.shape[1], "CHUNK": self.chunk, "NB": self.block,
                "BD": BD, "num_warps": 1, **OPTIONS}  # fmt: skip

    def _limit(self, kernel: str) -> dict[str, int]:
        """float64 needs twice the registers; other makers' compilers do not know the option"""
        is_nvidia = self.u.device.type == "cuda" and torch.version.hip is None
        return {"maxnreg": REGISTERS[kernel]} if is_nvidia and self.A.dtype == torch.float32 else {}

    def _grid(self, sequences: int, state_blocks: int = 1) -> tuple[int, int, int]:
        return self.n_chunks, triton.cdiv(self.u.shape[2], BD) * state_blocks, sequences

    def _order_arguments(self) -> tuple[int, int]:
        return self.orders.codes, self.orders.n_slices

    def _gate_strides(self) -> tuple[int, int]:
        return (0, 0) if self.z is None else (self.z.stride(0), self.z.stride(1))
