"""Pure torch on any device: blocks of 256 steps, walked 16 x 16.

Inside a block the steps are laid out as 16 rows of 16: all rows advance together (vectorised), each from a zero state,
then the true state at each row's start is carried down the rows and its decayed contribution added. So a block of 256
steps takes 16 + 16 small steps instead of 256, with one exp per element and nothing divided: the decay factors are
products of numbers in [0, 1], never quotients, so long sequences cannot overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK
from nnunet_mamba.ops.selective_scan.recurrence import Recurrence

STEPS = 16
ROWS = CHUNK // STEPS


def why_not(u: Tensor) -> str | None:
    """Runs everywhere."""
    return None


def recurrence(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """u, dt (b l d); A (d n); B, C (b l n) -> y (b l d), states (b c n d)"""
    length = u.shape[1]
    h = u.new_zeros(u.shape[0], A.shape[1], u.shape[2])
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    states = []
    for start in range(0, length, CHUNK):
        states.append(h)
        block = slice(start, min(length, start + CHUNK))
        hs, _, h = _block_states(u[:, block], dt[:, block], A, B[:, block], h)
        y[:, block] = _read(hs, _fold(C[:, block]), block.stop - block.start)
    return y, torch.stack(states, 1)


def recurrence_backward(
    grad_y: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad_y (b l d) -> gradients of u, dt, A, B, C, and y (b l d) once more"""
    length = u.shape[1]
    grad_u, grad_dt, grad_B, grad_C = (torch.empty_like(x) for x in (u, dt, B, C))
    grad_A, y = torch.zeros_like(A), torch.empty_like(u)
    later = torch.zeros_like(states[:, 0])  # decayed adjoint of the first state after this block
    for chunk in reversed(range(states.shape[1])):
        block = slice(chunk * CHUNK, min(length, (chunk + 1) * CHUNK))
        size = block.stop - block.start
        u_, dt_, B_, C_, grad_ = (x[:, block] for x in (u, dt, B, C, grad_y))
        hs, decay, _ = _block_states(u_, dt_, A, B_, states[:, chunk])
        folded_C, folded_grad, folded_dt, folded_u = _fold(C_), _fold(grad_), _fold(dt_), _fold(u_)
        y[:, block] = _read(hs, folded_C, size)
        grad_C[:, block] = _unfold((hs * folded_grad[..., None, :]).sum(-1), size)

        g = folded_C[..., None] * folded_grad[..., None, :]  # (s r b n d)
        later = _adjoint(g, decay, later)
        into_B = (g * _fold(B_)[..., None]).sum(-2)  # (s r b d)
        grad_B[:, block] = _unfold((g * (folded_dt * folded_u)[..., None, :]).sum(-1), size)
        grad_u[:, block] = _unfold(into_B * folded_dt, size)
        into_exponent = g.mul_(decay).mul_(_shifted(hs, states[:, chunk]))
        grad_dt[:, block] = _unfold(into_B * folded_u + (into_exponent * A.T).sum(-2), size)
        grad_A += (into_exponent * folded_dt[..., None, :]).sum((0, 1, 2)).T
    return grad_u, grad_dt, grad_A, grad_B, grad_C, y


def _fold(x: Tensor) -> Tensor:
    """(b t k) -> (s r b k): step t = r * 16 + s; missing steps are zero"""
    batch, size, channels = x.shape
    rows = -(-size // STEPS)
    if size < rows * STEPS:
        x = torch.nn.functional.pad(x, (0, 0, 0, rows * STEPS - size))
    return x.reshape(batch, rows, STEPS, channels).permute(2, 1, 0, 3)


def _unfold(x: Tensor, size: int) -> Tensor:
    """(s r b k) -> (b t k)"""
    steps, rows, batch, channels = x.shape
    return x.permute(2, 1, 0, 3).reshape(batch, rows * steps, channels)[:, :size]


def _read(hs: Tensor, C: Tensor, size: int) -> Tensor:
    """hs (s r b n d), C (s r b n) -> y (b t d)"""
    return _unfold((hs * C[..., None]).sum(-2), size)


def _block_states(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All states of one block (s r b n d), the decay of each step (s r b n d), and the state after it (b n d)

    Missing steps at the end have dt = 0: they decay by exp(0) = 1 and add nothing, so the last state is right.
    """
    folded_dt = _fold(dt)
    decay = torch.exp(folded_dt[..., None, :] * A.T)
    hs = (folded_dt * _fold(u))[..., None, :] * _fold(B)[..., None]
    reach = decay.clone()  # product of the decays from the row's start up to here
    for s in range(1, STEPS):
        hs[s].addcmul_(decay[s], hs[s - 1])
        reach[s] *= reach[s - 1]
    starts = torch.empty_like(hs[0])
    h = first
    for r in range(starts.shape[0]):
        starts[r] = h
        h = torch.addcmul(hs[-1, r], reach[-1, r], h)
    hs.addcmul_(reach, starts[None])
    return hs, decay, h


def _adjoint(g: Tensor, decay: Tensor, later: Tensor) -> Tensor:
    """Turn C * grad_y (s r b n d) into the adjoint of every state, in place; returns the decayed adjoint before it"""
    reach = decay.clone()
    for s in reversed(range(STEPS - 1)):
        g[s].addcmul_(decay[s + 1], g[s + 1])
        reach[s] *= reach[s + 1]  # product of the decays from here to the row's end
    ends = torch.empty_like(g[0])
    for r in reversed(range(ends.shape[0])):
        ends[r] = later
        later = torch.addcmul(decay[0, r] * g[0, r], reach[0, r], later)
    # step s sees the rows after it through the decays of the steps behind s; the last step sees them as they are
    g[:-1].addcmul_(reach[1:], ends[None])
    g[-1] += ends
    return later


def _shifted(hs: Tensor, first: Tensor) -> Tensor:
    """The state before each step (s r b n d)"""
    before = torch.empty_like(hs)
    before[1:] = hs[:-1]
    before[0, 1:] = hs[-1, :-1]
    before[0, 0] = first
    return before


RECURRENCE = Recurrence(recurrence, recurrence_backward)
forward = RECURRENCE.forward
backward = RECURRENCE.backward
