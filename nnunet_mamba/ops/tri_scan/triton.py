"""The oriented scan on a GPU by Triton: orders one after another, in parallel over chunks of l.

    convolution     reads x by the order's tokens, writes u in scan order
    projections     torch matrix products on the tokens: B, C and dt before its bias
    scan            reads all of these in sequence, adds y to a sum in token order; the last order gates it

Nothing is flipped or permuted. For half-precision inputs, u, B, C and dt before its bias are kept in that precision
(products accumulate in float32), everything else, the sums over orders and all gradients included, in float32.

Large batches are taken in parts, which bounds the memory of the tensors in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnunet_mamba.ops import _triton_sizes as sizes
from nnunet_mamba.ops import _triton_support as support
from nnunet_mamba.ops.numerics import CHUNK, accumulation_dtype, n_chunks

if TYPE_CHECKING:
    from nnunet_mamba.ops._triton_scan import Scan

PART = 2**25
"""Elements (b l e) worked on at a time; a single sample is never divided."""
ALIGN = 16
"""Rows of the projected tensor start at multiples of this, so that wide loads are possible."""
ROWS = 4096
"""Tokens that one partial sum of a weight gradient takes."""


def why_not(x: Tensor) -> str | None:
    """None when Triton kernels can run for x (b l e), otherwise the reason in one sentence."""
    return support.why_not(x, length_axis=1)


def forward(
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    orders: str,
    n_slices: int,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x, z (b l e) -> y (b l e) in x's dtype, states (o b c n e)

    chunk: steps per program, a divisor of 256 and multiple of 8; chosen by size if not given.
    """
    batch, length, channels = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = x.new_empty((len(orders), batch, n_chunks(length), A.shape[2], channels), dtype=accumulation_dtype(x))
    if not x.numel():
        return y, states
    with support.launching(x):
        weights = [
            _Order.pack(x, letter, n_slices, *(w[k] for w in (conv_weight, conv_bias, x_proj_weight, dt_proj_weight,
                                                             dt_bias, A, D)))
            for k, letter in enumerate(orders)
        ]  # fmt: skip
        for part in _parts(x):
            x_, z_ = _rows(x[part]), _rows(z[part])
            partial = x_.new_empty(x_.shape, dtype=states.dtype) if weights[0].needs_sum(len(orders)) else None
            for k, order in enumerate(weights):
                out = y[part] if k == len(orders) - 1 else None
                order.forward(x_, z_, states[k, part], partial, out, add=k > 0, chunk=chunk)
    return y, states


def backward(
    grad_y: Tensor,
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    orders: str,
    n_slices: int,
    states: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, ...]:
    """grad_y (b l e) -> gradients of x, z and the seven weights"""
    arguments = (conv_weight, conv_bias, x_proj_weight, dt_proj_weight, dt_bias, A, D)
    grad_x, grad_z = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, z))
    acc = accumulation_dtype(x)
    totals = [torch.zeros_like(w, dtype=acc, memory_format=torch.contiguous_format) for w in arguments]
    if x.numel():
        with support.launching(x):
            weights = [_Order.pack(x, letter, n_slices, *(w[k] for w in arguments)) for k, letter in enumerate(orders)]
            for part in _parts(x):
                grad_, x_, z_ = grad_y[part].contiguous(), _rows(x[part]), _rows(z[part])
                sums_x, sums_z = (
                    _Sums.of(grad_x[part], acc, len(orders) > 1),
                    _Sums.of(grad_z[part], acc, weights[0].needs_sum(len(orders))),
                )
                for k, order in enumerate(weights):
                    is_last = k == len(orders) - 1
                    grads = order.backward(
                        grad_, x_, z_, states[k, part], sums_x, sums_z, add=k > 0, is_last=is_last, chunk=chunk
                    )
                    for total, grad in zip(totals, grads, strict=True):
                        total[k] += grad
    return grad_x, grad_z, *(t.to(w.dtype) for t, w in zip(totals, arguments, strict=True))


