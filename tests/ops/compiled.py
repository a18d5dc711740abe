"""The Triton kernels compiled for real GPUs without one, and what can be read off their code.

Runs in a process of its own, so that another version of Triton can be asked; prints one JSON object, a row per kernel:

    python -m tests.ops.compiled sm_90 bfloat16
    PYTHONPATH=FOLDER:. python -m tests.ops.compiled sm_90 bfloat16        the Triton that lies in FOLDER

With --record, the rows also go to kernel_counts.json, under this version of Triton.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nnunet_mamba.ops.kernels import triton_backward as backward
from nnunet_mamba.ops.kernels import triton_conv, triton_projection, triton_scan, triton_ssd, triton_ssd_sizes
from nnunet_mamba.ops.kernels import triton_conv_kernels as convolution
from nnunet_mamba.ops.kernels import triton_forward as forward
from nnunet_mamba.ops.kernels import triton_projection_kernels as projection
from nnunet_mamba.ops.kernels import triton_ssd_backward as ssd_backward
from nnunet_mamba.ops.kernels import triton_ssd_forward as ssd_forward
from nnunet_mamba.ops.kernels.triton_sizes import ALIGN, BD, padded_states, projected_width, state_block
from nnunet_mamba.ops.kernels.triton_support import OLDEST_FOR_DOUBLE_PRODUCTS, is_older_than

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
STRIDES = re.compile(r"(x|z|u|grad|before|out)_(b|t|e|s)")
CHANNELS, STATES, RANK, TAPS, CHUNK = 96, 16, 3, 4, 256
COUNTS = Path(__file__).parent / "kernel_counts.json"
IN_ACCUMULATION = (
    "dt", "bc", "A", "D", "starts", "partial", "ends", "sums", "behind", "checkpoints", "grad_bc", "grad_D", "entering",
    "grad_u", "grad_A", "grad_bias", "weight", "bias", "grad", "before",
)  # fmt: skip
IN_INPUTS_DTYPE = ("u", "z", "out", "grad_y", "grad_z", "x", "projected")
IN_PRODUCTS_DTYPE = ("grad_delta", "more", "grad_low", "grad_projected")
TOKENS_ADJACENT = ("x_t", "u_t", "grad_t", "before_t", "out_t")
HEADS, HEAD, GROUPS = 3, 32, 1
HALF = ("float16", "bfloat16")
SSD_IN_ACCUMULATION = (
    "A", "bias", "D", "starts", "ends", "sums", "partial", "entering", "grad_u", "grad_dt", "grad_heads", "grad_bc"
)  # fmt: skip
SSD_IN_INPUTS_DTYPE = ("u", "dt", "out", "grad_y")
SSD_IN_PRODUCTS_DTYPE = ("kept", "before", "after")
CHANNELS_ADJACENT = ("x_e", "u_e", "grad_e", "before_e", "out_e")


@dataclass(frozen=True)
class Launch:
    """A kernel as it is launched: dtypes of its pointers by name (None: not given), constants, compiler's options"""

    name: str
    kernel: Any
    types: dict[str, str | None]
    constants: dict[str, Any]
    options: dict[str, int] = field(default_factory=dict)

    def without(self, *names: str, **constants: Any) -> Launch:
        """The same where these optional arguments are not given, with some constants changed"""
        given = {name: None if name in names else kind for name, kind in self.types.items()}
        changed = {name: constants.get(name, value) for name, value in self.constants.items()}
        return replace(self, types=given, constants=changed)

    def compile(self, target: GPUTarget, adjacent: tuple[str, ...] = CHANNELS_ADJACENT) -> Any:
        constants = self.constants | {name: None for name, kind in self.types.items() if kind is None}
        constants |= {stride: 1 for stride in adjacent if stride in self.kernel.arg_names}
        signature, aligned = {}, {}
        for position, name in enumerate(self.kernel.arg_names):
            if name in constants:
                signature[name] = "constexpr"
                continue
            signature[name] = f"*{SHORT[str(self.types[name])]}" if name in self.types else "i32"
            # what the launcher finds out about its arguments: tensors and rows start at multiples of 16
            if name in self.types or name == "n0" or STRIDES.fullmatch(name):
                aligned[(position,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constexprs=constants, attrs=aligned)
        return triton.compile(source, target=target, options={**triton_scan.OPTIONS, **self.options})


def launches(dtype: str, target: GPUTarget) -> Iterator[Launch]:
    """Every kernel, as `oriented_scan` and `oriented_ssd` launch it for three orders of 96 channels"""
    yield from scan_launches(dtype, target)
    if dtype != "float64" or not is_older_than(OLDEST_FOR_DOUBLE_PRODUCTS):
        yield from ssd_launches(dtype, target)


def scan_launches(dtype: str, target: GPUTarget) -> Iterator[Launch]:
    """Of Mamba's scan, its convolution and projections"""
    accumulation = "float64" if dtype == "float64" else "float32"
    types = dict.fromkeys(IN_ACCUMULATION, accumulation) | dict.fromkeys(IN_INPUTS_DTYPE, dtype)
    types |= dict.fromkeys(IN_PRODUCTS_DTYPE, "bfloat16" if dtype == "bfloat16" else accumulation)
    acc = getattr(torch, accumulation)
    padded, block = padded_states(STATES, acc), state_block(STATES, acc)
    constants = {
        "CHANNELS": CHANNELS, "STATES": padded, "CHUNK": CHUNK, "NB": block, "RANK": RANK, "TAPS": TAPS, "SILU": True,
        "SOFTPLUS": True, "WIDTH": projected_width(padded, RANK), "ALIGN": ALIGN, "D_BLOCKS": CHANNELS // BD,
    }  # fmt: skip
    one_warp, four_warps = {"num_warps": 1}, {"num_warps": 4}
    is_limited = target.backend == "cuda" and accumulation == "float32"

    def launch(name: str, kernel: Any, options: dict[str, int], **more: Any) -> Launch:
        all_constants = constants | more
        return Launch(
            name, kernel, {k: types[k] for k in kernel.arg_names if k in types},
            {k: v for k, v in all_constants.items() if k in kernel.arg_names}, options,
        )  # fmt: skip

    def limited(name: str) -> dict[str, int]:
        return one_warp | ({"maxnreg": triton_scan.REGISTERS[name]} if is_limited else {})

    conv_tile = {"BT": triton_conv.token_block(acc), "BD": triton_conv.BD}
    tile = {"BT": triton_projection.BT, "BD": triton_projection.BD}
    yield launch("ends", forward.chunk_ends_kernel, one_warp, BD=BD)
    for reverse in (False, True):
        yield launch(
            f"carry {'back' if reverse else 'on'}", forward.carry_kernel, four_warps,
            CB=triton_scan.CARRY_CHUNKS, BK=triton_scan.CARRY_LANES, REVERSE=reverse,
        )  # fmt: skip
    for place, (add, last) in {"first": (False, False), "middle": (True, False), "last": (True, True)}.items():
        at = {"ADD": add, "LAST": last}
        yield launch(f"outputs {place}", forward.outputs_kernel, limited("outputs"), BD=BD, **at)
        yield launch(f"again {place}", backward.again_kernel, limited("again"), BD=BD, **at)
        yield launch(f"conv inputs {place}", convolution.conv_inputs_kernel, four_warps, **conv_tile, **at)
    yield launch("adjoints", backward.adjoints_kernel, one_warp, BD=BD, ADD=False)
    yield launch("conv", convolution.conv_kernel, four_warps, **conv_tile)
    yield launch("conv weights", convolution.conv_weights_kernel, four_warps, **conv_tile)
    yield launch("time steps", projection.time_steps_kernel, four_warps, **tile)
    yield launch("gate", projection.gate_kernel, four_warps, **tile)
    yield launch("grad projected", projection.grad_projected_kernel, four_warps, **tile)


def ssd_launches(dtype: str, target: GPUTarget, states: int = STATES) -> Iterator[Launch]:
    """Of Mamba-2's scan: three heads of 32 channels; its convolution is the same"""
    accumulation = "float64" if dtype == "float64" else "float32"
    types = dict.fromkeys(SSD_IN_ACCUMULATION, accumulation) | dict.fromkeys(SSD_IN_INPUTS_DTYPE, dtype)
    types |= dict.fromkeys(SSD_IN_PRODUCTS_DTYPE, "bfloat16" if dtype == "bfloat16" else accumulation)
    # what `triton_ssd.precision` gives on NVIDIA's GPUs while torch's switch forbids TF32
    nvidia = {"float32": "tf32x3", "float16": "tf32"}.get(dtype, "ieee")
    constants = {
        "HEADS": HEADS, "P": HEAD, "GROUPS": GROUPS, "N": states, "CHUNK": CHUNK, "Q": triton_ssd_sizes.ROW,
        "BP": triton_ssd_sizes.channel_block(HEAD), "BN": triton_ssd_sizes.state_block(states), "SOFTPLUS": True,
        "PRECISION": "ieee" if target.backend == "hip" else nvidia, "TILE": states * HEAD,
        "CB": triton_ssd.CARRY_CHUNKS, "BK": triton_ssd.CARRY_LANES,
    }  # fmt: skip

    def launch(name: str, kernel: Any, absent: tuple[str, ...] = (), **more: Any) -> Launch:
        return Launch(
            f"ssd {name}", kernel,
            {k: None if k in absent else types[k] for k in kernel.arg_names if k in types},
            {k: v for k, v in (constants | more).items() if k in kernel.arg_names}, {"num_warps": 4},
        )  # fmt: skip

    yield launch("ends", ssd_forward.states_kernel, ("starts", "kept"))
    yield launch("states", ssd_forward.states_kernel, ("ends",))
    for reverse in (False, True):
        yield launch(f"carry {'back' if reverse else 'on'}", ssd_forward.carry_kernel, REVERSE=reverse)
    yield launch("outputs first", ssd_forward.outputs_kernel, ("out",), ADD=False, LAST=False)
    yield launch("outputs last", ssd_forward.outputs_kernel, ADD=True, LAST=True)
    yield launch("adjoint ends", ssd_backward.adjoints_kernel, ("entering", "kept"))
    yield launch("adjoints", ssd_backward.adjoints_kernel, ("ends",))
    yield launch("head gradients", ssd_backward.head_gradients_kernel)
    yield launch("group gradients", ssd_backward.group_gradients_kernel, ("grad_bc",), PARTS=1)
    yield launch("group gradients shared", ssd_backward.group_gradients_kernel, PARTS=3)


def read(compiled: Any, target: GPUTarget) -> dict[str, Any]:
    """stack: bytes of a thread that its registers do not hold; layouts: of a warp's threads over a tile; on NVIDIA's
    GPUs also registers, Hopper's asynchronous products and, of the largest loop, instructions (issue slots), shuffles,
    exponentials, barriers"""
    found: dict[str, Any] = {"layouts": sorted(set(re.findall(r"threadsPerWarp = (\[.*?\])", compiled.asm["ttgir"])))}
    if target.backend == "hip":
        keys = ("vgpr_spill_count", "private_segment_fixed_size")
        sizes = (re.search(rf"\.{key}:\s*(\d+)", compiled.asm["amdgcn"]) for key in keys)
        return found | {"stack": sum(int(size.group(1)) for size in sizes if size)}
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = _run(TOOLS / "cuobjdump", "-res-usage", binary)
        code = _run(TOOLS / "nvdisasm", "-c", binary)
    registers, stack, local = (int(re.findall(rf"\b{key}:(\d+)", usage)[0]) for key in ("REG", "STACK", "LOCAL"))
    loop = Counter(largest_loop(code))
    return found | {
        "stack": stack + local, "registers": registers, "loop": sum(loop.values()), "shuffles": loop["SHFL"],
        "exponentials": loop["MUFU"], "barriers": loop["BAR"], "asynchronous": compiled.asm["ptx"].count("wgmma.mma"),
    }  # fmt: skip


def _run(*command: Any) -> str:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


def largest_loop(code: str) -> list[str]:
    """Mnemonics between the furthest backward branch and its target"""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    best = (0, 1)  # a branch to itself, where every program ends, is no loop
    for line in code.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            labels[label.group(1)] = len(instructions)
            continue
        instruction = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+?)(?:\.\S*)?(?:\s+(.*?))?;", line)
        if not instruction:
            continue
        instructions.append(instruction.group(1))
        target = re.search(r"`\((\.L_x_\d+)\)", instruction.group(2) or "")
        if instruction.group(1) == "BRA" and target and target.group(1) in labels:
            first = labels[target.group(1)]
            if len(instructions) - first > best[1] - best[0]:
                best = (first, len(instructions))
    return instructions[slice(*best)] if best[1] > 1 else []


