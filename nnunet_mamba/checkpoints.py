"""Reading checkpoint files of others: no code in them is run, and what is not a checkpoint is named."""

from __future__ import annotations

import codecs
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

SNIFFED = 2048
GIT_LFS = b"version https://git-lfs"
ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read(path: str | Path, mmap: bool = False) -> Any:
    """Content of a file that torch.save wrote: tensors and plain values, and the NumPy numbers in nnU-Net's logs.

    mmap: leave large tensors on the disk until they are used. Raises ValueError in one sentence, naming the file, for
    what is not such a file, is damaged, or holds objects whose unpickling would run code.
    """
    path = Path(path)
    try:
        what = _no_checkpoint(path)
        if what is not None:
            raise _NoCheckpointError(f"{path}{what}")
        archive = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and archive)
    except (_NoCheckpointError, MemoryError):
        raise
    except PermissionError as error:
        raise ValueError(
            f"{path}: {error.strerror}: it belongs to somebody else, or lies in a folder that does"
        ) from None
    except Exception as error:  # whatever reading a damaged file raises
        raise ValueError(f"{path}{_refused(error)}") from None


class _NoCheckpointError(ValueError):
    """Said in words that are to be kept."""


def _no_checkpoint(path: Path) -> str | None:
    """What a file is that is not a checkpoint, by its first bytes."""
    if not path.is_file():
        return " is a folder; name the file in it" if path.is_dir() else ": no such file"
    with path.open("rb") as file:
        start = file.read(SNIFFED)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return " is empty: the download or copy failed; get it again"
    if text[:1] == b"<":
        return " is a web page, not a checkpoint: open its address in a browser and download the file itself"
    if text.startswith(GIT_LFS):
        return " is a pointer of Git LFS, not the file it stands for: run `git lfs pull` in its repository"
    if start.startswith(GZIP):
        return " is a gzip file, not a checkpoint: unpack it (tar xf or gunzip) and name the file in it"
    if start.startswith(ZIP) and not zipfile.is_zipfile(path):
        return f" is cut off after {path.stat().st_size / 1e6:.1f} MB: copy or download it again"
    if start.startswith(ZIP) and not _is_torch_archive(path):
        return " is a zip archive without a checkpoint of torch at its top: unpack it and name the file in it"
    if not start.startswith((ZIP, *PICKLE)) and _is_text(start):
        return f" is a text file, not a checkpoint; it begins with {start[:40].decode('utf-8', 'replace')!r}"
    return None


def _is_torch_archive(path: Path) -> bool:
    with zipfile.ZipFile(path) as file:
        return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in file.namelist())


def _is_text(start: bytes) -> bool:
    try:
        decoded = start[: SNIFFED - 4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\r\n\t" for c in decoded)


def _refused(error: Exception) -> str:
    """torch's wall of text about safe globals in one sentence; what readers say of damaged files is none."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL " in text:
        name = text.split("GLOBAL ", 1)[1].split()[0].rstrip(".,")
        return (
            f" holds an object of {name}, and reading that could run code, so it is not read. If you trust its source, "
            "save the weights alone, which all commands here read: "
            'torch.save({"network_weights": torch.load(FILE, weights_only=False)["network_weights"]}, NEW)'
        )
    return " is damaged, or no checkpoint: copy or download it again"


def _numpy_globals() -> list[Any]:
    """What unpickling a NumPy number or array calls, as NumPy 1 and 2 name it; none of it runs the file's code."""
    scalar: Any = np.float64(0).__reduce__()[0]
    reconstruct: Any = np.zeros(1).__reduce__()[0]
    named = [
        (function, f"{package}.multiarray.{name}")
        for function, name in ((scalar, "scalar"), (reconstruct, "_reconstruct"))
        for package in ("numpy.core", "numpy._core")
    ]
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFD"}
    return [*named, np.dtype, np.ndarray, *dtypes, codecs.encode]  # the last: how this pickle protocol writes bytes
