"""Calling the compiled loops: compile once, cache where possible, as many threads as torch uses, safe after a fork."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import CHUNK

WIDTH, NARROW = 96, 32
"""Channels a task works on, and at least: what a chunk holds stays in the second cache."""
SUB = 16
"""Tokens whose states a task holds at once: they stay in the first cache."""
TILE = 512
ORDER_NUMBER = {"f": 0, "b": 1, "s": 2}
SUMS_OVER_CHANNELS = ("ssd_backward",)

_lock = threading.Lock()  # numba's fallback threading layer must not be entered twice
_parallel_process: int | None = None
_importing = False
_broken_off = False
"""Whether this process was forked while another thread was importing or compiling: that is then never finished."""


def why_not(x: Tensor) -> str | None:
    """The reason why numba cannot run for a tensor like this, else None."""
    if x.device.type != "cpu":
        return f"needs a CPU tensor, got {x.device.type}"
    if find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    if _broken_off:
        return "this process was forked while another thread was compiling; start it by spawn instead of fork"
    return None


def call(name: str, *args: Any) -> None:
    """Run one kernel with torch's number of threads: one of `numba_ssd_kernels` if it begins with "ssd_", else of
    `numba_kernels`.

    A process forked from one that has used threads runs single-threaded code: its parent's threads do not exist in it.
    """
    global _parallel_process, _importing
    with _lock:
        if _parallel_process is None:
            _parallel_process = os.getpid()
        is_child = os.getpid() != _parallel_process
        _importing = True
        try:
            kernel = _serial(name) if is_child else _parallel(name)
        finally:
            _importing = False
        if is_child:
            kernel(*args)
        else:
            _call_with_threads(kernel, args)


def _call_with_threads(kernel: Callable[..., None], args: tuple[Any, ...]) -> None:
    import numba
    from numba.core import config

    asked = torch.get_num_threads()
    threads = max(1, min(asked, vars(config)["NUMBA_NUM_THREADS"]))
    if numba.get_num_threads() != threads:
        numba.set_num_threads(threads)
    kernel(*args)
    if torch.get_num_threads() != asked:  # numba's OpenMP layer sets it for the whole process when it starts
        torch.set_num_threads(asked)


def _in_forked_child() -> None:
    """The parent's other threads do not exist here: nobody would release what they held or finish what they began."""
    global _lock, _importing, _broken_off
    _broken_off = _broken_off or _importing or _is_compiling()
    _importing = False
    _lock = threading.Lock()


def _is_compiling() -> bool:
    """Whether a thread that does not exist here held the lock under which numba loads and compiles all code"""
    module = sys.modules.get("numba.core.compiler_lock")
    if module is None:
        return False
    lock = module.global_compiler_lock._lock
    if not lock.acquire(blocking=False):
        return True
    lock.release()
    return False


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_forked_child)


def _new_kernel(name: str, parallel: bool) -> Any:
    import numba

    from nnunet_mamba.ops.kernels import numba_kernels, numba_ssd_kernels

    module = numba_ssd_kernels if name.startswith("ssd_") else numba_kernels
    fastmath = {"contract"} | ({"reassoc", "nsz"} if name in SUMS_OVER_CHANNELS else set())
    options = {"fastmath": fastmath, "error_model": "numpy", "parallel": parallel}
    kernel: Any = numba.njit(**options)(getattr(module, name))
    with suppress(RuntimeError, OSError):  # no folder for the cache can be found: every process compiles
        _let_it_be_cached(kernel, "parallel" if parallel else "serial")
    return kernel


def _let_it_be_cached(kernel: Any, kind: str) -> None:
    try:
        from nnunet_mamba.ops.kernels.numba_cache import CheckedCache

        kernel._cache = CheckedCache(kernel.py_func, kind)
    except (ImportError, AttributeError, TypeError):  # another numba with other names inside: its own cache has to do
        kernel.enable_caching()


@cache
def _parallel(name: str) -> Any:
    return _new_kernel(name, parallel=True)


@cache
def _serial(name: str) -> Any:
    return _new_kernel(name, parallel=False)


