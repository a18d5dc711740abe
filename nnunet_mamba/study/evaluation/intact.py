"""Whether a file is whole. SimpleITK stops before the checksum of compressed voxels, and puts 0 where a NIfTI file
ends too early or holds NaN.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

PIECE = 2**20
GZIP, NRRD = b"\x1f\x8b", b"NRRD"
NIFTI1, NIFTI2 = 348, 540
"""Sizes of the headers, which begin with them."""
LONGEST_HEADER = 2**20


def check_intact(path: Path) -> None:
    """Reads NIfTI to its end, and compressed NRRD and MHA to their checksum.

    Raises ValueError for a file that is cut off or damaged, or a NIfTI file with voxels that are not finite numbers.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise ValueError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] == GZIP or path.name.endswith(".nii"):
                _check_nifti(path, file, start[:2] == GZIP)
            elif start == NRRD:
                if _header(file, b"\n\n", b"\r\n\r\n").get("encoding", "") in ("gzip", "gz"):
                    _unpack_gzip(file)
            elif path.name.lower().endswith(".mha"):
                header = _header(file, b"LOCAL\n", b"LOCAL\r\n")
                if header.get("compresseddata", "") == "true":
                    _check_length(path, header.get("compresseddatasize", ""), _unpack_zlib(file))
    except EOFError:
        raise ValueError(f"{path} is cut off: its compressed data end too early") from None
    except (zlib.error, gzip.BadGzipFile):
        raise ValueError(f"{path} is damaged: its compressed data or their checksum are wrong") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_nifti(path: Path, file: IO[bytes], packed: bool) -> None:
    """Or whatever else is compressed by gzip: SimpleITK will say what that is"""
    content = gzip.GzipFile(fileobj=file) if packed else file
    start = content.read(NIFTI2)
    header = _nifti_header(start)
    if header is not None:
        kind, there, bad = header.get_data_dtype(), 0, 0
        size = int(np.prod([int(n) for n in header.get_data_shape()], dtype=float) * kind.itemsize)
        content.seek(max(0, int(header.get_data_offset())))
        while there < size and (piece := content.read(min(PIECE, size - there))):
            there += len(piece)
            if kind.kind == "f" and len(piece) % kind.itemsize == 0:
                bad += int((~np.isfinite(np.frombuffer(piece, kind))).sum())
        if there < size:
            raise ValueError(f"{path} is cut off: {there} of {size} bytes of voxels are there")
        if bad:
            raise ValueError(f"{path} holds {bad} voxels that are NaN or infinite; expected labels")
    while content.read(PIECE):  # to the checksum
        pass


def _nifti_header(start: bytes) -> Any:
    """nibabel's, of whatever is in it; None for other files"""
    for size, kind in ((NIFTI1, Nifti1Header), (NIFTI2, Nifti2Header)):
        for order in ("<", ">"):
            if len(start) >= size and int.from_bytes(start[:4], "little" if order == "<" else "big") == size:
                try:
                    header = kind(start[:size], endianness=order, check=False)
                    header.get_data_dtype()
                    header.get_data_shape()
                    int(header.get_data_offset())
                except Exception:  # a header without meaning, which SimpleITK refuses in its own words
                    return None
                return header
    return None


def _header(file: IO[bytes], *ends: bytes) -> dict[str, str]:
    """Fields in lower case; the file stands where the voxels begin"""
    start = file.read(LONGEST_HEADER)
    places = [(at, end) for end in ends if (at := start.find(end)) >= 0]
    if not places:
        return {}
    at, end = min(places)
    file.seek(at + len(end))
    lines = start[:at].decode("latin-1").lower().splitlines()
    pairs = (line.replace("=", ":", 1).split(":", 1) for line in lines if ":" in line or "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _unpack_gzip(file: IO[bytes]) -> None:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while unpacked.read(PIECE):
            pass


def _unpack_zlib(file: IO[bytes]) -> int:
    """How many packed bytes there are"""
    unpacking, length = zlib.decompressobj(), 0
    while not unpacking.eof:
        packed = file.read(PIECE)
        if not packed:
            raise EOFError
        length += len(packed)
        unpacking.decompress(packed)
    return length - len(unpacking.unused_data)


def _check_length(path: Path, stated: str, length: int) -> None:
    """SimpleITK unpacks as many bytes as the header says, and takes what it got for all voxels."""
    if stated != str(length):
        raise ValueError(f"{path} is damaged: its header says {stated or 'no'} compressed bytes; it has {length}")
