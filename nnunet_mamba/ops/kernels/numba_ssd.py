"""Mamba-2's scan over rows by compiled loops: what goes in, how the work is cut, what comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.kernels.numba_runtime import SUB, TILE, Workspace, as_array, call, sequence_pieces
from nnunet_mamba.ops.numerics import CHUNK

NARROWEST, WIDEST = 48, 192
"""Channels of a block; at 16 to 128 states one of 192 takes 0.4 to 0.7 of the time of four of 48"""
Part = tuple[np.ndarray, int]
"""Rows, and the column where a tensor begins in them"""


@dataclass(frozen=True)
class Sizes:
    """Of one scan, and how its channels are cut into blocks of `width` within each group of heads."""

    batch: int
    length: int
    heads: int
    p: int
    groups: int
    n: int

    @property
    def channels(self) -> int:
        return self.heads * self.p

    @property
    def of_group(self) -> int:
        """Channels of a group of heads"""
        return self.channels // self.groups

    @property
    def width(self) -> int:
        """Channels of a block: as few blocks as give every core one. The wider, the more of a token's row is read at
        once, which is what a walk with few exps waits for; what a block works on has to stay in the second cache."""
        wanted = -(-(os.cpu_count() or 1) // max(1, self.batch * self.groups))
        most = -(-self.of_group // NARROWEST)
        blocks = max(min(wanted, most), -(-self.of_group // WIDEST))
        return min(self.of_group, -(-self.of_group // blocks // 16) * 16)

    @property
    def blocks(self) -> int:
        return self.groups * -(-self.of_group // self.width)

    @property
    def parts(self) -> int:
        """The most blocks that one head lies in"""
        heads = range(self.heads // self.groups)
        return max(((h + 1) * self.p - 1) // self.width - h * self.p // self.width for h in heads) + 1

    @property
    def segments(self) -> int:
        """Pieces of a sequence that are walked at once"""
        return sequence_pieces(self.batch * self.blocks, self.length)


@dataclass(frozen=True)
class Gradients:
    """dt (rows h), of the step before softplus; A, D, dt_bias (h). Those of x, B, C lie where the caller wants them"""

    dt: np.ndarray
    A: np.ndarray
    D: np.ndarray
    dt_bias: np.ndarray


@dataclass(frozen=True)
class Scan:
    """One scan over rows: its tensors, and in which order its tokens are read.

    x (rows e), B, C (rows gn), dt (rows h), each a part of wider rows; dt_bias, D (h); A2 (h) = A log2(e)
    """

    x: Part
    B: Part
    C: Part
    dt: Part
    dt_bias: np.ndarray
    softplus: bool
    A2: np.ndarray
    D: np.ndarray
    sizes: Sizes
    order: int
    n_slices: int
    segments: int

    @property
    def _step(self) -> tuple[Any, ...]:
        return *self.dt, self.dt_bias, self.softplus, self.A2

    @property
    def _walk(self) -> tuple[int, ...]:
        return self.order, self.n_slices, CHUNK

    @property
    def _cut(self) -> tuple[int, ...]:
        return self.sizes.width, self.sizes.groups, self.segments

    @property
    def _bounds(self) -> list[int]:
        """First chunk of every segment, and the end"""
        chunks = -(-self.sizes.length // CHUNK)
        return [s * chunks // self.segments for s in range(self.segments + 1)]

    def _states(self, number: int, make: Any = np.zeros) -> np.ndarray:
        s = self.sizes
        return make((s.batch, number, s.heads, s.n, s.p), self.A2.dtype)

    def _decay(self, steps: np.ndarray) -> np.ndarray:
        """Sum of steps (b h) -> decay over them, as states have their axes"""
        return np.exp2(self.A2 * steps)[..., None, None]

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Adds the result to y (rows e); returns states (b c h n p)."""
        states = self._states(self._bounds[-1])
        if self.segments > 1:
            ends = self._states(self.segments, np.empty)
            steps = np.empty(ends.shape[:3], ends.dtype)
            call(
                "ssd_segment_ends", *self.x, *self.B, *self._step, self.D, *self._walk, *self._cut, len(y), ends, steps
            )
            for s in range(1, self.segments):
                before = states[:, self._bounds[s - 1]]
                states[:, self._bounds[s]] = self._decay(steps[:, s - 1]) * before + ends[:, s - 1]
        inputs = (*self.x, *self.B, *self.C, *self._step, self.D)
        call("ssd_forward", *inputs, *self._walk, SUB, *self._cut, states, y)
        return states

    def backward(
        self, grad_y: np.ndarray, states: np.ndarray, grad_x: np.ndarray, into: Part, work: Workspace
    ) -> Gradients:
        """grad_y (rows e) -> writes the gradients of x to grad_x (rows e ...), those of B | C (rows 2gn) to `into`"""
        s, dtype = self.sizes, self.A2.dtype
        after = self._states(self.segments)
        if self.segments > 1:
            starts = self._states(self.segments, np.empty)
            steps = np.empty(starts.shape[:3], dtype)
            call("ssd_segment_adjoints", grad_y, *self.C, *self._step, *self._walk, *self._cut, starts, steps)
            for k in reversed(range(self.segments - 1)):
                after[:, k] = self._decay(steps[:, k + 1]) * after[:, k + 1] + starts[:, k + 1]
        rows = len(grad_y)
        grad_dt = np.zeros((s.parts, rows, s.heads), dtype)
        grad_BC = work.empty("grad_BC", (s.blocks, rows, 2 * s.n), dtype)
        grad_A, grad_D, grad_dt_bias = np.zeros((3, s.batch, self.segments, s.parts, s.heads), dtype)
        inputs = (*self.x, *self.B, *self.C, *self._step, self.D)
        call(
            "ssd_backward", grad_y, *inputs, *self._walk, SUB, *self._cut, states, after, grad_x, grad_dt, grad_BC,
            grad_A, grad_D, grad_dt_bias,
        )  # fmt: skip
        call("ssd_sum_blocks", grad_BC, s.groups, TILE, *into)
        step = grad_dt.sum(0) if s.parts > 1 else grad_dt[0]
        return Gradients(step, *(g.sum((0, 1, 2)) for g in (grad_A, grad_D, grad_dt_bias)))


def scaled_decays(A: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A (h) times log2(e): exp(dt A) = 2**(dt A2)"""
    return as_array(A.double() / np.log(2), dtype)
