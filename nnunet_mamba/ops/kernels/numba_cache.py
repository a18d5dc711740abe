"""Numba's compile cache, which heals itself: whatever is wrong with its files, the code is compiled and written again.

Numba's own cache trusts what it finds. A power failure, a full quota or a bad disk leave files cut off, empty or with
other bits; then every call of every process fails until somebody deletes them, or machine code with a wrong bit runs.
And of two processes that save at once, one can leave its code under the other's name. So every file carries a digest,
and every piece of code the types that it was compiled for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from numba.core import caching

DIGEST = hashlib.sha256


class DamagedFileError(OSError):
    """A file does not end with its digest. To numba's cache, like any `OSError`: as if there were none."""


class _CheckedFiles(caching.IndexDataCacheFile):
    """Index and data files of one kernel. A digest covers the file and the source it was compiled from."""

    def load(self, key: Any) -> Any:
        """The code saved for these types, or None"""
        found = super().load(key)
        return found[1] if found is not None and found[0] == key else None

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))

    def _load_index(self) -> dict[Any, str]:
        try:
            self._check(self._index_path)
            return super()._load_index()
        except Exception:  # damaged in any way: as if there were none, so that saving replaces it
            return {}

    def _load_data(self, name: str) -> Any:
        self._check(self._data_path(name))
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        with super()._open_for_write(filepath) as file:
            content = io.BytesIO()
            yield content
            file.write(content.getvalue() + self._digest(content.getvalue()))

    def _check(self, path: str) -> None:
        whole = Path(path).read_bytes()
        size = DIGEST().digest_size
        if whole[-size:] != self._digest(whole[:-size]):
            raise DamagedFileError(path)

    def _digest(self, content: bytes) -> bytes:
        return DIGEST(content + repr(self._source_stamp).encode()).digest()


class CheckedCache(caching.FunctionCache):
    """A kernel's cache. Neither reading nor writing it ever makes a call fail.

    kind: begins the files' names. Code of one function compiled in two ways must not be mixed up, nor these files with
    those of numba's own cache. The code is compiled anew when any file of kernels in its folder has changed: kernels
    have functions of other files compiled into them, of which numba's cache knows nothing.
    """

    def __init__(self, py_func: Any, kind: str) -> None:
        super().__init__(py_func)
        name = f"{kind}-{self._impl.filename_base}"
        # what it imports from other files may be compiled into it, of which numba knows nothing
        others = sorted(Path(py_func.__code__.co_filename).parent.glob("numba_*.py"))
        stamp = (self._impl.locator.get_source_stamp(), *((f.stat().st_mtime_ns, f.stat().st_size) for f in others))
        self._cache_file = _CheckedFiles(self._cache_path, name, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for these types, or None: then numba compiles it"""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # nothing of the kernel runs here: whatever it is, it is the files
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk, a folder that went away: the next process compiles again
            super().save_overload(sig, data)
