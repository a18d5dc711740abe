"""Launches of Mamba-2's scan kernels: block sizes, buffers, and the order of the passes. Imports triton."""

# a launch takes more arguments than its kernel declares
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_ssd_backward, triton_ssd_forward
from nnunet_mamba.ops.kernels import triton_ssd_sizes as sizes
from nnunet_mamba.ops.kernels.triton_scan import OPTIONS, Orders
from nnunet_mamba.ops.numerics import CHUNK

CARRY_CHUNKS, CARRY_LANES = 64, 32


def precision(dtype: torch.dtype, device: torch.device) -> str:
    """How products of float32 operands are rounded, as Triton calls it; u in this dtype

    float32 follows torch's own switch; float16 has as many digits as TF32, though not its range.
    """
    if dtype in (torch.bfloat16, torch.float64) or device.type != "cuda" or torch.version.hip is not None:
        return "ieee"
    if dtype == torch.float16 or torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return "tf32x3"


@dataclass(frozen=True)
class Scan:
    """Scans of b samples in o orders, s = o * b sequences, in the precision of A.

    u (s l k), in scan order, contiguous: x (h p), B (g n), C (g n); dt (b l h), in token order, heads adjacent; A,
    dt_bias, D (o h), the last two or None; softplus: of dt and its bias; chunk: 32, 64, 128 or 256.
    """

    u: Tensor
    dt: Tensor
    A: Tensor
    dt_bias: Tensor | None
    D: Tensor | None
    groups: int
    n: int
    softplus: bool
    orders: Orders
    chunk: int

    @property
    def batches(self) -> int:
        return self.u.shape[0] // len(self.orders)

    @property
    def heads(self) -> int:
        return self.A.shape[1]

    @property
    def p(self) -> int:
        return (self.u.shape[2] - 2 * self.groups * self.n) // self.heads

    @property
    def state(self) -> tuple[int, int, int]:
        return self.heads, self.n, self.p

    @property
    def n_chunks(self) -> int:
        return triton.cdiv(self.u.shape[1], self.chunk)

    def starts(self, out: Tensor | None = None) -> Tensor:
        """The state at the start of every chunk (s c h n p), in `out` if given"""
        shape = (len(self.u), self.n_chunks, *self.state)
        out = self.A.new_empty(shape) if out is None else out
        if self.n_chunks == 1:
            return out.zero_()
        ends, sums = self.A.new_empty(shape), self.A.new_empty(shape[:3])
        self._states(None, ends, sums, None)
        return self._carry(ends, sums, out, reverse=False)

    def saved(self, starts: Tensor) -> Tensor:
        """Of the chunks' start states, those to keep for the gradient (s ceil(l/256) h n p)"""
        return starts[:, :: CHUNK // self.chunk]

    def outputs(self, starts: Tensor, partial: Tensor | None, out: Tensor | None, add: bool) -> None:
        """y (b l h p) in token order, into `out`, or into the running sum `partial` if `out` is None

        add: `partial` already holds something to be added to.
        """
        for order in range(len(self.orders)):
            last = out is not None and order == len(self.orders) - 1
            triton_ssd_forward.outputs_kernel[self._grid(self.batches)](
                self.u, self.dt, self.A, self.dt_bias, self.D, starts, partial, out, order, *self._walk(),
                **self._constants(), CHUNK=self.chunk, ADD=add or order > 0, LAST=last,
            )  # fmt: skip

    def backward(self, grad_y: Tensor, saved: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """grad_y (b l h p), in token order, contiguous; saved states (s ceil(l/256) h n p)
        -> gradients of u (s l k) in scan order, of dt (s l h) in token order, before bias and softplus if `softplus`,
        and of A, dt_bias and D (o h)"""
        sequences, length, k = self.u.shape
        rows = triton.cdiv(length, sizes.ROW)
        parts = sizes.choose_parts(sequences, length, self.heads, self.groups)
        operand = torch.bfloat16 if self.u.dtype == torch.bfloat16 else self.A.dtype
        before, after = self.A.new_empty((2, sequences, rows, *self.state), dtype=operand)
        sums = self.A.new_empty((sequences, self.n_chunks, self.heads))
        self._states(saved.contiguous() if self.chunk == CHUNK else self.starts(), None, sums, before)
        self._adjoints(grad_y, self._entering(grad_y, sums), None, after)
        grad_u = self.A.new_empty((sequences, length, k))
        grad_bc = self.A.new_empty((parts, sequences, length, 2 * self.groups * self.n)) if parts > 1 else None
        grad_dt = self.A.new_empty((sequences, length, self.heads))
        grad_heads = self.A.new_empty((3, sequences, rows, self.heads))
        walk = (self.batches, sequences, length, *self._order_arguments())
        triton_ssd_backward.head_gradients_kernel[(rows, self.heads, sequences)](
            self.u, self.dt, self.A, self.dt_bias, self.D, grad_y, before, after, grad_u, grad_dt, grad_heads, *walk,
            **self._constants(),
        )  # fmt: skip
        triton_ssd_backward.group_gradients_kernel[(rows, self.groups * parts, sequences)](
            self.u, self.dt, self.A, self.dt_bias, grad_y, before, after, grad_u, grad_bc, *walk, PARTS=parts,
            **self._constants(),
        )  # fmt: skip
        if grad_bc is not None:
            torch.sum(grad_bc, 0, out=grad_u[..., self.heads * self.p :])
        # one by one: results of an operator must not share their memory
        by_order = grad_heads.view(3, len(self.orders), -1, self.heads)
        grad_A, grad_bias, grad_D = (of_heads.sum(1) for of_heads in by_order)
        return grad_u, grad_dt, grad_A, grad_bias, None if self.D is None else grad_D

    def _entering(self, grad_y: Tensor, sums: Tensor) -> Tensor | None:
        """The adjoint at the end of every chunk (s c h n p); None: zero"""
        if self.n_chunks == 1:
            return None
        ends = self.A.new_empty((len(self.u), self.n_chunks, *self.state))
        self._adjoints(grad_y, None, ends, None)
        return self._carry(ends, sums, torch.empty_like(ends), reverse=True)

    def _states(self, starts: Tensor | None, ends: Tensor | None, sums: Tensor | None, kept: Tensor | None) -> None:
        triton_ssd_forward.states_kernel[self._grid(len(self.u))](
            self.u, self.dt, self.A, self.dt_bias, starts, ends, sums, kept, *self._walk(), **self._constants(),
            CHUNK=self.chunk,
        )  # fmt: skip

    def _adjoints(self, grad_y: Tensor, entering: Tensor | None, ends: Tensor | None, kept: Tensor | None) -> None:
        triton_ssd_backward.adjoints_kernel[self._grid(len(self.u))](
            self.u, self.dt, self.A, self.dt_bias, grad_y, entering, ends, kept, *self._walk(), **self._constants(),
            CHUNK=self.chunk,
        )  # fmt: skip

    def _carry(self, ends: Tensor, sums: Tensor, out: Tensor, reverse: bool) -> Tensor:
        tile = self.n * self.p
        triton_ssd_forward.carry_kernel[(triton.cdiv(self.heads * tile, CARRY_LANES), len(ends))](
            ends, sums, out, ends.shape[1], HEADS=self.heads, TILE=tile,
            CB=min(CARRY_CHUNKS, triton.next_power_of_2(ends.shape[1])), BK=CARRY_LANES, REVERSE=reverse,
            num_warps=4, **OPTIONS,
        )  # fmt: skip
        return out

    def _constants(self) -> dict[str, object]:
        return {
            "HEADS": self.heads, "P": self.p, "GROUPS": self.groups, "N": self.n, "Q": sizes.ROW,
            "BP": sizes.channel_block(self.p), "BN": sizes.state_block(self.n), "SOFTPLUS": self.softplus,
            "PRECISION": precision(self.u.dtype, self.u.device), "num_warps": 4, **OPTIONS,
        }  # fmt: skip

    def _grid(self, sequences: int) -> tuple[int, int, int]:
        return self.n_chunks, self.heads * sizes.tiles(self.p), sequences

    def _walk(self) -> tuple[int, int, int, int, int, int]:
        return self.batches, self.u.shape[1], *self._order_arguments()

    def _order_arguments(self) -> tuple[int, int, int, int]:
        return self.orders.codes, self.orders.n_slices, self.dt.stride(0), self.dt.stride(1)