def narrow_products(compiled: Any) -> tuple[list[tuple[str, str]], int]:
    """(name of the result, line) of every 32-bit product, and how many products are 64 bits wide"""
    narrow, wide = [], 0
    for line in compiled.asm["ttir"].splitlines():
        product = re.search(r"%(\w+?)(?:_\d+)* = arith\.muli .*? : .*?(i32|i64)\b", line)
        if product and product.group(2) == "i32":
            narrow.append((product.group(1), line.strip()))
        elif product:
            wide += 1
    return narrow, wide


def table(target_name: str, dtype: str) -> dict[str, dict[str, Any]]:
    """By kernel"""
    target = TARGETS[target_name]
    found = {launch.name: read(launch.compile(target), target) for launch in launches(dtype, target)}
    if dtype in HALF:
        found |= {f"{x.name}, 128 states": read(x.compile(target), target) for x in ssd_launches(dtype, target, 128)}
    return found


def record(kernels: dict[str, dict[str, Any]]) -> None:
    counts = json.loads(COUNTS.read_text(encoding="utf-8")) if COUNTS.exists() else {}
    counts[triton.__version__] = kernels
    COUNTS.write_text(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")


if __name__ == "__main__":
    kernels = table(*sys.argv[1:3])
    if "--record" in sys.argv:
        record(kernels)
    print(json.dumps({"triton": triton.__version__, "kernels": kernels}))
