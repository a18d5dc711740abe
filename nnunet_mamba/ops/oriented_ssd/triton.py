"""The oriented SSD on a GPU by Triton, in parallel over chunks of l and heads.

    convolution     reads x, B and C by the order's tokens, writes them side by side in scan order
    scan            reads them in sequence and the time step by the order's tokens, adds y to a sum in token order

Nothing is flipped or permuted. For half-precision inputs, what the convolution gives is kept in that precision; time
steps, decays, states and the sums over orders are float32. Small tensors go through the kernels with all orders at
once, large ones order by order and in parts of the batch, which bounds the memory of the tensors in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnunet_mamba.ops.kernels import triton_sizes
from nnunet_mamba.ops.kernels import triton_ssd_sizes as sizes
from nnunet_mamba.ops.kernels import triton_support as support
from nnunet_mamba.ops.numerics import CHUNK, accumulation_dtype, n_chunks
from nnunet_mamba.ops.oriented_weights import SSDWeights

if TYPE_CHECKING:
    from nnunet_mamba.ops.kernels.triton_ssd import Scan


def why_not(xBC: Tensor) -> str | None:
    """None when Triton kernels can run for xBC (b l e+2gn), otherwise the reason in one sentence."""
    return support.why_not(xBC, length_axis=1, multiplies=True)


def tested_as(xBC: Tensor) -> tuple[int, dict[str, int]]:
    """Channels of a head and options of a small case

    xBC does not tell the heads and states for which kernels are compiled: the case has whole tiles and walks several
    rows, as those of large maps do.
    """
    return 32, {"chunk": CHUNK}


def forward(
    xBC: Tensor,
    dt: Tensor,
    weights: SSDWeights,
    d_state: int,
    n_groups: int,
    orders: str,
    n_slices: int,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """xBC (b l e+2gn), dt (b l h) -> y (b l e) in xBC's dtype, states (o b c h n p)

    chunk: steps per program, 32, 64, 128 or 256; chosen by size if not given.
    """
    batch, length, k = xBC.shape
    heads, e = dt.shape[2], k - 2 * n_groups * d_state
    acc = accumulation_dtype(xBC)
    y = xBC.new_empty((batch, length, e))
    states = xBC.new_empty((len(orders), batch, n_chunks(length), heads, d_state, e // heads), dtype=acc)
    if not xBC.numel():
        return y, states
    with support.launching(xBC):
        packed = _Packed.of(weights, d_state, n_groups, orders, n_slices, acc)
        groups, samples = triton_sizes.slices_of_parts(len(orders), *xBC.shape)
        running = None if y.dtype == acc else y.new_empty((samples[0].stop, length, e), dtype=acc)
        for part in samples:
            partial = y[part] if running is None else running[: len(y[part])]
            for group in groups:
                packed[group].forward(
                    xBC[part], dt[part], states[group, part], partial, y[part] if group is groups[-1] else None,
                    add=group.start > 0, chunk=chunk,
                )  # fmt: skip
    return y, states


def backward(
    grad_y: Tensor,
    xBC: Tensor,
    dt: Tensor,
    weights: SSDWeights,
    d_state: int,
    n_groups: int,
    orders: str,
    n_slices: int,
    states: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, ...]:
    """grad_y (b l e) -> gradients of xBC, dt and the five weights"""
    grad_xBC, grad_dt = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (xBC, dt))
    if not xBC.numel():
        return grad_xBC, grad_dt, *(torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights)
    acc = states.dtype
    with support.launching(xBC):
        packed = _Packed.of(weights, d_state, n_groups, orders, n_slices, acc)
        groups, samples = triton_sizes.slices_of_parts(len(orders), *xBC.shape)
        totals: list[tuple[Tensor, ...]] = []
        is_one_pass = len(orders) == 1
        is_rounded = grad_xBC.dtype != acc and not is_one_pass
        running = grad_xBC.new_empty((samples[0].stop, *xBC.shape[1:]), dtype=acc) if is_rounded else None
        for part in samples:
            gradient, out = grad_y[part].contiguous(), grad_xBC[part]
            partial = None if is_one_pass else out if running is None else running[: len(out)]
            steps: Tensor | None = None
            found = []
            for group in groups:
                last = out if group is groups[-1] else None
                of_steps, of_weights = packed[group].backward(
                    gradient, xBC[part], dt[part], states[group, part], partial, last, add=group.start > 0, chunk=chunk
                )
                steps = of_steps if steps is None else steps.add_(of_steps)
                found.append(of_weights)
            assert steps is not None  # there is at least one order
            grad_dt[part] = steps
            if totals:
                sums = [t for of in totals for t in of], [t for of in found for t in of]
                torch._foreach_add_(*sums)  # pyright: ignore[reportPrivateImportUsage]
            else:
                totals = found
        grads = [of[0] if len(of) == 1 else torch.cat(of) for of in zip(*totals, strict=True)]
    return grad_xBC, grad_dt, *(g.to(w.dtype) for g, w in zip(grads, weights, strict=True))


def workspace(
    part: str, batch: int, length: int, heads: int, p: int, d_state: int, n_groups: int, orders: int, dtype: torch.dtype
) -> int:
    """Bytes that "forward" or "backward" holds at its worst moment, in addition to its arguments and results.

    A count of the tensors made below and in the scan's launches; a test compares it with what they make.
    """
    acc = accumulation_dtype(torch.empty(0, dtype=dtype))
    size, acc_size = dtype.itemsize, acc.itemsize
    e, k = heads * p, heads * p + 2 * n_groups * d_state
    together, samples = triton_sizes.parts(orders, batch, length, k)
    tokens, sequences = samples * length, together * samples
    chunk = sizes.choose_chunk(samples, length, heads, p)
    chunks, rows = triton_sizes.ceil_div(length, chunk), triton_sizes.ceil_div(length, sizes.ROW)
    per_token = sequences * length * acc_size
    states = sequences * chunks * e * d_state * acc_size
    sums = sequences * chunks * heads * acc_size
    ends = states + sums if chunks > 1 else 0
    held = sequences * length * k * size  # the convolution
    if part == "forward":
        is_kept = chunk == CHUNK and (together == 1 or samples == batch)
        return held + (dtype != acc) * tokens * e * acc_size + (not is_kept) * states + ends
    held += (dtype != acc and orders > 1) * tokens * k * acc_size + (orders > together) * tokens * heads * acc_size
    held += 2 * sequences * rows * e * d_state * (size if dtype == torch.bfloat16 else acc_size) + sums
    shares = sizes.choose_parts(sequences, length, heads, n_groups)
    found = per_token * (k + heads + (shares > 1) * shares * 2 * n_groups * d_state)
    found += 3 * sequences * rows * heads * acc_size
    return held + max((chunk != CHUNK) * (states + ends), (chunks > 1) * 2 * states, found)


@dataclass(frozen=True)
class _Packed:
    """The weights of some orders as the kernels want them, in accumulation precision: taps (o w k), the others (o k) or
    (o h)"""

    letters: str
    n_slices: int
    n: int
    groups: int
    taps: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    @classmethod
    def of(cls, weights: SSDWeights, n: int, groups: int, letters: str, n_slices: int, acc: torch.dtype) -> _Packed:
        taps = weights.conv_weight.transpose(1, 2).to(acc).contiguous()
        others = (w.to(acc).contiguous() for w in weights[1:])
        return cls(letters, n_slices, n, groups, taps, *others)

    def __getitem__(self, group: slice) -> _Packed:
        """The weights of some of the orders"""
        tensors = (self.taps, self.conv_bias, self.dt_bias, self.A, self.D)
        return _Packed(self.letters[group], self.n_slices, self.n, self.groups, *(t[group] for t in tensors))

    def scan(self, xBC: Tensor, dt: Tensor, chunk: int | None) -> Scan:
        """xBC (b l k), dt (b l h) in token order -> the scans of these orders, their u in scan order"""
        from nnunet_mamba.ops.kernels import triton_conv, triton_ssd
        from nnunet_mamba.ops.kernels.triton_scan import Orders

        batch, length, k = xBC.shape
        orders, heads = Orders(self.letters, self.n_slices), self.A.shape[1]
        u = xBC.new_empty((len(orders) * batch, length, k))
        triton_conv.convolve(xBC, self.taps, self.conv_bias, u, True, orders)
        p = (k - 2 * self.groups * self.n) // heads
        return triton_ssd.Scan(
            u=u, dt=dt if dt.stride(2) == 1 else dt.contiguous(), A=self.A, dt_bias=self.dt_bias, D=self.D,
            groups=self.groups, n=self.n, softplus=True, orders=orders,
            chunk=chunk or sizes.choose_chunk(batch, length, heads, p),
        )  # fmt: skip

    def forward(
        self,
        xBC: Tensor,
        dt: Tensor,
        states: Tensor,
        partial: Tensor | None,
        out: Tensor | None,
        *,
        add: bool,
        chunk: int | None,
    ) -> None:
        """Fills `states` (o b c h n p); y goes to `out` or, on the way, to the running sum `partial`."""
        scan = self.scan(xBC, dt, chunk)
        if scan.chunk == CHUNK and states.is_contiguous():
            starts = scan.starts(states.flatten(0, 1))
        else:
            starts = scan.starts()
            states.copy_(scan.saved(starts).unflatten(0, states.shape[:2]))
        scan.outputs(starts, partial, out, add=add)

    def backward(
        self,
        grad_y: Tensor,
        xBC: Tensor,
        dt: Tensor,
        states: Tensor,
        partial: Tensor | None,
        out: Tensor | None,
        *,
        add: bool,
        chunk: int | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """-> gradients of dt (b l h), summed over these orders, and of the five weights, in accumulation precision

        That of xBC goes to `out` or, on the way, to the running sum `partial`.
        """
        from nnunet_mamba.ops.kernels import triton_conv

        scan = self.scan(xBC, dt, chunk)
        grad_u, grad_dt, grad_A, grad_dt_bias, grad_D = scan.backward(grad_y, states.flatten(0, 1))
        assert grad_D is not None
        orders = scan.orders
        del scan
        grad_taps, grad_conv_bias = triton_conv.convolve_backward(
            grad_u, None, xBC, self.taps, self.conv_bias, grad_u, True, partial, out, add, orders
        )
        steps = grad_dt.unflatten(0, (len(orders), -1))
        return steps[0] if len(orders) == 1 else steps.sum(0), (
            grad_taps.transpose(1, 2).clone(memory_format=torch.contiguous_format), grad_conv_bias.clone(),
            grad_dt_bias, grad_A, grad_D,
        )  # fmt: skip
