"""The oriented scan on a GPU by Triton, in parallel over chunks of l.

    convolution     reads x by the order's tokens, writes u in scan order
    projection      a torch matrix product on the tokens: B, C and the low-rank time step
    time steps      softplus of the low-rank time step's projection
    scan            reads all of these in sequence, adds y to a sum in token order; the last order gates it

Nothing is flipped or permuted. For half-precision inputs, u and the projected tensor are kept in that precision
(products accumulate in float32); everything else, the sums over orders included, in float32. Backward, the operands of
matrix products are bfloat16 for bfloat16 inputs, as autocast would have them, and float32 for float16, which could
not hold the gradients.

Small tensors go through the kernels with all orders at once, large ones order by order and in parts of the batch,
which bounds the memory of the tensors in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_sizes as sizes
from nnunet_mamba.ops.kernels import triton_support as support
from nnunet_mamba.ops.numerics import CHUNK, accumulation_dtype, n_chunks
from nnunet_mamba.ops.oriented_weights import Weights

if TYPE_CHECKING:
    from nnunet_mamba.ops.kernels.triton_scan import Scan


def why_not(x: Tensor) -> str | None:
    """None when Triton kernels can run for x (b l e), otherwise the reason in one sentence."""
    return support.why_not(x, length_axis=1)


def tested_as(x: Tensor) -> tuple[int, dict[str, int]]:
    """Channels and options of a small case that runs the very kernels that x (b l e) will need"""
    return x.shape[2], {"chunk": sizes.choose_chunk(*x.shape)}


def forward(
    x: Tensor,
    z: Tensor,
    weights: Weights,
    orders: str,
    n_slices: int,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x, z (b l e) -> y (b l e) in x's dtype, states (o b c n e)

    chunk: steps per program, a divisor of 256 and multiple of 8; chosen by size if not given.
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = x.new_empty((len(orders), len(x), n_chunks(x.shape[1]), weights.states, x.shape[2]),
                         dtype=accumulation_dtype(x))  # fmt: skip
    if not x.numel():
        return y, states
    with support.launching(x):
        packed = _Packed.of(x, orders, n_slices, weights)
        groups, samples = sizes.slices_of_parts(len(orders), *x.shape)
        for part in samples:
            x_, z_ = _rows(x[part]), _rows(z[part])
            partial = x_.new_empty(x_.shape, dtype=states.dtype) if packed.needs_sum else None
            for group in groups:
                out = y[part] if group is groups[-1] else None
                packed[group].forward(x_, z_, states[group, part], partial, out, add=group.start > 0, chunk=chunk)
    return y, states


def backward(
    grad_y: Tensor,
    x: Tensor,
    z: Tensor,
    weights: Weights,
    orders: str,
    n_slices: int,
    states: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, ...]:
    """grad_y (b l e) -> gradients of x, z and the seven weights"""
    grad_x, grad_z = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, z))
    if not x.numel():
        return grad_x, grad_z, *(torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights)
    acc = states.dtype
    with support.launching(x):
        packed = _Packed.of(x, orders, n_slices, weights)
        groups, samples = sizes.slices_of_parts(len(orders), *x.shape)
        totals: list[tuple[Tensor, ...]] = []
        for part in samples:
            grad_, x_, z_ = grad_y[part].contiguous(), _rows(x[part]), _rows(z[part])
            gradient = _Gradient(grad_, z_, acc)
            sums_x = _Sums.of(grad_x[part], acc, len(groups) > 1 or len(orders) > 1)
            sums_z = _Sums.of(grad_z[part], acc, packed.needs_sum)
            found = [
                packed[group].backward(
                    gradient, x_, z_, states[group, part], sums_x, sums_z,
                    add=group.start > 0, is_last=group is groups[-1], chunk=chunk,
                )
                for group in groups
            ]  # fmt: skip
            if totals:
                sums = [t for of in totals for t in of], [t for of in found for t in of]
                torch._foreach_add_(*sums)  # pyright: ignore[reportPrivateImportUsage]
            else:
                totals = found
        grads = [of[0] if len(of) == 1 else torch.cat(of) for of in zip(*totals, strict=True)]
    return grad_x, grad_z, *(g.to(w.dtype) for g, w in zip(grads, weights, strict=True))


def workspace(
    part: str, batch: int, length: int, channels: int, orders: int, states: int, rank: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, in addition to its arguments and results.

    A count of the tensors made below and in the scan's launches; a test compares it with what they make.
    """
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    size, acc_size, wide = dtype.itemsize, acc.itemsize, _operand_dtype(dtype).itemsize
    together, samples = sizes.parts(orders, batch, length, channels)
    tokens = samples * length
    padded, block = sizes.padded_states(states, acc), sizes.state_block(states, acc)
    chunk = sizes.choose_chunk(samples, length, channels)
    chunks = together * samples * sizes.ceil_div(length, chunk)
    width = sizes.projected_width(padded, rank)
    of_sample, rows = tokens * channels, together * tokens * channels
    at_chunks, sums = chunks * padded * channels * acc_size, chunks * channels * acc_size
    bc = together * tokens * 2 * padded * acc_size
    projected = together * tokens * width * size
    weights = orders * channels * (width * size + (padded + 4) * acc_size)
    several = orders > 1 or padded > block
    scan = weights + rows * (size + acc_size) + projected + bc
    kept = chunk == CHUNK and padded == states and (together == 1 or samples == batch)
    if part == "forward":
        return several * of_sample * acc_size + scan + (1 if kept else 2) * at_chunks + sums
    wider = dtype != acc
    partial = (wider * (orders > 1) + wider * several + 1) * of_sample * acc_size
    one_block = padded == block
    grad_delta = rows * (wide if one_block else acc_size)
    starts = (chunk != CHUNK or padded != states) * at_chunks
    checkpoints = chunks * (chunk // sizes.CHECKPOINT) * block * channels * acc_size
    blocks_bc = sizes.ceil_div(channels, sizes.BD) * bc
    found = rows * acc_size + grad_delta + blocks_bc
    walks = starts + 3 * at_chunks + 3 * sums + checkpoints
    return partial + scan + found + walks


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


class _Gradient:
    """grad_y (b l e) in token order, and `behind` the gate: grad_y * silu(z)"""

    def __init__(self, grad_y: Tensor, z: Tensor, dtype: torch.dtype) -> None:
        from nnunet_mamba.ops.kernels import triton_projection

        self.grad_y = grad_y
        self.behind = triton_projection.gated(grad_y, z, dtype)


@dataclass(frozen=True)
class _Packed:
    """The weights of some orders as the kernels and products want them, one order behind the other.

    conv_weight (o w e), conv_bias, dt_bias, D (o e), A (o, padded n, e): in accumulation precision
    projection (o p e): rows of x_proj in the order B, C, time step, each padded with zero rows, in x's dtype
    dt_projection (o e r) as given; n: state entries without padding; needs_sum: whether y takes more than one pass
    """

    letters: str
    n_slices: int
    n: int
    needs_sum: bool
    conv_weight: Tensor
    conv_bias: Tensor
    projection: Tensor
    dt_projection: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    @classmethod
    def of(cls, x: Tensor, letters: str, n_slices: int, weights: Weights) -> _Packed:
        from nnunet_mamba.ops.kernels import triton_scan

        acc, n, rank, x_proj = accumulation_dtype(x), weights.states, weights.rank, weights.x_proj_weight
        packed = triton_scan.pack_decays(weights.A, acc)
        padded = packed.shape[1]
        projection = x_proj.new_zeros(
            (len(letters), sizes.projected_width(padded, rank), x_proj.shape[2]), dtype=x.dtype
        )
        projection[:, :n] = x_proj[:, rank : rank + n]
        projection[:, padded : padded + n] = x_proj[:, rank + n :]
        projection[:, 2 * padded : 2 * padded + rank] = x_proj[:, :rank]
        return cls(
            letters, n_slices, n, len(letters) > 1 or padded > sizes.state_block(n, acc),
            weights.conv_weight.transpose(1, 2).to(acc).contiguous(), weights.conv_bias.to(acc).contiguous(),
            projection, weights.dt_proj_weight.contiguous(), weights.dt_bias.to(acc).contiguous(), packed,
            weights.D.to(acc).contiguous(),
        )  # fmt: skip

    def __getitem__(self, group: slice) -> _Packed:
        """The weights of some of the orders"""
        tensors = (self.conv_weight, self.conv_bias, self.projection, self.dt_projection, self.dt_bias, self.A, self.D)
        return _Packed(self.letters[group], self.n_slices, self.n, self.needs_sum, *(t[group] for t in tensors))

    @property
    def low(self) -> slice:
        """Where the low-rank time step lies in the projected tensor"""
        start = 2 * self.A.shape[1]
        return slice(start, start + self.dt_projection.shape[2])

    def scan(self, x: Tensor, z: Tensor, chunk: int | None) -> tuple[Tensor, Scan]:
        """x, z (b l e) in token order -> projected (s l p) and the scans of these orders, both in scan order"""
        from nnunet_mamba.ops.kernels import triton_conv, triton_projection, triton_scan

        batch, length, channels = x.shape
        orders = triton_scan.Orders(self.letters, self.n_slices)
        u = x.new_empty((len(orders) * batch, length, channels))
        triton_conv.convolve(x, self.conv_weight, self.conv_bias, u, True, orders)
        projected = torch.bmm(self.by_order(u), self.projection.transpose(1, 2)).view(*u.shape[:2], -1)
        dt, bc = triton_projection.time_steps(projected, self.dt_projection, self.dt_bias, self.A.shape[1])
        return projected, triton_scan.Scan(
            u=u, dt=dt, bc=bc, A=self.A, D=self.D, z=z, n=self.n, softplus=True, orders=orders,
            chunk=chunk or sizes.choose_chunk(batch, length, channels),
        )  # fmt: skip

    def by_order(self, t: Tensor) -> Tensor:
        """(s l k) -> (o b*l k)"""
        return t.view(len(self.letters), -1, t.shape[2])

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
        """Fills `states` (o b c n e); y goes to `out` or, on the way, to the running sum `partial`."""
        _, scan = self.scan(x, z, chunk)
        if scan.keeps_all() and states.is_contiguous():
            starts = scan.starts(states.flatten(0, 1))
        else:
            starts = scan.starts()
            states.copy_(scan.saved(starts).unflatten(0, states.shape[:2]))
        scan.outputs(starts, partial, out, add)

    def backward(
        self,
        gradient: _Gradient,
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
        """-> gradients of the seven weights in accumulation precision; adds to those of x and z"""
        from nnunet_mamba.ops.kernels import triton_conv, triton_projection

        projected, scan = self.scan(x, z, chunk)
        acc, padded, width = self.A.dtype, self.A.shape[1], self.projection.shape[1]
        operand = _operand_dtype(x.dtype)
        grad_delta = scan.u.new_empty(scan.u.shape, dtype=operand if len(scan.blocks) == 1 else acc)
        grad_u, grad_bc, grad_A, grad_dt_bias, grad_D = scan.backward(
            gradient.grad_y, gradient.behind, scan.restored(states.flatten(0, 1)), grad_delta, sums_z.partial,
            sums_z.out if is_last else None, add,
        )  # fmt: skip
        assert grad_D is not None
        u, orders = self.by_order(scan.u).to(operand), scan.orders
        del scan
        grad_delta = self.by_order(grad_delta.to(operand))
        grad_low = torch.bmm(grad_delta, self.dt_projection.to(operand))
        grad_projected = self.by_order(
            triton_projection.grad_projected(grad_bc, grad_low.view(*grad_u.shape[:2], -1), width, padded)
        )
        del grad_bc
        low = self.by_order(projected)[..., self.low].to(operand)
        grad_dt_projection = triton_projection.over_tokens(grad_delta, low, acc)
        grad_projection = triton_projection.over_tokens(grad_projected, u, acc)
        del u, low, projected, grad_delta
        by_projection = torch.bmm(grad_projected, self.projection.to(operand))
        grad_conv_weight, grad_conv_bias = triton_conv.convolve_backward(
            grad_u, by_projection, x, self.conv_weight, self.conv_bias, grad_u, True, sums_x.partial,
            sums_x.out if is_last else None, add, orders,
        )  # fmt: skip
        B, C = grad_projection[:, : self.n], grad_projection[:, padded : padded + self.n]
        return (
            grad_conv_weight.transpose(1, 2).clone(memory_format=torch.contiguous_format), grad_conv_bias.clone(),
            torch.cat((grad_projection[:, self.low], B, C), 1), grad_dt_projection, grad_dt_bias,
            grad_A[:, : self.n].transpose(1, 2).contiguous(), grad_D,
        )  # fmt: skip


def _operand_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the products of gradients: float16 could not hold them"""
    return torch.float32 if dtype == torch.float16 else dtype


def _rows(x: Tensor) -> Tensor:
    """x (b l e), copied only if its channels are not adjacent"""
    return x if x.stride(2) == 1 else x.contiguous()