def block_width(batch: int, channels: int) -> int:
    """Channels per task, a multiple of 16 where that divides the work evenly.

    As many as fit the caches, fewer where that gives every processor something to do: where it does not, sequences are
    cut. Each block adds to the memory of a gradient.
    """
    blocks = max(1, round(channels / WIDTH))
    wanted = -(-(os.cpu_count() or 1) // max(1, batch))
    if blocks < wanted <= channels // NARROW:
        blocks = wanted
    even = -(-channels // blocks)
    return max(1, min(channels, -(-even // 16) * 16))


def n_segments(batch: int, channels: int, length: int) -> int:
    """Pieces a sequence is walked in at once. Depends on the machine, never on the number of threads in use."""
    return sequence_pieces(batch * -(-channels // block_width(batch, channels)), length)


def sequence_pieces(tasks: int, length: int) -> int:
    """Pieces of a sequence for a number of tasks that can run at once without any."""
    chunks = -(-length // CHUNK)
    wanted = (os.cpu_count() or 1) // max(1, tasks)
    return max(1, min(wanted, chunks // 4)) if wanted >= 3 else 1  # two passes cost more than two cores give


def as_array(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A contiguous numpy array of this precision, without a copy where possible."""
    return x.detach().to(dtype).contiguous().numpy()


def as_rows(x: Tensor, dtype: torch.dtype) -> tuple[np.ndarray, int]:
    """(b l e) -> (rows k) and the column where x begins: one half of a projection is used where it lies."""
    batch, length, channels = x.shape
    stride = x.stride(1)
    if x.dtype == dtype and x.numel() and x.stride(2) == 1 and length > 1 and stride >= channels:
        column = int(x.storage_offset()) % stride
        start = x.storage_offset() - column
        rows = batch * length
        fits = start + rows * stride <= x.untyped_storage().nbytes() // x.element_size()
        if fits and column + channels <= stride and (batch == 1 or x.stride(0) == length * stride):
            return x.detach().as_strided((rows, stride), (stride, 1), start).numpy(), column
    return as_array(x, dtype).reshape(batch * length, channels), 0


class Workspace:
    """Arrays by name, used again by the next order of the same call: fresh pages cost as much as filling them."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of this shape with whatever the last user of the name left in it."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._arrays[name] = np.empty(shape, dtype)
        return array


@dataclass(frozen=True)
class ScanGradients:
    """Of u and of the step before softplus (rows e), B | C (rows 2n), A (n e), D and the step's bias (e)"""

    u: np.ndarray
    dt: np.ndarray
    BC: np.ndarray
    A: np.ndarray
    D: np.ndarray
    dt_bias: np.ndarray


@dataclass(frozen=True)
class Scan:
    """One scan over rows: how its steps are made, and in which order its tokens are read.

    u (rows e); proj (rows r+2n): low-rank step | B | C; given (rows e) steps, or no columns if they are computed with
    dt_proj (r e); dt_bias (e) is added to both, softplus applied on request; A2 (n e) = A * log2(e); D (e).
    """

    u: np.ndarray
    given: np.ndarray
    proj: np.ndarray
    dt_proj: np.ndarray
    dt_bias: np.ndarray
    softplus: bool
    A2: np.ndarray
    D: np.ndarray
    batch: int
    order: int
    n_slices: int
    segments: int

    @property
    def _step(self) -> tuple[Any, ...]:
        return self.given, self.proj, self.dt_proj, self.dt_bias, self.softplus

    @property
    def _walk(self) -> tuple[int, ...]:
        return self.order, self.n_slices, CHUNK

    @property
    def _bounds(self) -> list[int]:
        """First chunk of every segment, and the end."""
        length = self.u.shape[0] // max(1, self.batch)
        chunks = -(-length // CHUNK)
        return [s * chunks // self.segments for s in range(self.segments + 1)]

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Adds the result to y (rows e); returns states (b c n e)."""
        n_state, channels = self.A2.shape
        width = block_width(self.batch, channels)
        states = np.zeros((self.batch, self._bounds[-1], n_state, channels), self.u.dtype)
        if self.segments > 1:
            ends = np.empty((self.batch, self.segments, n_state, channels), self.u.dtype)
            steps = np.empty((self.batch, self.segments, channels), self.u.dtype)
            call("segment_ends", self.u, *self._step, self.A2, *self._walk, SUB, width, self.segments, ends, steps)
            for s in range(1, self.segments):
                decay = np.exp2(self.A2 * steps[:, s - 1, None])
                before = states[:, self._bounds[s - 1]]
                states[:, self._bounds[s]] = decay * before + ends[:, s - 1]
        call("scan_forward", self.u, *self._step, self.A2, self.D, *self._walk, SUB, width, self.segments, states, y)
        return states

    def backward(self, grad_y: np.ndarray, states: np.ndarray, y: np.ndarray, work: Workspace) -> ScanGradients:
        """Adds the result to y (rows e) once more. The gradients of u and dt lie in the workspace."""
        n_state, channels = self.A2.shape
        width = block_width(self.batch, channels)
        dtype, tasks = self.u.dtype, (self.batch, self.segments)
        after = np.zeros((*tasks, n_state, channels), dtype)
        if self.segments > 1:
            starts = np.empty_like(after)
            steps = np.empty((*tasks, channels), dtype)
            call(
                "segment_adjoints", grad_y, *self._step, self.A2, *self._walk, SUB, width, self.segments, starts, steps
            )
            for s in reversed(range(self.segments - 1)):
                decay = np.exp2(self.A2 * steps[:, s + 1, None])
                after[:, s] = decay * after[:, s + 1] + starts[:, s + 1]
        rows = self.u.shape[0]
        grad_u = work.empty("grad_u", (rows, channels), dtype)
        grad_dt = work.empty("grad_dt", (rows, channels), dtype)
        grad_BC = work.empty("grad_BC", (-(-channels // width), rows, 2 * n_state), dtype)
        grad_A2 = np.zeros_like(after)
        grad_D, grad_dt_bias = np.zeros((*tasks, channels), dtype), np.zeros((*tasks, channels), dtype)
        call(
            "scan_backward", grad_y, self.u, *self._step, self.A2, self.D, *self._walk, SUB, width, self.segments,
            states, after, y, grad_u, grad_dt, grad_BC, grad_A2, grad_D, grad_dt_bias,
        )  # fmt: skip
        return ScanGradients(
            grad_u,
            grad_dt,
            grad_BC.sum(0) if len(grad_BC) > 1 else grad_BC[0],
            # the exponent is dt * A2 * ln 2 = dt * A: what the kernel sums is the gradient of A already
            grad_A2.sum((0, 1)),
            grad_D.sum((0, 1)),
            grad_dt_bias.sum((0, 1)),
        )


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (rows i), b (rows j) -> a^T b (i j), added up in a fixed order"""
    left, right = a.contiguous().numpy(), b.contiguous().numpy()
    parts = np.empty((-(-left.shape[0] // TILE), left.shape[1], right.shape[1]), left.dtype)
    call("products", left, right, TILE, parts)
    return torch.from_numpy(parts.sum(0))


def scaled_A(A: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A (e n) -> (n e), times log2(e): exp(dt A) = 2**(dt A2)"""
    return as_array((A.double() / np.log(2)).T, dtype)
