"""Files are written whole or not at all, and what cannot be read is named, by one module for all."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nnunet_mamba import whole_files
from nnunet_mamba.whole_files import read_json, read_object, write_json, write_text

PACKAGE = Path(whole_files.__file__).parent
ON_THEIR_OWN = ("whole_files.py", "trainers/fold_lock.py", "study/crossval/commands.py", "study/evaluation/kept.py",
                "trust/validation.py")  # fmt: skip
"""This module, those that write into a file that they have locked, one that appends a line at a time, and one that has
JSON in an entry of a .npz"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, "ä"]})
    assert read_object(path) == {"a": [1, "ä"]}
    write_json(path, [1])
    assert read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_writing_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ValueError, match=r"a\.json cannot be written: No space left"):
        write_json(path, {"a": 2})
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(path, {"a": float("nan")}, allow_nan=False)
    assert read_object(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_several_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [str(i) * 10_000 for i in range(8)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text(encoding="utf-8") in texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"a\.json: not JSON: Expecting property name"),
        (b"[" * 100_000, r"a\.json: not JSON: "),
        (b'{"a": "\xff"}', r"a\.json: not JSON: .*codec can't decode"),
        (b'{"a": 1, "a": 2}', r'a\.json: not JSON: "a" is there twice'),
        (b"[1]", r"a\.json: holds \[1\]; expected an object"),
        (None, r"a\.json cannot be read: No such file"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_object(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_object(tmp_path / "a.json") == {}


def _own_json(tree: ast.AST) -> list[str]:
    """Calls that read JSON, and JSON handed to a file at once"""
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = [c for c in calls if not c.startswith("json.loads(json.dumps(")]  # tuples into lists, no file
    return [c for c in calls if c.startswith(("json.load", "json.dump(")) or ".write_text(json.dumps(" in c]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_module_reads_or_writes_json_files(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() not in ON_THEIR_OWN:
        assert not _own_json(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("text", ["json.loads(t)", "json.load(f)", "json.dump(a, f)", "p.write_text(json.dumps(a))"])
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert _own_json(ast.parse(text))
