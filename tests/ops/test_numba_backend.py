"""What only the compiled CPU backend has: threads, forks, a compile cache, sequences walked in pieces."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_mamba.ops import backends, oriented_scan, selective_scan
from nnunet_mamba.ops.kernels import numba_runtime as runtime
from tests.ops.cases import as_leaves, gradients, relative_error, scan_inputs, tri_inputs

SMALL_CALL = """
import torch
from nnunet_mamba.ops import causal_conv1d
x, w = torch.arange(12.0).view(1, 2, 6), torch.ones(2, 3)
def call():
    return causal_conv1d(x, w, backend="numba")
expected = causal_conv1d(x, w, backend="reference")
"""


def _python(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SMALL_CALL + textwrap.dedent(code)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _tri_results(batch: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(3)
    inputs = as_leaves(tri_inputs(batch, 1030, 112, 4, 2, 4, orders=3, dtype=torch.float32))
    y = oriented_scan(**inputs, n_slices=10, backend="numba")
    return [y, *gradients(y, inputs).values()]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_results_do_not_depend_on_the_number_of_threads(threads) -> None:
    threads(1)
    one = _tri_results()
    threads(2)
    two = _tri_results()
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_torch_chooses_the_number_of_threads(threads) -> None:
    import numba

    for wanted in {1, min(2, os.cpu_count() or 1)}:
        threads(wanted)
        _tri_results()
        assert numba.get_num_threads() == wanted


@pytest.mark.parametrize("segments", [2, 3, 4])  # of 6 chunks: the last is uneven
def test_a_sequence_walked_in_pieces_gives_the_same(segments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines with many cores cut long sequences of few channels; this one does it on request."""
    inputs = as_leaves(scan_inputs(2, 5, 3, 1500))
    tri = as_leaves(tri_inputs(1, 1500, 4, 3, 1, 4, orders=3))
    expected = selective_scan(**inputs, delta_softplus=True, backend="reference")
    expected_tri = oriented_scan(**tri, n_slices=15, backend="reference")
    for op in ("selective_scan", "oriented_scan"):
        monkeypatch.setattr(backends.load(op, "numba"), "n_segments", lambda *sizes: segments)
    y = selective_scan(**inputs, delta_softplus=True, backend="numba")
    assert relative_error(y, expected) < 1e-12
    wanted = gradients(expected, inputs)
    for name, grad in gradients(y, inputs).items():
        assert relative_error(grad, wanted[name]) < 1e-11, name
    y = oriented_scan(**tri, n_slices=15, backend="numba")
    assert relative_error(y, expected_tri) < 1e-12
    wanted = gradients(expected_tri, tri)
    for name, grad in gradients(y, tri).items():
        assert relative_error(grad, wanted[name]) < 1e-11, name


