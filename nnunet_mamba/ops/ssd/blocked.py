"""Pure torch on any device: matrix products over rows of 64 steps, four rows at a time (Dao & Gu 2024, section 6).

Inside a row, y is a product with the 64 x 64 matrix of decays between steps; between rows, only states are carried.
The exponent of a decay is the sum of dt A over the steps between the two, added up for every pair anew: as a difference
of two running sums it would lose digits where decays are steep, most of all in the gradient of A. Pairs in the wrong
order are -inf before exp, never masked after it: their exponents are positive and would overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK
from nnunet_mamba.ops.ssd.recurrence import Recurrence

ROW = 64
"""Steps of a row. Measured on a CPU: 32 to 64 is fastest at every state size, 256 takes up to 3.7 times as long."""


def why_not(x: Tensor) -> str | None:
    """Runs everywhere."""
    return None


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """x (b l h p); dt (b l h); A (h); B, C (b l g n) -> y (b l h p), states (b c h n p)"""
    groups, length = B.shape[2], x.shape[1]
    S = x.new_zeros(x.shape[0], groups, x.shape[2] // groups, B.shape[3], x.shape[3])  # (b g k n p)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = []
    for start in range(0, length, CHUNK):
        states.append(S.flatten(1, 2))
        block = slice(start, min(length, start + CHUNK))
        rows = _Rows.of(x[:, block], dt[:, block], A, B[:, block], C[:, block])
        starts, S = rows.starts(S)
        y[:, block] = _unfold(rows.read(starts), block.stop - block.start)
    return y, torch.stack(states, 1)


def recurrence_backward(
    grad_y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad_y (b l h p) -> gradients of x, dt, A, B, C"""
    groups, length = B.shape[2], x.shape[1]
    grad_x, grad_dt, grad_B, grad_C = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, dt, B, C)
    )
    grad_A = torch.zeros_like(A)
    states = states.unflatten(2, (groups, -1))  # (b c g k n p)
    later = torch.zeros_like(states[:, 0])  # adjoint of the state after this block
    for chunk in reversed(range(states.shape[1])):
        block = slice(chunk * CHUNK, min(length, (chunk + 1) * CHUNK))
        size = block.stop - block.start
        x_, dt_ = x[:, block], dt[:, block]
        rows = _Rows.of(x_, dt_, A, B[:, block], C[:, block])
        starts, _ = rows.starts(states[:, chunk])
        into_given, into_exponent, into_B, into_C, later = rows.adjoint(_fold(grad_y[:, block], groups), starts, later)
        into_given, into_exponent = _unfold(into_given, size), _unfold(into_exponent[..., None], size)[..., 0]
        grad_x[:, block] = into_given * dt_[..., None]
        grad_dt[:, block] = (into_given * x_).sum(-1) + into_exponent * A
        grad_A += (into_exponent * dt_).sum((0, 1))
        grad_B[:, block], grad_C[:, block] = _unfold_groups(into_B, size), _unfold_groups(into_C, size)
    return grad_x, grad_dt, grad_A, grad_B, grad_C


