"""Other people's scans behind our signature, and the arrangement of released SegMamba around any scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.benchmarks.scan_inputs import STATES
from nnunet_mamba.ops import backends, oriented_scan, oriented_ssd, selective_scan, ssd
from nnunet_mamba.ops.oriented_scan.orders import permute, restore
from nnunet_mamba.ops.selective_scan import mamba_ssm

Scan = Callable[..., Tensor]


@dataclass(frozen=True)
class Implementation:
    """`run` takes the named tensors of a case and returns y; `why_not` tells why it cannot run on a device.

    `most_tokens`: beyond it a gradient takes longer than any extrapolation from short sequences says.
    `mamba2_states`: state size of Mamba-2's recurrence, which has tensors of its own; None for Mamba-1.
    """

    name: str
    run: Callable[..., Tensor]
    why_not: Callable[[Tensor], str | None]
    most_tokens: int | None = None
    mamba2_states: int | None = None


MAMBA2_STATES = (STATES, 64)
"""Mamba-1's, for comparison, and Mamba-2's usual size"""
OPS = {"scan": ("selective_scan", "ssd"), "mixer": ("oriented_scan", "oriented_ssd")}
"""Operators of Mamba-1 and of Mamba-2"""


def ours(op: str, backend: str, mamba2_states: int | None = None) -> Implementation:
    """Our "scan" or "mixer" on one backend

    A scan of Mamba-1 includes the gate, and a mixer everything between its two projections. What is Mamba-2's ends
    before the gate, which its norm follows.
    """
    operator = OPS[op][mamba2_states is not None]

    def run(n_slices: int = 1, **tensors: Any) -> Tensor:
        if operator == "selective_scan":
            return selective_scan(**tensors, delta_softplus=True, backend=backend)
        if operator == "ssd":
            return ssd(**tensors, dt_softplus=True, backend=backend)
        if operator == "oriented_scan":
            return oriented_scan(**tensors, n_slices=n_slices, backend=backend)
        return oriented_ssd(**tensors, d_state=mamba2_states or 0, n_slices=n_slices, backend=backend)

    name = f"{'fused, ' if op == 'mixer' else ''}{backend} (ours)"
    if mamba2_states is not None:
        name = f"Mamba-2, {mamba2_states} states, {name}"
    return Implementation(name, run, backends.load(operator, backend).why_not, mamba2_states=mamba2_states)


def _ours(op: str) -> list[Implementation]:
    """Mamba-1's on every backend that is chosen by itself, the reference being the judge"""
    return [ours(op, name) for name in _measured_backends(OPS[op][0])]


def _mamba2(op: str) -> list[Implementation]:
    return [ours(op, name, states) for states in MAMBA2_STATES for name in _measured_backends(OPS[op][1])]


def scans() -> list[Implementation]:
    """Single scans with softplus, bias, skip and gate: ours, those of Mamba-2, then everybody else's."""
    return [*_ours("scan"), *_mamba2("scan"), *_rival_scans()]


def _measured_backends(op: str) -> list[str]:
    return [
        name for name in backends.names() if name not in ("reference", *backends.ON_REQUEST) and backends.has(op, name)
    ]


def _rival_scans() -> list[Implementation]:
    return [
        Implementation("mamba-ssm selective_scan_cuda", _mamba_ssm, mamba_ssm.why_not),
        Implementation("mamba-ssm selective_scan, kernels build", _hub_mamba_ssm, _why_no_hub_kernel),
        Implementation("mambapy pscan", _mambapy, _needs("mambapy")),
        Implementation("plain torch loop", _loop, lambda u: None, most_tokens=65_536),
    ]


def _needs(package: str) -> Callable[[Tensor], str | None]:
    return lambda u: None if find_spec(package) else f"{package} is not installed: pip install 'nnunet-mamba[bench]'"


def _mamba_ssm(**tensors: Tensor) -> Tensor:
    module = import_module("mamba_ssm.ops.selective_scan_interface")
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    return module.selective_scan_fn(*(tensors[k] for k in order), delta_softplus=True)


