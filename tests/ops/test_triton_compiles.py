"""The Triton kernels compiled for real GPUs, on a machine without one, by the oldest and the installed Triton.

Triton's bundled compilers need no device. Their output tells what the interpreter cannot: that every kernel compiles,
what it keeps in memory for lack of registers, how its threads lie over the data, how many instructions a step takes,
and that no offset is computed in 32 bits that could exceed them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from nnunet_mamba.ops.kernels import triton_forward  # noqa: E402
from nnunet_mamba.ops.kernels.triton_support import OLDEST_TRITON  # noqa: E402
from tests.ops import compiled  # noqa: E402

pytestmark = pytest.mark.skipif(
    not hasattr(triton_forward.outputs_kernel, "cache_key"), reason="TRITON_INTERPRET replaces the compiler here"
)

ROOT = Path(__file__).parents[2]
OLD = f"{OLDEST_TRITON}.1"
"""No Triton 3.3.0 can be installed beside a torch"""
COUNTS = json.loads(compiled.COUNTS.read_text(encoding="utf-8"))
"""By version of Triton, of sm_90 in bfloat16. They may only fall: tests/ops/compiled.py records them."""
UNKNOWN_VERSION = 1.1
"""A Triton that nobody has counted yet may take so many times the most of those that were"""
SPILLED = {"outputs": 40, "again": 120}
"""Bytes of a thread that the limit on its registers may push out (`triton_scan.REGISTERS`)"""
SPILLED_TOO = {
    ("adjoints", "sm_80"): 120, ("outputs", "float32"): 192, ("", "float64"): 48,
    ("ssd", "bfloat16"): 80, ("ssd", "float16"): 400, ("ssd", "float32"): 704, ("ssd", "float64"): 544,
}  # fmt: skip
"""For an A100, for which decays are kept that others compute again; where the limit meets Triton 3.3; in tests' dtype;
Mamba-2's products: of half precision by Triton 3.3 with 128 states, else in single and double only"""
LAYOUTS = {"ends": "[1, 32]", "outputs": "[1, 32]", "again": "[4, 8]", "adjoints": "[4, 8]"}
"""Threads over (state, channel) where a step's loop runs: one channel a thread needs no other thread's states"""

# Factors of 32-bit products, by the name their result gets in the kernel, and why they stay below 2^31
SMALL_PRODUCTS = {
    "start": "chunk * CHUNK, at most l + 255; l is limited to 2^31 - 1024",
    "whole": "a group of four steps, likewise",
    "t": "token block * BT, likewise",
    "at": "token block of a slice * BT, or as p",
    "i": "step in a chunk",
    "before": "tokens of the slices before, at most l; order * b, at most s",
    "s": "as before, of the convolution",
    "k": "state entry block, or as before",
    "p": "slice * (l / slices) + token in slice, at most l, times the direction",
    "p0": "as p", "p1": "as p", "p2": "as p", "p3": "as p",
    "rows": "as p, of the convolution",
    "sequence": "order * b, at most s, which is a launch's third axis: 65,535",
    "batch": "as sequence",
    "x": "as sequence",
    "code": "two bits an order",
    "d": "channel block * BD, at most e + 31",
    "n0": "state block * NB, at most n + 15",
    "offsets": "state entry * e",
    "checkpoints": "first state entry * e",
    "A": "order * n * e",
    "D_d": "order * e", "bias": "order * e",
    "weight": "(order * taps + tap) * e; order * e * rank",
}  # fmt: skip
SMALL_PRODUCTS_OF_SSD = {
    "start": "chunk * CHUNK, at most l + 255", "first": "row * ROW, likewise", "t": "likewise",
    "step": "slice * (l / slices) + token in slice, at most l, times the direction", "token": "likewise",
    "inside": "likewise", "before": "tokens of the slices before, at most l",
    "dt": "order * b, at most s", "batch": "likewise", "sequence": "likewise",
    "B": "group * n", "C": "likewise", "bc": "likewise",
    "partial": "head * p", "out": "likewise", "grad_y": "likewise", "grad_u": "likewise", "x": "likewise",
    "own": "order * h", "A": "likewise", "bias": "likewise", "D": "likewise", "head": "group * heads of a group",
    "p": "tile * BP, at most p + 31", "p0": "likewise", "offsets": "state entry * p", "code": "two bits an order",
    "k": "as p, over all heads",
}  # fmt: skip


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, dict[str, Any]]]:
    cache = tmp_path_factory.mktemp("triton")

    def of(target: str, dtype: str, folder: Path | None = None) -> dict[str, dict[str, Any]]:
        path = os.pathsep.join(str(p) for p in (folder, ROOT) if p)
        environment = os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(cache)}
        command = [sys.executable, "-m", "tests.ops.compiled", target, dtype]
        run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
        if "ROCm linker" in run.stderr:
            pytest.skip("this Triton needs a linker of ROCm's to compile for AMD")
        assert run.returncode == 0, run.stderr[-3000:]
        return json.loads(run.stdout)["kernels"]

    return of