@dataclass(frozen=True)
class _Rows:
    """One block of steps as r rows of q; the heads as k in each of g groups. Missing steps at the end have dt = 0: they
    decay by exp(0) = 1 and add nothing, so the last state is right.

    given = dt x (b r g k q p); B, C (b r g q n); between[i, j] (b r g k q q): decay from step j to step i, zero where
    j > i; since_start (b r g k q): decay from the row's start through each step
    """

    given: Tensor
    B: Tensor
    C: Tensor
    between: Tensor
    since_start: Tensor

    @classmethod
    def of(cls, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> _Rows:
        groups = B.shape[2]
        exponent = _fold((dt * A)[..., None], groups)[..., 0]  # (b r g k q)
        q = exponent.shape[-1]
        every = torch.ones(q, q, dtype=torch.bool, device=x.device)
        # between[i, j] sums the exponents of steps j+1 ... i: column j counts from zero below the diagonal
        sums = exponent[..., None].expand(*exponent.shape, q).masked_fill(~every.tril(-1), 0).cumsum(-2)
        between = sums.masked_fill_(every.triu(1), -torch.inf).exp_()
        return cls(
            _fold(dt[..., None] * x, groups), _fold_groups(B), _fold_groups(C), between, exponent.cumsum(-1).exp()
        )

    @property
    def until_end(self) -> Tensor:
        """Decay from each step to the row's last (b r g k q)"""
        return self.between[..., -1, :]

    def starts(self, S: Tensor) -> tuple[Tensor, Tensor]:
        """State before the block (b g k n p) -> states before its rows (b r g k n p) and after the block"""
        added = (self.B[:, :, :, None] * self.until_end[..., None]).transpose(-1, -2) @ self.given  # (b r g k n p)
        total = self.since_start[..., -1, None, None]
        starts = torch.empty_like(added)
        for r in range(added.shape[1]):
            starts[:, r] = S
            S = total[:, r] * S + added[:, r]
        return starts, S

    def read(self, starts: Tensor) -> Tensor:
        """y (b r g k q p)"""
        inside = (self.between * self._products()[:, :, :, None]) @ self.given
        return inside + self.since_start[..., None] * (self.C[:, :, :, None] @ starts)

    def adjoint(self, grad: Tensor, starts: Tensor, later: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """grad (b r g k q p), adjoint of the state after the block -> gradients of given, of each step's exponent, of B
        and C, and the adjoint of the state before the block"""
        C, B = self.C[:, :, :, None], self.B[:, :, :, None]
        reading = (self.since_start[..., None] * grad).transpose(-1, -2)  # (b r g k p q)
        ends, before = self._ends((reading @ C).transpose(-1, -2), later)

        weights = self.between * self._products()[:, :, :, None]
        into_weights = grad @ self.given.transpose(-1, -2)  # (b r g k q q)
        written = (B @ ends) * self.until_end[..., None]  # what a step's B adds to the end (b r g k q p)
        into_given = weights.transpose(-1, -2) @ grad + written
        into_products = (into_weights * self.between).sum(3)  # (b r g q q)
        read_start = starts @ reading  # (b r g k n q)
        into_C = into_products @ self.B + read_start.sum(3).transpose(-1, -2)
        to_end = ends @ (self.until_end[..., None] * self.given).transpose(-1, -2)  # (b r g k n q)
        into_B = into_products.transpose(-1, -2) @ self.C + to_end.sum(3).transpose(-1, -2)

        # step t is in the exponent of every pair j < t <= i, of reading the start at i >= t, of what j < t gives the
        # end, and of the start's share of the end: sums, no differences
        pairs = _reverse_cumsum(into_weights * weights, -2).tril(-1).sum(-1)
        from_start = _reverse_cumsum((read_start * C.transpose(-1, -2)).sum(-2), -1)
        to_the_end = (written * self.given).sum(-1)
        earlier = to_the_end.cumsum(-1).roll(1, -1)
        earlier[..., 0] = 0
        whole = self.since_start[..., -1] * (ends * starts).sum((-1, -2))
        return into_given, pairs + from_start + earlier + whole[..., None], into_B, into_C, before

    def _products(self) -> Tensor:
        """C[i] . B[j] (b r g q q)"""
        return self.C @ self.B.transpose(-1, -2)

    def _ends(self, read: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """What each row reads from its start, as gradient (b r g k n p) -> adjoint of the state after every row, and of
        the one before the block"""
        total = self.since_start[..., -1, None, None]
        ends = torch.empty_like(read)
        for r in reversed(range(read.shape[1])):
            ends[:, r] = later
            later = total[:, r] * later + read[:, r]
        return ends, later


def _reverse_cumsum(x: Tensor, axis: int) -> Tensor:
    return x.flip(axis).cumsum(axis).flip(axis)


def _fold_groups(x: Tensor) -> Tensor:
    """(b t g n) -> (b r g q n): step t = r * 64 + q; missing steps are zero"""
    size = x.shape[1]
    q = min(ROW, size)
    rows = -(-size // q)
    if size < rows * q:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, rows * q - size))
    return x.unflatten(1, (rows, q)).transpose(2, 3)


def _fold(x: Tensor, groups: int) -> Tensor:
    """(b t h p) -> (b r g k q p)"""
    return _fold_groups(x).unflatten(2, (groups, -1))


def _unfold_groups(x: Tensor, size: int) -> Tensor:
    """(b r g q n) -> (b t g n)"""
    return x.transpose(2, 3).flatten(1, 2)[:, :size]


def _unfold(x: Tensor, size: int) -> Tensor:
    """(b r g k q p) -> (b t h p)"""
    return _unfold_groups(x.flatten(2, 3), size)


RECURRENCE = Recurrence(recurrence, recurrence_backward)
forward = RECURRENCE.forward
backward = RECURRENCE.backward
