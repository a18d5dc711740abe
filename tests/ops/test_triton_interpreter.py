"""The Triton backends without a GPU: Triton's interpreter runs the kernels on CPU tensors.

It shows values, gradients and indexing; not speed, races, or what the compiler makes of the kernels. The interpreter
must be asked for before triton is imported, so the cases run in a process of their own: this file, as a script.

Judge: a loop over time steps in float64, differentiated by torch, written here and sharing nothing with the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunet_mamba.ops.oriented_weights import Weights

pytest.importorskip("triton")

# of y, and of the worst gradient; relative to the largest value
TOLERANCES = {
    "float64": (1e-13, 1e-12),
    "float32": (2e-6, 1e-5),
    "float16": (2e-3, 5e-3),
    "bfloat16": (1e-2, 3e-2),
}

# b, d, l, w, dtype, silu, bias, memory layout
CONVOLUTIONS = {
    "odd": (2, 5, 9, 4, "float32", True, True, "bdl"),
    "two blocks, transposed": (2, 33, 70, 3, "float32", False, False, "bld"),
    "every other token": (1, 3, 11, 2, "float32", True, False, "strided"),
    "one token": (2, 5, 1, 4, "float64", True, True, "bdl"),
    "half": (1, 4, 9, 4, "float16", True, True, "bdl"),
}
# b, d, l, n, dtype, chunk, given arguments (D, z, b: delta_bias, s: softplus), memory layout
SCANS = {
    "one token": (1, 3, 1, 1, "float32", None, "Dzbs", "bdl"),
    "odd, several chunks": (2, 5, 21, 5, "float32", 8, "Dzbs", "bdl"),
    "groups of four and a rest of three": (1, 5, 23, 5, "float32", 8, "Dzbs", "bdl"),
    "two channel blocks, transposed": (1, 34, 19, 16, "float32", 16, "Dzbs", "bld"),
    "two channel blocks, two samples": (2, 34, 9, 2, "float32", 8, "Dzbs", "bdl"),
    "two state blocks": (1, 3, 19, 20, "float32", 8, "z", "strided"),
    "carried twice": (2, 3, 35, 2, "float32", 8, "zs", "bdl"),
    "no extras": (1, 3, 10, 3, "float32", 8, "", "bdl"),
    "saved states used": (1, 2, 300, 2, "float32", 256, "Ds", "bdl"),
    "float64": (1, 3, 19, 6, "float64", 8, "Dbs", "bdl"),
    "bfloat16": (1, 3, 19, 3, "bfloat16", 8, "Dzbs", "bdl"),
}
# b, l, e, n, r, w, orders, n_slices, dtype, chunk
MIXERS = {
    "one token": (1, 1, 4, 3, 1, 4, "fbs", 1, "float32", None),
    "all orders": (2, 21, 5, 5, 2, 4, "fbs", 3, "float32", 8),
    "forward": (1, 13, 3, 2, 1, 4, "f", 1, "float32", 8),
    "reverse": (1, 13, 3, 2, 1, 3, "b", 1, "float32", 8),
    "slices": (1, 20, 3, 2, 1, 4, "s", 5, "float32", 8),
    "two state blocks": (1, 12, 3, 17, 1, 4, "sf", 4, "float32", 8),
    "in parts": (2, 20, 3, 2, 2, 4, "fs", 4, "float32", 8),
    "order by order": (2, 20, 3, 2, 2, 4, "sbf", 4, "float32", 8),
    "whole blocks of channels": (2, 27, 64, 16, 2, 4, "sbf", 9, "float32", 16),
    "saved states used": (2, 300, 3, 16, 1, 4, "fb", 1, "float32", 256),
    "more taps than slices": (1, 12, 3, 2, 1, 4, "s", 2, "float32", 8),
    "float64": (1, 12, 3, 5, 1, 4, "bs", 4, "float64", 8),
    "bfloat16": (1, 24, 32, 16, 2, 4, "fbs", 4, "bfloat16", 16),
    "float16": (1, 24, 32, 16, 2, 4, "fbs", 4, "float16", 16),
}
# module of nnunet_mamba.ops, constant and value: sizes at which large tensors are divided, here small ones
DIVIDED = {
    "scan: carried twice": [("kernels.triton_scan", "CARRY_CHUNKS", 2)],
    "mixer: in parts": [
        ("kernels.triton_sizes", "PART", 1),
        ("kernels.triton_projection", "ROWS", 8),
        ("kernels.triton_scan", "CARRY_CHUNKS", 2),
    ],
    "mixer: order by order": [("kernels.triton_sizes", "PART", 2 * 20 * 3)],
}
CASES = [
    f"{kind}: {name}" for kind, cases in (("conv", CONVOLUTIONS), ("scan", SCANS), ("mixer", MIXERS)) for name in cases
]


# ------------------------------------------------------------------------------------------------------ in this process


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """case -> dtype, error of y, errors of the gradients, of the states"""
    package_root = Path(__file__).parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "nnUNet_mamba_self_test": "0", "PYTHONPATH": str(package_root)}
    sparse_file = tmp_path_factory.mktemp("sparse") / "x"
    done = subprocess.run(
        [sys.executable, __file__, str(sparse_file)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_matches_the_float64_loop(results: dict[str, dict], case: str) -> None:
    result = results[case]
    of_y, of_gradients = TOLERANCES[result["dtype"]]
    assert result["y"] <= of_y
    assert result["states"] <= of_y
    assert max(result["gradients"]) <= of_gradients, result["gradients"]


def test_through_torch(results: dict[str, dict]) -> None:
    """torch refuses results that share their memory, as slices of tiny tensors do."""
    assert len(results["through torch"]) == 5 * 4
    for name, of_result in results["through torch"].items():
        assert of_result <= 1e-4, name


def test_offsets_beyond_int32(results: dict[str, dict]) -> None:
    """The last token lies 2^31 elements after the first."""
    assert results["far apart"]["y"] <= 2e-3


def test_nothing_to_do(results: dict[str, dict]) -> None:
    assert results["empty"] == {"shapes": True}


def test_results_repeat(results: dict[str, dict]) -> None:
    assert results["repeat"] == {"identical": True}


@pytest.mark.parametrize(
    ("part", "launches", "gigabytes"), [("forward", 14, 2.03), ("backward", 37, 7.46)], ids=["forward", "backward"]
)
def test_launches_and_bytes_may_only_fall(results: dict[str, dict], part: str, launches: int, gigabytes: float) -> None:
    """Of all three orders of 2 x 262,144 tokens of 96 channels in bfloat16, counted on fewer tokens: kernels that are
    launched where everything runs together, and what passes through memory around the scan, order by order."""
    assert results["counted"]["together"][part]["launches"] <= launches
    assert results["counted"]["order by order"][part]["bytes around the scan"] <= gigabytes * 1e9


# ------------------------------------------------------------------------------------------------- in the other process


def conv_loop(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """x (b d l), weight (d w) -> (b d l)"""
    d, w = weight.shape
    padded = torch.cat([x.new_zeros(x.shape[0], d, w - 1), x], -1)
    y = sum(weight[:, k, None] * padded[:, :, k : k + x.shape[2]] for k in range(w))
    y = y if bias is None else y + bias[:, None]
    return y * torch.sigmoid(y) if silu else y


def scan_loop(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """u, delta, z (b d l); A (d n); B, C (b n l) -> y (b d l), states (b c n d)"""
    dt = delta if delta_bias is None else delta + delta_bias[:, None]
    dt = functional.softplus(dt) if softplus else dt
    h, ys, states = u.new_zeros(u.shape[0], *A.shape), [], []
    for t in range(u.shape[2]):
        if t % 256 == 0:
            states.append(h.transpose(1, 2))
        step = dt[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[:, None, :, t] * u[:, :, t, None]
        ys.append((h * C[:, None, :, t]).sum(-1))
    y = torch.stack(ys, -1)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * functional.silu(z)), torch.stack(states, 1)


def mixer_loop(
    x: Tensor, z: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor, orders: str, n_slices: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x, z (b l e) -> y (b l e), states (o b c n e)"""
    length, n, rank = x.shape[1], A.shape[2], dt_proj.shape[2]
    steps = torch.arange(length)
    total, states = torch.zeros_like(x), []
    for k, order in enumerate(orders):
        token = {
            "f": steps,
            "b": length - 1 - steps,
            "s": (steps % n_slices) * (length // n_slices) + steps // n_slices,
        }[order]
        u = conv_loop(x[:, token].transpose(1, 2), conv_weight[k], conv_bias[k], True)
        low, B, C = torch.einsum("pe,bel->bpl", x_proj[k], u).split([rank, n, n], 1)
        delta = torch.einsum("er,brl->bel", dt_proj[k], low)
        y, state = scan_loop(u, delta, A[k], B, C, D[k], None, dt_bias[k], True)
        total = total.index_add(1, token, y.transpose(1, 2))
        states.append(state)
    return total * functional.silu(z), torch.stack(states)


class Random:
    """Tensors of one case, repeatable"""

    def __init__(self, dtype: str, layout: str = "bdl") -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.dtype, self.layout = getattr(torch, dtype), layout
        self.parameter_dtype = torch.float64 if dtype == "float64" else torch.float32

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def sequence(self, b: int, d: int, length: int) -> Tensor:
        if self.layout == "bld":
            x = self.normal(b, length, d).transpose(1, 2)
        elif self.layout == "strided":
            x = self.normal(b, d + 1, 2 * length)[:, 1:, ::2]
        else:
            x = self.normal(b, d, length)
        return x.to(self.dtype)  # keeps the strides

    def parameter(self, x: Tensor) -> Tensor:
        return x.to(self.parameter_dtype)


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def compare(run, judge, tensors: list[Tensor | None], gradient_like, dtype: str) -> dict:
    """run(tensors) -> y, states; gradients(grad_y). judge(tensors) -> y, states, differentiable."""
    exact = [None if t is None else t.double().detach().requires_grad_() for t in tensors]
    y, states, backward = run(*tensors)
    expected_y, expected_states = judge(*exact)
    grad_y = gradient_like(*expected_y.shape)
    gradients = backward(grad_y)
    given = [t for t in exact if t is not None]
    expected = iter(torch.autograd.grad(expected_y, given, grad_y.double()))
    assert y.dtype == tensors[0].dtype
    assert y.is_contiguous()
    assert states is None or states.shape == expected_states.shape
    errors = []
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert (gradient is None) == (tensor is None)
        if tensor is not None:
            assert (gradient.shape, gradient.dtype) == (tensor.shape, tensor.dtype)
            errors.append(error(gradient, next(expected)))
    return {
        "dtype": dtype,
        "y": error(y, expected_y),
        "states": 0.0 if states is None else (states.double() - expected_states).abs().max().item(),
        "gradients": errors,
    }


def run_convolution(op, b, d, length, w, dtype, silu, has_bias, layout) -> dict:
    random = Random(dtype, layout)
    weight, bias = random.parameter(random.normal(d, w)), random.parameter(random.normal(d)) if has_bias else None

    def run(x, weight, bias):
        return op.forward(x, weight, bias, silu), None, lambda grad: op.backward(grad, x, weight, bias, silu)

    def judge(x, weight, bias):
        return conv_loop(x, weight, bias, silu), None

    return compare(run, judge, [random.sequence(b, d, length), weight, bias], random.sequence, dtype)


def scan_tensors(random: Random, b: int, d: int, length: int, n: int, given: str) -> list[Tensor | None]:
    softplus = "s" in given
    delta = random.sequence(b, d, length)
    bias = random.normal(d)
    return [
        random.sequence(b, d, length),
        delta if softplus else delta.abs() * 0.3,
        random.parameter(-torch.exp(random.normal(d, n))),
        random.sequence(b, n, length),
        random.sequence(b, n, length),
        random.parameter(random.normal(d)) if "D" in given else None,
        random.sequence(b, d, length) if "z" in given else None,
        random.parameter(bias - 2 if softplus else bias.abs()) if "b" in given else None,
    ]


def run_scan(op, b, d, length, n, dtype, chunk, given, layout) -> dict:
    random = Random(dtype, layout)

    def run(*tensors):
        y, states = op.forward(*tensors, "s" in given, chunk=chunk)
        return y, states, lambda grad: op.backward(grad, *tensors, "s" in given, states, chunk=chunk)

    def judge(*tensors):
        return scan_loop(*tensors, "s" in given)

    return compare(run, judge, scan_tensors(random, b, d, length, n, given), random.sequence, dtype)


def mixer_tensors(random: Random, b: int, length: int, e: int, n: int, r: int, w: int, o: int) -> list[Tensor]:
    x, z = random.normal(b, length, 2 * e).to(random.dtype).chunk(2, -1)
    weights = (
        random.normal(o, e, w) / 2,
        random.normal(o, e) / 10,
        random.normal(o, r + 2 * n, e) / e**0.5,
        random.normal(o, e, r) / r**0.5,
        random.normal(o, e) - 3,
        -torch.exp(random.normal(o, e, n)),
        random.normal(o, e),
    )
    return [x, z, *map(random.parameter, weights)]


def packed(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Weights]:
    """x, z and the seven weights as backends take them"""
    return tensors[0], tensors[1], Weights(*tensors[2:])


def run_mixer(op, b, length, e, n, r, w, orders, n_slices, dtype, chunk) -> dict:
    random = Random(dtype)

    def run(*tensors):
        arguments = (*packed(tensors), orders, n_slices)
        y, states = op.forward(*arguments, chunk=chunk)
        return y, states, lambda grad: op.backward(grad, *arguments, states, chunk=chunk)

    def judge(*tensors):
        return mixer_loop(*tensors, orders, n_slices)

    return compare(run, judge, mixer_tensors(random, b, length, e, n, r, w, len(orders)), random.sequence, dtype)


@contextmanager
def divided(sizes: Sequence[tuple[str, str, int]]) -> Iterator[None]:
    """Constants of modules of nnunet_mamba.ops at other values meanwhile"""
    settings = [(import_module(f"nnunet_mamba.ops.{m}"), name, value) for m, name, value in sizes]
    before = [getattr(module, name) for module, name, _ in settings]
    for module, name, value in settings:
        setattr(module, name, value)
    yield
    for (module, name, _), value in zip(settings, before, strict=True):
        setattr(module, name, value)


def run_through_torch() -> dict[str, float]:
    """Every operator as it is called, with one and two of everything -> largest error of its result and gradients"""
    from nnunet_mamba.ops import causal_conv1d, oriented_scan, selective_scan

    random, errors = Random("float32"), {}
    for sizes in ((1, 1, 1, 1), (1, 1, 1, 2), (1, 2, 1, 1), (2, 1, 1, 2), (1, 1, 2, 2)):
        b, d, length, n = sizes
        conv = [random.sequence(b, d, length), *(random.parameter(random.normal(*s)) for s in ((d, n), (d,)))]
        scan = scan_tensors(random, b, d, length, n, "Dzbs")
        mixer = mixer_tensors(random, b, length, d, n, 1, n, 2)
        for name, call, tensors in (
            ("conv", lambda *t, backend: causal_conv1d(*t, "silu", backend=backend), conv),
            ("linear conv", lambda *t, backend: causal_conv1d(*t, backend=backend), conv),
            ("scan", lambda *t, backend: selective_scan(*t, True, backend=backend), scan),
            ("mixer", lambda *t, backend: oriented_scan(*t, orders="fb", backend=backend), mixer),
        ):
            results = []
            for backend in ("triton", "reference"):
                leaves = [t.detach().requires_grad_() for t in tensors]
                y = call(*leaves, backend=backend)
                results.append([y, *torch.autograd.grad(y.square().sum() + y.sum(), leaves)])
            errors[f"{name} {sizes}"] = max(
                error(a.detach(), b.detach().double()) for a, b in zip(*results, strict=True)
            )
    return errors


def run_far_apart(conv, scan, sparse_file: str) -> dict:
    """x and z whose third token lies 2^31 elements behind the first, in a file without content on the disk"""
    distance = 2**30
    storage = torch.from_file(sparse_file, shared=True, size=2 * distance + 1024, dtype=torch.float16)
    x = storage.as_strided((1, 3, 2), (0, distance, 1))
    z = storage.as_strided((1, 3, 2), (0, distance, 1), storage_offset=16)
    random = Random("float16")
    x.copy_(random.normal(1, 3, 2))
    z.copy_(random.normal(1, 3, 2))
    tensors = [x, z, *mixer_tensors(random, 1, 3, 2, 2, 1, 2, 1)[2:]]
    y, _ = scan.forward(*packed(tensors), "b", 1)
    expected, _ = mixer_loop(*(t.double() for t in tensors), "b", 1)
    return {"y": error(y, expected)}


def run_empty(conv, scan, mixer) -> dict:
    x = torch.zeros(0, 3, 4)
    weight, bias = torch.ones(3, 2), torch.ones(3)
    shapes = conv.forward(x, weight, bias, True).shape == x.shape
    shapes &= all(g.eq(0).all() for g in conv.backward(x, x, weight, bias, True))
    tensors = scan_tensors(Random("float32"), 0, 3, 4, 2, "Dzbs")
    y, states = scan.forward(*tensors, True)
    gradients = scan.backward(y, *tensors, True, states)
    shapes &= y.shape == x.shape and states.shape == (0, 1, 2, 3)
    shapes &= all(g.shape == t.shape and bool(g.eq(0).all()) for g, t in zip(gradients, tensors, strict=True))
    tensors = mixer_tensors(Random("float32"), 0, 4, 3, 2, 1, 2, 2)
    y, states = mixer.forward(*packed(tensors), "fb", 1)
    gradients = mixer.backward(y, *packed(tensors), "fb", 1, states)
    shapes &= y.shape == (0, 4, 3) and states.shape == (2, 0, 1, 2, 3)
    shapes &= all(g.shape == t.shape and bool(g.eq(0).all()) for g, t in zip(gradients, tensors, strict=True))
    return {"shapes": bool(shapes)}


def run_repeat(mixer) -> dict:
    tensors = mixer_tensors(Random("float32"), 2, 12, 3, 2, 1, 4, 2)
    runs = []
    for _ in range(2):
        y, states = mixer.forward(*packed(tensors), "fs", 3, chunk=8)
        runs.append((y, states, *mixer.backward(y, *packed(tensors), "fs", 3, states, chunk=8)))
    return {"identical": all(torch.equal(a, b) for a, b in zip(*runs, strict=True))}


class Traffic(TorchDispatchMode):
    """Records every operation of torch that starts a kernel, and the bytes of the tensors it gets and gives"""

    FREE = ("empty", "new_empty", "empty_like", "empty_strided", "detach", "_unsafe_view")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1]
        if not function.is_view and name not in self.FREE:
            self.add(name, tree_leaves((args, kwargs, result)))
        return result

    def add(self, name: str, arguments: Iterable[object]) -> None:
        tensors = {t.data_ptr(): t.numel() * t.element_size() for t in arguments if isinstance(t, Tensor)}
        self.found.append((name, sum(tensors.values())))


