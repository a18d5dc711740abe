"""The Triton kernels compiled for real GPUs, on a machine without one.

Triton's bundled compilers need no device. Their output tells what the interpreter cannot: that every kernel compiles,
that none keeps registers in memory, and that no offset is computed in 32 bits that could exceed them.
"""

from __future__ import annotations

import re
import subprocess
from itertools import chain
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from nnunet_mamba.ops import _triton_conv as conv  # noqa: E402
from nnunet_mamba.ops import _triton_kernels as kernels  # noqa: E402
from nnunet_mamba.ops import _triton_scan as scan  # noqa: E402

pytestmark = pytest.mark.skipif(
    not hasattr(kernels.outputs_kernel, "cache_key"), reason="TRITON_INTERPRET replaces the compiler in this process"
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
STRIDES = re.compile(r"(x|z|u|grad|before|out)_(b|t|e)")

# Factors of 32-bit products, by the name their result gets in the kernel, and why they stay below 2^31
SMALL_PRODUCTS = {
    "start": "chunk * CHUNK, at most l + 255; l is limited to 2^31 - 1024",
    "t": "token block * BT, likewise",
    "p": "slice * (l / slices) + token in slice: at most l",
    "rows": "as p, of the convolution",
    "token": "as p",
    "d": "channel block * BD, at most e + 31",
    "n0": "state block * NB, at most n + 15",
    "tile": "state entry * e",
    "checkpoints": "first state entry * e",
    "k": "entry of n x e",
    "bc": "2 n",
    "grad_bc": "2 n",
    "i": "step in a chunk",
    "first": "step in a chunk",
    "tap": "tap * e",
    "partial": "(w + 1) * e",
}


def compile_kernel(kernel, types: dict[str, str], constants: dict, target: GPUTarget, warps: int, adjacent=()):
    """types: pointers by name (None: not given); other arguments are int32; `adjacent`: strides that are 1"""
    constants = constants | dict.fromkeys(adjacent, 1)
    constants |= {name: None for name, kind in types.items() if kind is None}
    signature, aligned = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = f"*{SHORT[types[name]]}" if name in types else "i32"
        # what the launcher finds out about its arguments: tensors and rows start at multiples of 16
        if name in types or name in ("channels", "n_state", "n0", "tile_size") or STRIDES.fullmatch(name):
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=target, options={"num_warps": warps, **scan.OPTIONS})


def scan_variants(dtype: str, orders: str, sub: int):
    """name, kernel, types, constants, warps, of every scan kernel"""
    acc = "float64" if dtype == "float64" else "float32"
    block = 4 if dtype == "float64" else 16
    inputs = {"u": dtype, "delta": dtype, "bias": acc, "bc": acc, "A": acc}
    gated = {"D": acc, "z": dtype, "partial": acc}
    sums = dict.fromkeys(("ends", "sums", "starts", "checkpoints", "entering", "grad_bc", "grad_D"), acc)
    results = dict.fromkeys(("grad_u", "grad_delta", "grad_A", "grad_bias"), acc)
    constants = {"CHUNK": 256, "NB": block, "BD": scan.BD, "SOFTPLUS": True}

    def of(kernel, *types):
        merged = dict(chain.from_iterable(t.items() for t in types))
        return {name: kind for name, kind in merged.items() if name in kernel.arg_names}

    kernel = kernels.chunk_ends_kernel
    yield "ends", kernel, of(kernel, inputs, sums), constants, 1
    for reverse in (False, True):
        kernel = kernels.carry_kernel
        carry = {"CB": scan.CARRY_CHUNKS, "BK": scan.CARRY_LANES, "REVERSE": reverse}
        yield f"carry {reverse=}", kernel, of(kernel, inputs, sums), carry, 4
    for order, add, last in orders_and_places(orders):
        place = constants | {"ORDER": order, "ADD": add, "LAST": last}
        kernel = kernels.outputs_kernel
        types = of(kernel, inputs, gated, sums, {"out": dtype})
        yield f"outputs {order} {add=} {last=}", kernel, types, place, 1
        kernel = kernels.again_kernel
        types = of(kernel, inputs, gated, sums, {"grad_y": dtype, "grad_z": dtype})
        yield f"again {order} {add=} {last=}", kernel, types, place | {"EVERY": scan.CHECKPOINT}, 1
    for order in orders:
        kernel = kernels.adjoints_kernel
        types = of(kernel, inputs, gated, sums, results, {"grad_y": dtype})
        place = constants | {"ORDER": order, "ADD": False, "EVERY": scan.CHECKPOINT, "SUB": sub}
        yield f"adjoints {order}", kernel, types, place, 1


def orders_and_places(orders: str):
    """As `tri_scan` runs them: order, whether it adds to a sum, whether it is the last"""
    return [(order, k > 0, k == len(orders) - 1) for k, order in enumerate(orders)]