def _hub_mamba_ssm(**tensors: Tensor) -> Tensor:
    module = _hub_kernel()
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    scan = getattr(module, "selective_scan_fn", None) or module.ops.selective_scan_interface.selective_scan_fn
    return scan(*(tensors[k] for k in order), delta_softplus=True)


@cache
def _hub_kernel() -> Any:
    """mamba-ssm's kernels as the Hugging Face Hub builds them; fetched at first use"""
    return import_module("kernels").get_kernel("kernels-community/mamba-ssm")


def _why_no_hub_kernel(u: Tensor) -> str | None:
    if find_spec("kernels") is None:
        return "kernels is not installed: pip install kernels"
    return None if u.is_cuda else "needs a CUDA tensor, got cpu"


def _around(tensors: dict[str, Tensor], states: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """states(decay (b l d n), input (b l d n), C (b l n)) -> y (b l d), with everything else around it"""
    u, delta, B, C, z = (tensors[k].transpose(1, 2) for k in ("u", "delta", "B", "C", "z"))
    dt = F.softplus(delta + tensors["delta_bias"])
    decay = torch.exp(dt[..., None] * tensors["A"])
    y = states(decay, (dt * u)[..., None] * B[:, :, None], C) + tensors["D"] * u
    return (y * F.silu(z)).transpose(1, 2)


def _mambapy(**tensors: Tensor) -> Tensor:
    pscan = import_module("mambapy.pscan").pscan
    return _around(tensors, lambda decay, given, C: (pscan(decay, given) @ C[..., None])[..., 0])


def _loop(**tensors: Tensor) -> Tensor:
    """One torch statement per step, gradients by autograd: what a port without kernels does."""

    def walk(decay: Tensor, given: Tensor, C: Tensor) -> Tensor:
        h, ys = torch.zeros_like(given[:, 0]), []
        for a, x, c in zip(decay.unbind(1), given.unbind(1), C.unbind(1), strict=True):
            h = a * h + x
            ys.append((h @ c[..., None])[..., 0])
        return torch.stack(ys, 1)

    return _around(tensors, walk)


def mixers() -> list[Implementation]:
    """The whole tri-orientated mixer: ours per backend, Mamba-2's, then three passes around every scan, as released."""

    def passes(scan: Implementation) -> Implementation:
        def run(n_slices: int, **tensors: Tensor) -> Tensor:
            return three_passes(scan.run, n_slices, **tensors)

        return Implementation(f"three passes, {scan.name}", run, scan.why_not)

    single = (scan for scan in (*_ours("scan"), *_rival_scans()) if scan.name != "plain torch loop")
    return [*_ours("mixer"), *_mamba2("mixer"), *(passes(scan) for scan in single)]


def three_passes(
    scan: Scan,
    n_slices: int,
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> Tensor:
    """x, z (b l e) -> (b l e): every orientation on permuted copies, gated on its own, put back and summed.

    How released SegMamba arranges it (channels first, a convolution, two projections and a scan per orientation).
    """
    total = None
    for k, order in enumerate("fbs"):
        xo, zo = (permute(t, order, n_slices).transpose(1, 2).contiguous() for t in (x, z))
        u = _conv(xo, conv_weight[k].to(x.dtype), conv_bias[k].to(x.dtype))
        n, rank = A.shape[2], dt_proj_weight.shape[2]
        low, B, C = (x_proj_weight[k].to(x.dtype) @ u).split([rank, n, n], 1)
        delta = dt_proj_weight[k].to(x.dtype) @ low
        y = scan(u=u, delta=delta, A=A[k], B=B, C=C, D=D[k], z=zo, delta_bias=dt_bias[k])
        y = restore(y.transpose(1, 2), order, n_slices)
        total = y if total is None else total + y
    assert total is not None
    return total


def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """causal-conv1d's kernel where it is installed and can run, else torch's grouped convolution"""
    if x.is_cuda and find_spec("causal_conv1d") is not None:
        return import_module("causal_conv1d").causal_conv1d_fn(x, weight, bias, activation="silu")
    taps = weight.shape[1]
    return F.silu(F.conv1d(x, weight[:, None], bias, padding=taps - 1, groups=len(weight))[..., : x.shape[2]])