class Recorded:
    """A Triton kernel that is only recorded, not run"""

    def __init__(self, name: str, traffic: Traffic) -> None:
        self.name, self.traffic = name, traffic

    def __getitem__(self, grid: object):  # type: ignore[no-untyped-def]
        return lambda *arguments, **constants: self.traffic.add(self.name, arguments)


def run_counted(mixer) -> dict[str, dict]:
    """As a GPU would be asked to, on 4,096 tokens a sample, bytes multiplied to 262,144; no kernel is run"""
    from nnunet_mamba.ops.kernels import triton_sizes

    length, of_the_scan = 4096, ("chunk_ends", "carry", "outputs", "again", "adjoints")
    tensors, traffic = mixer_tensors(Random("bfloat16"), 2, length, 96, 16, 3, 4, 3), Traffic()
    modules = [
        import_module(f"nnunet_mamba.ops.kernels.triton_{name}")
        for name in ("forward", "backward", "conv_kernels", "projection_kernels")
    ]
    kernels = [(module, name) for module in modules for name in vars(module) if name.endswith("_kernel")]
    before, whole = [getattr(*kernel) for kernel in kernels], triton_sizes.PART
    for module, name in kernels:
        setattr(module, name, Recorded(name, traffic))
    found: dict[str, dict] = {"together": {}, "order by order": {}}
    for together, part in zip(found, (whole, length * 96), strict=True):
        triton_sizes.PART = part
        y, states = mixer.forward(*packed(tensors), "fbs", 64, chunk=256)
        for direction, call in (
            ("forward", lambda: mixer.forward(*packed(tensors), "fbs", 64, chunk=256)),
            ("backward", lambda y=y, states=states: mixer.backward(y, *packed(tensors), "fbs", 64, states, chunk=256)),
        ):
            traffic.found.clear()
            with traffic:
                call()
            around = sum(size for name, size in traffic.found if not name.startswith(of_the_scan))
            found[together][direction] = {
                "launches": len(traffic.found), "bytes around the scan": around * 262144 // length,
            }  # fmt: skip
    triton_sizes.PART = whole
    for (module, name), kernel in zip(kernels, before, strict=True):
        setattr(module, name, kernel)
    return found


def main(sparse_file: str) -> None:
    torch.set_num_threads(1)
    ops = ("causal_conv1d", "selective_scan", "oriented_scan")
    conv, scan, mixer = (import_module(f"nnunet_mamba.ops.{op}.triton") for op in ops)
    for op in (conv, scan, mixer):
        assert op.why_not(torch.zeros(1, 2, 3)) is None
    results = {}
    for kind, op, run, cases in (
        ("conv", conv, run_convolution, CONVOLUTIONS),
        ("scan", scan, run_scan, SCANS),
        ("mixer", mixer, run_mixer, MIXERS),
    ):
        for name, case in cases.items():
            with divided(DIVIDED.get(f"{kind}: {name}", ())):
                results[f"{kind}: {name}"] = run(op, *case)
    results["through torch"] = run_through_torch()
    results["far apart"] = run_far_apart(conv, mixer, sparse_file)
    results["empty"] = run_empty(conv, scan, mixer)
    results["repeat"] = run_repeat(mixer)
    results["counted"] = run_counted(mixer)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