@pytest.mark.parametrize(
    ("batch", "channels", "length", "cores", "expected"),
    [
        (1, 96, 262_144, 2, 1),
        (1, 96, 262_144, 16, 16),
        (2, 96, 262_144, 16, 8),
        (1, 96, 262_144, 3, 1),
        (1, 96, 262_144, 6, 6),
        (1, 32, 4 * 256 * 5, 64, 5),
        (1, 768, 512, 64, 1),
        (1, 32, 100, 64, 1),
    ],
)
def test_pieces_follow_the_machine_not_the_threads(
    batch: int, channels: int, length: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert runtime.n_segments(batch, channels, length) == expected


@pytest.mark.parametrize("channels", [1, 5, 16, 17, 32, 96, 100, 384, 768])
@pytest.mark.parametrize(("batch", "cores"), [(1, 1), (1, 2), (2, 2), (1, 64)])
def test_channel_blocks_cover_all_channels(
    batch: int, channels: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    width = runtime.block_width(batch, channels)
    assert 1 <= width <= min(channels, 128)
    assert width >= min(channels, runtime.NARROW)
    if channels >= 64 and batch == 1 and cores == 2:
        assert width < channels, "both cores have work"


def test_half_of_a_projection_is_used_in_place() -> None:
    xz = torch.randn(2, 6, 10)
    for start in (0, 5):
        half = xz[..., start : start + 5]
        rows, column = runtime.as_rows(half, torch.float32)
        assert rows.base is not None or rows.__array_interface__["data"][0] == xz.data_ptr()
        assert torch.equal(torch.from_numpy(rows[:, column : column + 5].copy()).view(2, 6, 5), half)
    samples = torch.randn(5, 6, 10)[::2, :, 5:]  # every other sample: their rows do not follow one another
    rows, column = runtime.as_rows(samples, torch.float32)
    assert len(rows) == 18
    assert torch.equal(torch.from_numpy(rows[:, column : column + 5].copy()).view(3, 6, 5), samples)
    shifted = torch.randn(40)[7:37].view(1, 6, 5)  # from the third column to the second of the next row
    rows, column = runtime.as_rows(shifted, torch.float32)
    assert torch.equal(torch.from_numpy(rows[:, column : column + 5].copy()).view(1, 6, 5), shifted)
    transposed = torch.randn(2, 5, 6).transpose(1, 2)
    rows, column = runtime.as_rows(transposed, torch.float32)
    assert torch.equal(torch.from_numpy(rows[:, column : column + 5].copy()).view(2, 6, 5), transposed)


def test_forked_and_spawned_workers_can_call_too() -> None:
    """nnU-Net forks its data workers and spawns its export workers from processes that have run the network."""
    output = _python(
        """
        import multiprocessing, os, sys
        assert torch.equal(call(), expected)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(call(), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert all(torch.equal(y, expected) for y in pool.starmap(call, [()] * 4))
        assert torch.equal(call(), expected), "the parent goes on"
        print("fine")
        """
    )
    assert "fine" in output


def test_threads_of_one_process_may_call_at_once() -> None:
    output = _python(
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(y, expected) for y in pool.map(lambda _: call(), range(40)))
        print("fine")
        """
    )
    assert "fine" in output


def test_torch_keeps_its_number_of_threads() -> None:
    """Numba's OpenMP layer would set it to its own for the whole process when its threads start."""
    output = _python(
        """
        for wanted in (1, 2):
            torch.set_num_threads(wanted)
            assert torch.equal(call(), expected)
            assert torch.get_num_threads() == wanted
        print("fine")
        """
    )
    assert "fine" in output


def test_second_process_and_its_children_find_the_compiled_code(tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    report = """
        import os
        from nnunet_mamba.ops.kernels import numba_runtime as runtime
        def hits(kernels):
            assert torch.equal(call(), expected)
            return sum(kernels("convolve").stats.cache_hits.values())
        parent = hits(runtime._parallel)
        child = os.fork()
        if child == 0:
            os._exit(10 + hits(runtime._serial))
        print(parent, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 10)
    """
    assert _python(report, **cache).strip() == "0 0"
    assert len(list(tmp_path.rglob("*.nbc"))) == 2, "with threads, and without for forked processes"
    assert _python(report, **cache).strip() == "1 1"


@pytest.mark.parametrize("kind", ["not a folder", "missing", "full"])
def test_an_unusable_cache_does_no_harm(kind: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    if kind == "not a folder":
        cache.write_text("")
    prepare = """
        import numba.core.caching as caching
        def full(self, *args):
            raise OSError(28, "No space left on device")
        caching.IndexDataCacheFile.save = full
    """
    code = (textwrap.dedent(prepare) if kind == "full" else "") + "assert torch.equal(call(), expected)\nprint('fine')"
    assert "fine" in _python(code, NUMBA_CACHE_DIR=str(cache))


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numba")
    _python("call()", NUMBA_CACHE_DIR=str(folder))
    return folder


@pytest.mark.parametrize(("damage", "suffix"), [(_emptied, ".nbi"), (_cut_off, ".nbc"), (_flipped, ".nbc")])
def test_a_damaged_cache_is_mended(filled_cache: Path, damage: Callable[[Path], None], suffix: str) -> None:
    """What a power failure or a full quota leaves would otherwise stop every call of every later process"""
    (file,) = filled_cache.rglob(f"*{suffix}")
    damage(file)
    report = """
        from nnunet_mamba.ops.kernels import numba_runtime as runtime
        hits = []
        for _ in range(2):
            assert torch.equal(call(), expected)
            hits += runtime._parallel("convolve").stats.cache_hits.values() or [0]
            runtime._parallel.cache_clear()  # the next call does what the next process would
        print(hits)
    """
    assert _python(report, NUMBA_CACHE_DIR=str(filled_cache)).strip() == "[0, 1]"


@pytest.mark.parametrize(("parent", "self_test"), [("computing", "0"), ("compiling", "1")])
def test_a_fork_while_another_thread_is_inside_an_operator(parent: str, self_test: str, tmp_path: Path) -> None:
    """The child has no such thread: whatever lock that held, nobody would release it."""
    output = _python(
        f"""
        import faulthandler, os, threading, time
        from numba.core.compiler_lock import global_compiler_lock
        from nnunet_mamba.ops.kernels import numba_runtime as runtime

        def compiles():
            free = global_compiler_lock._lock.acquire(blocking=False)
            if free:
                global_compiler_lock._lock.release()
            return not free

        def work():
            while not stop:
                causal_conv1d(big, torch.ones(8, 3))

        stop, big = False, torch.ones(1, 8, 100_000)
        if {parent == "computing"}:
            causal_conv1d(big, torch.ones(8, 3))
        thread = threading.Thread(target=work)
        thread.start()
        until = time.monotonic() + 60
        while not (compiles() if {parent == "compiling"} else runtime._lock.locked()):
            assert time.monotonic() < until
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(30, exit=True)
            torch.set_num_threads(1)
            right = torch.equal(causal_conv1d(x, w), expected)
            os._exit(0 if right else 7)
        stop = True
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        print("fine")
        """,
        nnUNet_mamba_self_test=self_test,
        NUMBA_CACHE_DIR=str(tmp_path / "numba"),
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert "fine" in output


def test_what_a_child_makes_of_its_parents_state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_lock", "_importing", "_broken_off"):
        monkeypatch.setattr(runtime, name, getattr(runtime, name))
    with runtime._lock:
        runtime._in_forked_child()
        assert not runtime._lock.locked()
    assert not runtime._broken_off, "a parent that only computed"
    runtime._importing = True
    runtime._in_forked_child()
    assert runtime._broken_off
    assert not runtime._importing
    runtime._in_forked_child()
    assert runtime._broken_off, "its own child cannot either"


def test_a_child_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_broken_off", True)
    with pytest.raises(ValueError, match="forked while another thread was compiling; start it by spawn"):
        backends.choose("causal_conv1d", "numba", torch.zeros(1, 1, 1))


def test_an_error_of_a_kernel_itself_is_not_swallowed() -> None:
    from numba.core.errors import TypingError

    with pytest.raises(TypingError, match="gate"):
        runtime.call("gate", np.zeros(3), np.zeros(3), 0, 4)


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.why_not(torch.zeros(1)) is None
    assert runtime.why_not(torch.zeros(1, device="meta")) == "needs a CPU tensor, got meta"
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    assert runtime.why_not(torch.zeros(1)) == "numba is not installed: pip install numba"


@pytest.mark.parametrize(
    ("dtype", "tolerances"),
    [(np.float32, (2e-7, 2e-6, 2e-6)), (np.float64, (2e-15, 1e-14, 1e-14))],  # some units in the last place
)
def test_functions_of_vectors(dtype: type, tolerances: tuple[float, ...]) -> None:
    """Errors of the decay add up over a scan's memory: they must be those of rounding."""
    import numba

    from nnunet_mamba.ops.kernels import numba_vectors as vectors

    @numba.njit(error_model="numpy")
    def functions(x, values):
        for i in range(0, x.size, vectors.LANES):
            v = vectors.load(x, i)
            vectors.store(values, i, vectors.exp2(v))
            vectors.store(values, x.size + i, vectors.softplus(v))
            vectors.store(values, 2 * x.size + i, vectors.sigmoid(v))

    x = np.linspace(-10, 10, 4000, dtype=dtype)
    values = np.empty((3, x.size), dtype)
    functions(x, values)
    exact = x.astype(np.longdouble)
    expected = np.exp2(exact), np.logaddexp(exact, 0), 1 / (1 + np.exp(-exact))
    for got, wanted, tolerance in zip(values, expected, tolerances, strict=True):
        assert np.abs(got / wanted - 1).max() < tolerance
    extreme = np.tile(np.array([-1e30, -2000, 2000, 1e30, np.nan, -np.inf, np.inf, 0], dtype), 2)
    values = np.empty((3, 16), dtype)
    functions(extreme, values)
    smallest = np.finfo(dtype).tiny
    assert np.allclose(values[0, [0, 1, 5]], 0, atol=2 * smallest)
    assert np.isposinf(values[0, [2, 3, 6]]).all()
    assert np.allclose(values[1, :4], [0, 0, 2000, 1e30])
    assert np.isposinf(values[1, 6])
    assert np.allclose(values[2, :4], [0, 0, 1, 1])
    assert np.isnan(values[:, 4]).all()


def test_arithmetic_of_vectors() -> None:
    import numba

    from nnunet_mamba.ops.kernels import numba_vectors as vectors

    @numba.njit
    def compute(a, b, out, sums):
        x, y = vectors.load(a, 0), vectors.load(b, 1)
        vectors.store(out, 2, (x + y) * x - vectors.spread(a[3]))
        sums[0], sums[1] = vectors.totals(x, y)

    a, b = np.random.default_rng(0).standard_normal((2, 17))
    out, sums = np.zeros(20), np.zeros(2)
    compute(a, b, out, sums)
    assert np.allclose(out, [0, 0, *((a[:16] + b[1:]) * a[:16] - a[3]), 0, 0])
    assert np.allclose(sums, [a[:16].sum(), b[1:].sum()])


def test_functions_in_loops() -> None:
    import numba

    from nnunet_mamba.ops.kernels import numba_kernels as kernels

    softplus, sigmoid = kernels._softplus, kernels._sigmoid

    @numba.njit(error_model="numpy")
    def each(x, values):
        for i in range(x.size):
            values[0, i], values[1, i] = softplus(x[i]), sigmoid(x[i])

    x = np.array([*np.linspace(-10, 10, 101), -200, 200, np.nan], np.float32)
    values = np.empty((2, x.size), np.float32)
    each(x, values)
    exact = x[:101].astype(float)
    assert np.abs(values[0, :101] / np.logaddexp(exact, 0) - 1).max() < 2e-6
    assert np.abs(values[1, :101] * (1 + np.exp(-exact)) - 1).max() < 2e-6
    assert np.allclose(values[:, 101:103], [[0, 200], [0, 1]])
    assert np.isnan(values[:, 103]).all()


def test_token_numbers_beyond_32_bits() -> None:
    """By arithmetic, without the memory: the compiled index functions on sequences of more than 2**31 tokens."""
    from nnunet_mamba.ops.kernels import numba_kernels as kernels

    length, slices = 3 * 2**32, 3 * 2**16
    for t in (0, 1, 2**31 - 1, 2**31, 2**32 + 7, length - 1):
        assert kernels._row(t, length, kernels.FORWARD, 1) == t
        assert kernels._row(t, length, kernels.REVERSE, 1) == length - 1 - t
        assert kernels._row(t, length, kernels.INTER_SLICE, slices) == t % slices * 2**16 + t // slices
    assert kernels._task(2**33 + 5, 2**16, 2) == (2**16, 2, 1)


def test_a_numba_with_other_names_inside_caches_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import FunctionCache

    from nnunet_mamba.ops.kernels import numba_cache

    def other(*_: object) -> None:
        raise AttributeError("'FunctionCache' object has no attribute '_impl'")

    monkeypatch.setattr(numba_cache, "CheckedCache", other)
    assert type(runtime._new_kernel("scan_forward", parallel=False)._cache) is FunctionCache