def conv_variants(dtype: str, orders: str):
    acc = "float64" if dtype == "float64" else "float32"
    types = dict.fromkeys(("weight", "bias", "grad", "before", "partial"), acc)
    types |= dict.fromkeys(("x", "u", "out"), dtype)
    block = conv.token_block(getattr(torch, acc))
    for order, add, last in orders_and_places(orders):
        constants = {"TAPS": 4, "ORDER": order, "BT": block, "BD": conv.BD}
        for name, kernel, extra in (
            ("conv", kernels.conv_kernel, {"SILU": True}),
            ("conv weights", kernels.conv_weights_kernel, {"SILU": True}),
            ("conv inputs", kernels.conv_inputs_kernel, {"ADD": add, "LAST": last}),
        ):
            given = {key: kind for key, kind in types.items() if key in kernel.arg_names}
            yield f"{name} {order} {add=} {last=}", kernel, given, constants | extra, 4


def variants(dtype: str, orders: str, target: GPUTarget):
    sub = 4 if target.backend == "cuda" and target.arch >= 90 else 2  # as choose_sub chooses on such a device
    channel_last = ("x_e", "u_e", "grad_e", "before_e", "out_e")
    for variant in scan_variants(dtype, orders, sub):
        yield *variant, ()
    for name, kernel, *rest in conv_variants(dtype, orders):
        yield name, kernel, *rest, tuple(s for s in channel_last if s in kernel.arg_names)


def spills(compiled, target: GPUTarget, tmp_path: Path, dtype: str) -> dict[str, int]:
    """What the kernel keeps in memory for lack of registers; all zero if nothing"""
    if target.backend == "hip":
        keys = ["vgpr_spill_count", "private_segment_fixed_size"]
        if dtype != "float64":  # there, scalar registers overflow into vector registers, not into memory
            keys.append("sgpr_spill_count")
        return {key: int(re.search(rf"\.{key}:\s*(\d+)", compiled.asm["amdgcn"]).group(1)) for key in keys}
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    command = [NVIDIA_TOOLS / "cuobjdump", "-res-usage", binary]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(re.search(rf"\b{key}:(\d+)", usage).group(1)) for key in ("STACK", "LOCAL")}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("dtype", "orders"), [("bfloat16", "fbs"), ("float16", "s"), ("float32", "s"), ("float64", "s")]
)
def test_compiles_without_spills(target: str, dtype: str, orders: str, tmp_path: Path) -> None:
    found = {}
    for name, kernel, types, constants, warps, adjacent in variants(dtype, orders, TARGETS[target]):
        compiled = compile_kernel(kernel, types, constants, TARGETS[target], warps, adjacent)
        found[name] = spills(compiled, TARGETS[target], tmp_path, dtype)
    assert not {name: kept for name, kept in found.items() if any(kept.values())}


def test_optional_arguments_and_channel_first_convolution_compile(tmp_path: Path) -> None:
    """What only the single ops use: no gate, no D, no bias, and tokens adjacent instead of channels"""
    target = TARGETS["sm_90"]
    for name, kernel, types, constants, warps in scan_variants("float32", "f", 4):
        without = {key: None for key in ("D", "z", "bias", "partial", "grad_z", "grad_D") if key in types}
        if name.startswith("carry"):
            continue
        constants = constants | {"SOFTPLUS": False}
        compiled = compile_kernel(kernel, types | without, constants, target, warps)
        assert not any(spills(compiled, target, tmp_path, "float32").values()), name
    for name, kernel, types, constants, warps in conv_variants("float32", "f"):
        adjacent = [s for s in ("x_t", "u_t", "grad_t", "before_t", "out_t") if s in kernel.arg_names]
        compiled = compile_kernel(kernel, types, constants, target, warps, adjacent)
        assert not any(spills(compiled, target, tmp_path, "float32").values()), name


def test_32_bit_products_are_all_small() -> None:
    """Every 32-bit product is one of a list with a reason; rows times strides are not on it: they are 64 bits wide."""
    wide = 0
    for name, kernel, types, constants, warps, adjacent in variants("bfloat16", "fs", TARGETS["sm_90"]):
        ttir = compile_kernel(kernel, types, constants, TARGETS["sm_90"], warps, adjacent).asm["ttir"]
        for line in ttir.splitlines():
            product = re.search(r"%(\w+?)(?:_\d+)* = arith\.muli (.*?) : .*?\b(i32|i64)\b", line)
            if not product:
                continue
            result, factors, width = product.groups()
            if width == "i64":
                wide += 1
                continue
            assert result in SMALL_PRODUCTS, f"{name}: {line.strip()}"
            assert not any(STRIDES.fullmatch(f.strip(" %")) for f in factors.split(",")), f"{name}: {line.strip()}"
    assert wide > 100
