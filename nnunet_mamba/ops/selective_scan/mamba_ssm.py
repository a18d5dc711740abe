"""The scan by mamba-ssm's own CUDA extension. Runs when asked for by name, never by choice.

`import mamba_ssm` succeeding does not mean that its Mamba-1 scan exists: that is the module `selective_scan_cuda`,
which newer builds leave out unless told otherwise.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from nnunet_mamba.ops.numerics import n_chunks
from nnunet_mamba.ops.selective_scan.recurrence import Recurrence

EXTENSION = "selective_scan_cuda"
LARGEST_STATE = 256
REBUILD = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-deps --force-reinstall mamba-ssm"


def why_not(u: Tensor) -> str | None:
    """One sentence on why mamba-ssm's kernel cannot run for tensors like u, and what to type; or None."""
    reason = _not_importable()
    if reason is not None:
        return reason
    if u.device.type != "cuda":
        return f"needs a CUDA tensor, got {u.device.type}"
    if u.dtype == torch.float64:
        return "computes in float32 only; use the blocked backend for float64"
    return None


def _not_importable() -> str | None:
    if find_spec(EXTENSION) is None:
        if find_spec("mamba_ssm") is None:
            return 'mamba-ssm is not installed: pip install "nnunet-mamba[mamba-ssm]" (needs a CUDA toolchain)'
        return f"mamba-ssm was built without {EXTENSION}, its Mamba-1 scan; rebuild it with: {REBUILD}"
    try:
        import_module(EXTENSION)
    except (ImportError, OSError) as error:  # built for another torch or CUDA
        return f"{EXTENSION} does not load ({error}); rebuild it for this torch with: {REBUILD}"
    return None


def recurrence(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """u, dt (b l d); A (d n); B, C (b l n) -> y (b l d), states (b c n d)

    The extension keeps other states than ours: those returned are NaN, and the gradient starts from the inputs.
    """
    states = u.new_full((u.shape[0], n_chunks(u.shape[1]), A.shape[1], u.shape[2]), float("nan"))
    if not u.numel():
        return torch.zeros_like(u), states
    y, _ = _forward(_extension(A), _channel_first(u, dt, A, B, C))
    return y.transpose(1, 2), states


def recurrence_backward(
    grad_y: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad_y (b l d) -> gradients of u, dt, A, B, C, and y (b l d) once more"""
    if not u.numel():
        grads = (torch.zeros_like(x) for x in (u, dt, A, B, C, u))
        return tuple(grads)  # type: ignore[return-value]
    extension, inputs = _extension(A), _channel_first(u, dt, A, B, C)
    y, kept = _forward(extension, inputs)
    grad = grad_y.transpose(1, 2).contiguous()
    # D, z and bias are None: they are applied outside; the last flag asks for the gated output once more
    grads = extension.bwd(*inputs, None, None, None, grad, kept, None, None, False, False)
    grad_u, grad_dt, grad_A, grad_B, grad_C = grads[:5]
    return (
        grad_u.transpose(1, 2),
        grad_dt.transpose(1, 2),
        grad_A.to(A.dtype),
        grad_B.squeeze(1).transpose(1, 2),
        grad_C.squeeze(1).transpose(1, 2),
        y.transpose(1, 2),
    )


def _extension(A: Tensor) -> ModuleType:
    if A.shape[1] > LARGEST_STATE:
        raise ValueError(f"{EXTENSION} takes at most {LARGEST_STATE} states per channel, got n = {A.shape[1]}")
    return import_module(EXTENSION)


def _channel_first(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, ...]:
    """u, dt (b d l); A (d n); B, C (b 1 n l): one group of channels, l contiguous"""
    u, dt, B, C = (x.transpose(1, 2).contiguous() for x in (u, dt, B, C))
    return u, dt, A.contiguous(), B.unsqueeze(1), C.unsqueeze(1)


def _forward(extension: ModuleType, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """-> y (b d l), and what the extension wants back for the gradient"""
    y, kept, *_ = extension.fwd(*inputs, None, None, None, False)
    return y, kept


RECURRENCE = Recurrence(recurrence, recurrence_backward)
forward = RECURRENCE.forward
backward = RECURRENCE.backward