def workspace(
    part: str, batch: int, length: int, channels: int, orders: int, states: int, rank: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, beside its arguments and results.

    A count of the tensors made above and in the scan's launches; a test compares it with what they make.
    """
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    size, acc_size = dtype.itemsize, acc.itemsize
    samples = min(batch, max(1, PART // (length * channels)))
    tokens = samples * length
    padded, block = sizes.padded_states(states, acc), sizes.state_block(states, acc)
    chunk = sizes.choose_chunk(samples, length, channels)
    chunks = samples * sizes.ceil_div(length, chunk)
    projected = 2 * padded + sizes.ceil_div(rank, ALIGN) * ALIGN
    rows = tokens * channels
    at_chunks, sums = chunks * padded * channels * acc_size, chunks * channels * acc_size
    bc = tokens * 2 * padded * acc_size
    weights = orders * channels * (projected * size + rank * size + (padded + 7) * acc_size)
    scan = weights + 2 * rows * size + tokens * projected * size + bc + sums
    several = orders > 1 or padded > block
    if part == "forward":
        return several * rows * acc_size + scan + 2 * at_chunks
    wider = dtype != acc
    partial = wider * (orders > 1) + wider * several
    blocks_bc = (sizes.ceil_div(channels, sizes.BD) + 1) * bc  # and their sum
    checkpoints = chunks * (chunk // sizes.CHECKPOINT) * block * channels * acc_size
    starts = (chunk != CHUNK) * at_chunks
    scan += 2 * sums + weights  # sums of three gradients; gradients of the weights
    return (partial + 1 + wider) * rows * acc_size + scan + blocks_bc + checkpoints + starts + 3 * at_chunks


@dataclass(frozen=True)
class _Sums:
    """A result that several passes add up: `partial` on the way (the result itself if its precision allows)"""

    partial: Tensor | None
    out: Tensor

    @classmethod
    def of(cls, out: Tensor, dtype: torch.dtype, needed: bool) -> _Sums:
        if not needed:
            return cls(None, out)
        return cls(out if out.dtype == dtype else torch.empty_like(out, dtype=dtype), out)


@dataclass(frozen=True)
class _Order:
    """One orientation's weights as the kernels and products want them.

    conv_weight (w e), conv_bias, dt_bias, D (e), A (padded n, e): in accumulation precision
    projection (p e): rows of x_proj in the order B, C, dt, each padded with zero rows, in x's dtype
    dt_projection (e r) in x's dtype
    """

    letter: str
    n_slices: int
    n: int
    conv_weight: Tensor
    conv_bias: Tensor
    projection: Tensor
    dt_projection: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    @classmethod
    def pack(
        cls,
        x: Tensor,
        letter: str,
        n_slices: int,
        conv_weight: Tensor,
        conv_bias: Tensor,
        x_proj: Tensor,
        dt_proj: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
    ) -> _Order:
        from nnunet_mamba.ops import _triton_conv as conv
        from nnunet_mamba.ops import _triton_scan as scan

        acc, n, rank = accumulation_dtype(x), A.shape[1], dt_proj.shape[1]
        packed = scan.pack_decays(A, acc)
        padded = packed.shape[0]
        projection = x_proj.new_zeros((2 * padded + -(-rank // ALIGN) * ALIGN, x_proj.shape[1]), dtype=x.dtype)
        projection[:n] = x_proj[rank : rank + n]
        projection[padded : padded + n] = x_proj[rank + n :]
        projection[2 * padded : 2 * padded + rank] = x_proj[:rank]
        return cls(
            letter, n_slices, n, conv.pack_weight(conv_weight, acc), conv_bias.to(acc).contiguous(), projection,
            dt_proj.to(x.dtype), dt_bias.to(acc).contiguous(), packed, D.to(acc).contiguous(),
        )  # fmt: skip

    @property
    def low(self) -> slice:
        """Where the low-rank dt lies in the projected tensor"""
        start = 2 * self.A.shape[0]
        return slice(start, start + self.dt_projection.shape[1])

    def needs_sum(self, n_orders: int) -> bool:
        """Whether y takes more than one pass: several orders, or several blocks of state entries"""
        return n_orders > 1 or self.A.shape[0] > sizes.state_block(self.n, self.A.dtype)

    def scan(self, x: Tensor, z: Tensor, chunk: int | None) -> tuple[Tensor, Scan]:
        """x, z (b l e) in token order -> low-rank dt (b l r) and this orientation's scan, both in scan order"""
        from nnunet_mamba.ops import _triton_conv as conv
        from nnunet_mamba.ops import _triton_scan as scan

        u = torch.empty_like(x, memory_format=torch.contiguous_format)
        conv.convolve(x, self.conv_weight, self.conv_bias, u, True, self.letter, self.n_slices)
        projected = u @ self.projection.T
        low = projected[..., self.low]
        # the kernels read B and C in accumulation precision: they would convert them for every block of channels
        bc = projected[..., : self.low.start].to(self.A.dtype).contiguous()
        return low, scan.Scan(
            u=u, delta=low @ self.dt_projection.T, bc=bc, A=self.A, bias=self.dt_bias, D=self.D, z=z, n=self.n,
            softplus=True, order=self.letter, n_slices=self.n_slices, chunk=chunk or sizes.choose_chunk(*x.shape),
            sub=scan.choose_sub(x),
        )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        states: Tensor,
        partial: Tensor | None,
        out: Tensor | None,
        *,
        add: bool,
        chunk: int | None,
    ) -> None:
        """Fills `states` (b c n e); y goes to `out` or, on the way, to the running sum `partial`."""
        _, scan = self.scan(x, z, chunk)
        starts = scan.starts()
        states.copy_(scan.saved(starts))
        scan.outputs(starts, partial, out, add)

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        z: Tensor,
        states: Tensor,
        sums_x: _Sums,
        sums_z: _Sums,
        *,
        add: bool,
        is_last: bool,
        chunk: int | None,
    ) -> tuple[Tensor, ...]:
        """-> gradients of the seven weights in accumulation precision; adds to those of x and z

        The products stay in accumulation precision: gradients in half precision would overflow or vanish.
        """
        from nnunet_mamba.ops import _triton_conv as conv

        low, scan = self.scan(x, z, chunk)
        acc, padded, rank = self.A.dtype, self.A.shape[0], self.dt_projection.shape[1]
        same = scan.delta.dtype == acc
        grad_delta = scan.delta if same else torch.empty_like(scan.delta, dtype=acc)
        grad_u, grad_bc, grad_A, grad_dt_bias, grad_D = scan.backward(
            grad_y, scan.restored(states), grad_delta, sums_z.partial, sums_z.out if is_last else None, add
        )
        assert grad_D is not None

        grad_projected = grad_bc.new_zeros((*grad_bc.shape[:2], self.projection.shape[0]))
        grad_projected[..., : 2 * padded] = grad_bc
        grad_projected[..., self.low] = grad_delta @ self.dt_projection.to(acc)
        del grad_bc
        grad_dt_projection = _over_tokens(grad_delta, low)
        grad_projection = _over_tokens(grad_projected, scan.u)
        grad_u.flatten(0, 1).addmm_(grad_projected.flatten(0, 1), self.projection.to(acc))
        grad_conv_weight, grad_conv_bias = conv.convolve_backward(
            grad_u, x, self.conv_weight, self.conv_bias, grad_u, True, sums_x.partial,
            sums_x.out if is_last else None, add, self.letter, self.n_slices,
        )  # fmt: skip
        n = self.n
        grad_x_proj = torch.cat(
            (
                grad_projection[2 * padded : 2 * padded + rank],
                grad_projection[:n],
                grad_projection[padded : padded + n],
            )
        )
        return (
            grad_conv_weight.T, grad_conv_bias, grad_x_proj, grad_dt_projection, grad_dt_bias, grad_A[:n].T, grad_D
        )  # fmt: skip


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """a (b l i), b (b l j) -> sum over tokens of a[i] b[j] (i j), in a's dtype

    Partial sums over blocks of tokens, in a fixed order: one long product would keep a single multiprocessor busy.
    """
    a, b = a.flatten(0, 1), b.flatten(0, 1).to(a.dtype)
    whole = len(a) // ROWS * ROWS
    total = a[whole:].T @ b[whole:]
    if whole:
        blocks = [t[:whole].unflatten(0, (-1, ROWS)) for t in (a, b)]
        total += torch.bmm(blocks[0].transpose(1, 2), blocks[1]).sum(0)
    return total


def _rows(x: Tensor) -> Tensor:
    """x (b l e), copied only if its channels are not adjacent"""
    return x if x.stride(2) == 1 else x.contiguous()


def _parts(x: Tensor) -> list[slice]:
    """Slices of the batch"""
    batch, length, channels = x.shape
    step = max(1, PART // (length * channels))
    return [slice(start, start + step) for start in range(0, batch, step)]