@pytest.fixture(scope="session")
def oldest(pytestconfig: pytest.Config) -> Path:
    """A folder with the oldest Triton that the backend accepts, kept between runs"""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(f"triton-{OLD}")
    if not (folder / "triton").exists():
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), f"triton=={OLD}"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if run.returncode:
            pytest.skip(f"Triton {OLD} cannot be fetched: {run.stderr.strip().splitlines()[-1]}")
    return folder


def test_counts_of_the_installed_triton(table: Callable[..., dict]) -> None:
    _check_counts(table("sm_90", "bfloat16"), triton.__version__)


@pytest.mark.slow
def test_counts_of_the_oldest_triton(table: Callable[..., dict], oldest: Path) -> None:
    _check_counts(table("sm_90", "bfloat16", oldest), OLD)


def _check_counts(kernels: dict[str, dict[str, Any]], version: str) -> None:
    known = [COUNTS[version]] if version in COUNTS else list(COUNTS.values())
    factor = 1 if version in COUNTS else UNKNOWN_VERSION
    for name, row in kernels.items():
        for key in ("loop", "registers", "shuffles", "exponentials", "barriers"):
            allowed = factor * max(counts[name][key] for counts in known)
            assert row[key] <= allowed, f"{name}: {key} {row[key]}, allowed {allowed:g}"


ALWAYS = [("installed", "sm_90", "bfloat16"), ("installed", "sm_90", "float32")]


@pytest.mark.parametrize("dtype", [dtype for _, _, dtype in ALWAYS])
def test_every_kernel_compiles_as_meant(table: Callable[..., dict], dtype: str) -> None:
    _check_quality(table("sm_90", dtype), "sm_90", dtype)


def _cell(version: str, target: str, dtype: str) -> Any:
    """What people train in, for every target by the installed version; the rest before a release"""
    common = dtype == "bfloat16" and (version == "installed" or target == "sm_90")
    return pytest.param(version, target, dtype, marks=pytest.mark.slow if common else pytest.mark.long)


@pytest.mark.parametrize(
    ("version", "target", "dtype"),
    [
        _cell(version, target, dtype)
        for version in ("oldest", "installed")
        for target in compiled.TARGETS
        for dtype in compiled.SHORT
        if (version, target, dtype) not in ALWAYS
    ],
)
def test_every_kernel_compiles_as_meant_everywhere(
    table: Callable[..., dict], request: pytest.FixtureRequest, version: str, target: str, dtype: str
) -> None:
    folder = request.getfixturevalue("oldest") if version == "oldest" else None
    _check_quality(table(target, dtype, folder), target, dtype)


def _check_quality(kernels: dict[str, dict[str, Any]], target: str, dtype: str) -> None:
    for name, row in kernels.items():
        family = name.split()[0]
        keys = ((family, target), (family, dtype), ("", dtype))
        allowed = max(SPILLED.get(family, 8), *(SPILLED_TOO.get(key, 0) for key in keys))
        assert row["stack"] <= allowed, f"{name} keeps {row['stack']} bytes a thread in memory, allowed {allowed}"
        if target == "gfx942":  # 64 threads, other instructions
            continue
        if family == "ssd":
            assert row["asynchronous"] == 0, (
                f"{name} has products that Triton has compiled wrongly (triton_ssd_sizes.ROW)"
            )
            continue
        if family in LAYOUTS and (dtype != "float64" or row["shuffles"] == 0):  # there, four states a program
            assert LAYOUTS[family] in row["layouts"], f"{name}: threads lie {row['layouts']}"
        if family in ("ends", "outputs"):
            assert row["shuffles"] == 0, f"{name} passes states between threads"
            assert set(row["layouts"]) <= {"[1, 32]", "[32]"}, f"{name}: threads lie {row['layouts']}"


def test_optional_arguments_and_channel_first_convolution_compile() -> None:
    """What only the single operators use: no gate, no D, no bias, and tokens adjacent instead of channels"""
    target = compiled.TARGETS["sm_90"]
    launches = {launch.name: launch for launch in compiled.launches("float32", target)}
    for name in ("outputs last", "again first", "adjoints"):
        launches[name].without("D", "z", "partial", "grad_z", "grad_D", ADD=False).compile(target)
    for name in ("conv", "conv weights"):
        launches[name].without("bias", "more").compile(target, compiled.TOKENS_ADJACENT)
    launches["conv inputs last"].without("partial", ADD=False).compile(target, compiled.TOKENS_ADJACENT)


def test_32_bit_products_are_all_small() -> None:
    """Every 32-bit product is one of a list with a reason; rows times strides are not on it: they are 64 bits wide."""
    total = 0
    for launch in compiled.launches("bfloat16", compiled.TARGETS["sm_90"]):
        narrow, wide = compiled.narrow_products(launch.compile(compiled.TARGETS["sm_90"]))
        total += wide
        known = SMALL_PRODUCTS_OF_SSD if launch.name.startswith("ssd") else SMALL_PRODUCTS
        assert not [line for name, line in narrow if name not in known], launch.name
    assert total > 20
