"""The compile cache reads nothing that is damaged, stale or another's, and keeps no error of a kernel to itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

numba = pytest.importorskip("numba")

from nnunet_mamba.ops.kernels import numba_cache as checked  # noqa: E402

SOURCE = """
def twice(x):
    return 2 * x

def careful(x):
    if x < 0:
        raise OSError("negative")
    return x
"""


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a fresh kernel of `SOURCE`, as another process would"""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("source_of_cache_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def fresh(name: str):
        kernel = numba.njit(getattr(module, name))
        kernel._cache = checked.CheckedCache(kernel.py_func, "test")
        return kernel

    return fresh


def _hits(kernel) -> int:
    return sum(kernel.stats.cache_hits.values())


def _files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.nb?"))


def test_compiled_code_is_found_again(kernels, tmp_path: Path) -> None:
    assert kernels("twice")(3) == 6
    assert [f.suffix for f in _files(tmp_path)] == [".nbc", ".nbi"]
    again = kernels("twice")
    assert again(4) == 8
    assert _hits(again) == 1


def test_code_is_compiled_anew_when_kernels_beside_it_change(kernels, tmp_path: Path) -> None:
    """Their functions may be compiled into it."""
    beside = tmp_path / "numba_other_kernels.py"
    beside.write_text("")
    for text, hits in (("", 0), ("", 1), ("# changed", 0), ("# changed", 1)):
        if beside.read_text(encoding="utf-8") != text:
            beside.write_text(text)
        kernel = kernels("twice")
        assert kernel(3) == 6
        assert _hits(kernel) == hits, text


@pytest.mark.parametrize("number", [0, 1])
def test_damage_is_mended(kernels, tmp_path: Path, number: int) -> None:
    kernels("twice")(3)
    file = _files(tmp_path)[number]
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[: len(whole) // 3], whole + b"0", whole.replace(b"twice", b"thrice")):
        assert damaged != whole
        file.write_bytes(damaged)
        kernel = kernels("twice")
        assert kernel(5) == 10
        assert _hits(kernel) == 0, "not read"
        kernel = kernels("twice")
        assert kernel(5) == 10
        assert _hits(kernel) == 1, "and written anew"


def _saved(folder: Path, stamp: str = "stamp") -> checked._CheckedFiles:
    files = checked._CheckedFiles(str(folder), "name", stamp)
    files.save("float32", [1, 2, 3])
    return files


def test_no_single_wrong_bit_goes_through(tmp_path: Path) -> None:
    files = _saved(tmp_path)
    assert files.load("float32") == [1, 2, 3]
    assert files.load("float64") is None
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            assert files.load("float32") is None, (path.name, at)
        path.write_bytes(whole)
    assert files.load("float32") == [1, 2, 3]


def test_code_of_another_version_of_the_source_is_not_used(tmp_path: Path) -> None:
    """A process killed between index and code leaves a new index beside old code."""
    _saved(tmp_path, "old")
    (code,) = tmp_path.glob("*.nbc")
    old = code.read_bytes()
    files = _saved(tmp_path, "new")
    code.write_bytes(old)
    assert files.load("float32") is None


def test_code_for_other_types_is_not_used(tmp_path: Path) -> None:
    """Two processes that save at once can both take the same name for their code; the later one's is kept."""
    files = _saved(tmp_path)
    (code,) = tmp_path.glob("*.nbc")
    mine = code.read_bytes()
    (tmp_path / "name.nbi").unlink()
    files.save("float64", [4])
    assert (tmp_path / "name.1.nbc").exists()
    code.write_bytes(mine)
    assert files.load("float64") is None


def test_a_cache_that_cannot_be_written_does_no_harm(kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checked._CheckedFiles, "_save_index", full)
    assert kernels("twice")(3) == 6


def test_an_error_of_the_kernel_is_raised(kernels) -> None:
    for _ in range(2):  # compiled, then from the cache
        kernel = kernels("careful")
        assert kernel(1) == 1
        with pytest.raises(OSError, match="negative"):
            kernel(-1)
