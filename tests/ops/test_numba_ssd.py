"""What only the compiled CPU backend of Mamba-2 has: channels in blocks, sequences in pieces, threads, a cache."""

from __future__ import annotations

import os

import pytest
import torch

from nnunet_mamba.ops import oriented_ssd, ssd
from nnunet_mamba.ops.kernels import numba_runtime as runtime
from nnunet_mamba.ops.kernels.numba_ssd import WIDEST, Sizes
from tests.ops.cases import as_leaves, gradients, oriented_ssd_inputs, relative_error, ssd_inputs

HEADS = [(1, 1, 1), (3, 32, 1), (6, 32, 2), (1, 80, 1), (8, 80, 1), (96, 1, 1), (2, 200, 2), (7, 20, 7), (5, 33, 1)]


@pytest.mark.parametrize("cores", [1, 2, 64])
@pytest.mark.parametrize(("heads", "p", "groups"), HEADS)
def test_blocks_cover_every_channel_and_part_of_a_head_once(
    heads: int, p: int, groups: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_mamba.ops.kernels import numba_ssd_kernels as kernels

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    sizes = Sizes(1, 256, heads, p, groups, 16)
    per_group, seen, slots = sizes.blocks // groups, [], []
    for block in range(sizes.blocks):
        group, c0, size, h0, n_heads = kernels._channels(block, sizes.width, per_group, sizes.of_group, p)
        assert 1 <= size <= sizes.width <= WIDEST
        seen += range(c0, c0 + size)
        for head in range(h0, h0 + n_heads):
            assert head // (heads // groups) == group
            part = block % per_group - (head * p - group * sizes.of_group) // sizes.width
            assert 0 <= part < sizes.parts
            slots.append((head, part))
    assert seen == list(range(heads * p))
    assert len(set(slots)) == len(slots)
    assert {head for head, _ in slots} == set(range(heads))


@pytest.mark.parametrize("segments", [2, 3, 4])  # of 6 chunks: the last is uneven
def test_a_sequence_walked_in_pieces_gives_the_same(segments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines with many cores cut long sequences of few channels; this one does it on request."""
    inputs = as_leaves(ssd_inputs(2, 1500, 4, 20, 2, 3))
    oriented = as_leaves(oriented_ssd_inputs(1, 1500, 3, 32, 1, 2, 4, orders=3))
    calls = (
        (inputs, lambda backend: ssd(**inputs, dt_softplus=True, backend=backend)),
        (oriented, lambda backend: oriented_ssd(**oriented, d_state=2, n_slices=15, backend=backend)),
    )
    monkeypatch.setattr(Sizes, "segments", property(lambda self: segments))
    for tensors, call in calls:
        y, expected = call("numba"), call("reference")
        assert relative_error(y, expected) < 1e-12
        wanted = gradients(expected, tensors)
        for name, grad in gradients(y, tensors).items():
            assert relative_error(grad, wanted[name]) < 1e-11, name


@pytest.mark.parametrize(
    ("batch", "channels", "cores", "expected"),
    [(1, 96, 2, 48), (2, 96, 2, 96), (1, 96, 16, 48), (1, 192, 2, 96), (1, 768, 2, 192), (1, 384, 8, 48), (1, 1, 8, 1)],
)
def test_blocks_are_as_wide_as_the_cores_allow(
    batch: int, channels: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert Sizes(batch, 4096, 1, channels, 1, 16).width == expected


@pytest.mark.parametrize(("cores", "expected"), [(2, 1), (4, 1), (6, 3), (16, 8)])
def test_pieces_follow_the_machine(cores: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert Sizes(1, 262_144, 3, 32, 1, 16).segments == expected, "two blocks of 48 channels"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    inputs = as_leaves(oriented_ssd_inputs(1, 1030, 3, 32, 1, 4, 4, orders=3, dtype=torch.float32))
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = oriented_ssd(**inputs, d_state=4, n_slices=10, backend="numba")
            results.append([y, *gradients(y, inputs).values()])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_kernels_are_cached_like_the_others() -> None:
    from nnunet_mamba.ops.kernels.numba_cache import CheckedCache

    for name in ("ssd_forward", "ssd_backward"):
        kernel = runtime._new_kernel(name, parallel=False)
        assert kernel.py_func.__module__.endswith("numba_ssd_kernels")
        assert type(kernel._cache) is CheckedCache


def test_a_bad_value_stays_after_its_step() -> None:
    """As matrix products cannot: nothing before it, nothing in other heads"""
    inputs = ssd_inputs(1, 300, 3, 32, 1, 4, torch.float32)
    clean = ssd(**inputs, dt_softplus=True, backend="numba")
    inputs["x"][0, 150, 1] = float("nan")
    y = ssd(**inputs, dt_softplus=True, backend="numba")
    assert torch.equal(y[0, :150], clean[0, :150])
    assert torch.equal(y[0, :, [0, 2]], clean[0, :, [0, 2]])
