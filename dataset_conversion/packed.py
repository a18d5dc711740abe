"""Compressed voxels of NRRD and MetaImage files, unpacked once to their end: SimpleITK, and so nnU-Net, does not look
at their checksum and reads damaged ones without a word."""

from __future__ import annotations

import bz2
import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from dataset_conversion.grid import UnreadableError

BLOCK = 2**20
LONGEST_HEADER = 2**20
NRRD_BYTES = {
    "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1,
    "short": 2, "short int": 2, "signed short": 2, "signed short int": 2, "int16": 2, "int16_t": 2,
    "ushort": 2, "unsigned short": 2, "unsigned short int": 2, "uint16": 2, "uint16_t": 2,
    "int": 4, "signed int": 4, "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4,
    "longlong": 8, "long long": 8, "long long int": 8, "signed long long": 8, "signed long long int": 8, "int64": 8,
    "int64_t": 8, "ulonglong": 8, "unsigned long long": 8, "unsigned long long int": 8, "uint64": 8, "uint64_t": 8,
    "float": 4, "double": 8,
}  # fmt: skip
META_BYTES = {
    "met_char": 1, "met_uchar": 1, "met_short": 2, "met_ushort": 2, "met_int": 4, "met_uint": 4, "met_long": 4,
    "met_ulong": 4, "met_long_long": 8, "met_ulong_long": 8, "met_float": 4, "met_double": 8,
}  # fmt: skip


def is_meta(path: Path) -> bool:
    """Whether SimpleITK takes a file for a MetaImage"""
    return path.suffix.lower() in (".mha", ".mhd")


def check_voxels(path: Path, start: bytes, voxels: np.ndarray, checksum: int | None) -> None:
    """Raises UnreadableError if what SimpleITK read of a NRRD or MetaImage file is not what is stored. start: the
    file's first bytes; checksum: of `unpacked`, where that was called before."""
    if start.startswith(b"NRRD"):
        if _ends_with_checksum(path, voxels):
            return
        checksum = unpacked(path, start)
    if checksum is not None and checksum not in (_crc(voxels), _crc(voxels.byteswap())):
        raise UnreadableError(path, "SimpleITK reads other voxels than its compressed data hold; is its header right?")


def unpacked(path: Path, start: bytes) -> int | None:
    """Checksum of the unpacked voxels of a NRRD or MetaImage file, None if they are not compressed. Raises
    UnreadableError where they are damaged, cut off or not as many as the header says, and for MetaImage headers at
    which SimpleITK may end the process."""
    if start.startswith(b"NRRD"):
        return _check_nrrd(path)
    return _check_meta(path) if is_meta(path) else None


def _crc(voxels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data)


def _ends_with_checksum(path: Path, voxels: np.ndarray) -> bool:
    """Whether a file ends with the checksum of its voxels, as gzip writes it: then all of them are as they were, and
    it need not be unpacked a second time."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        stored = int.from_bytes(file.read(4), "little")
    return _crc(voxels) == stored


def _check_nrrd(path: Path) -> int | None:
    with path.open("rb") as file:
        fields, lines = _nrrd_header(file)
        place = file.tell()
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("gz", "gzip", "bz2", "bzip2"):
        return None
    unpack = _gunzipped if encoding.startswith("gz") else _bunzipped
    where = fields.get("data file", fields.get("datafile"))
    if where is None:
        data = path
    elif where.upper().startswith("LIST") or "%" in where:
        raise UnreadableError(path, "compressed voxels in several files; save it as one .nrrd file")
    else:
        data, place = path.parent / where, 0
    expected = _product(fields.get("sizes", ""), NRRD_BYTES.get(fields.get("type", "").lower()))
    skips = fields.get("byte skip", fields.get("byteskip", "0")).strip() not in ("0", "-1")
    line_skip = int(lines) if lines.isdigit() else 0
    checksum = _count(path, data, place, unpack, None if skips else expected, line_skip)
    return None if skips else checksum


def _nrrd_header(file: IO[bytes]) -> tuple[dict[str, str], str]:
    """Fields of the header, in lower case, and its line skip; `file` stands at the voxels after it."""
    fields: dict[str, str] = {}
    while line := file.readline(LONGEST_HEADER):
        text = line.decode("latin-1").rstrip("\r\n")
        if not text:
            break
        name, colon, value = text.partition(":")
        if colon and not text.startswith("#") and not value.startswith("="):
            fields[name.strip().lower()] = value.strip()
    return fields, fields.get("line skip", fields.get("lineskip", "0"))


def _check_meta(path: Path) -> int | None:
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while line := file.readline(LONGEST_HEADER):
            name, equals, value = line.decode("latin-1").partition("=")
            if not equals:
                break
            fields[name.strip().lower()] = value.strip()
            if name.strip().lower() == "elementdatafile":
                break
        place = file.tell()
    sizes = fields.get("dimsize", "").split()
    if fields.get("ndims") != "3" or len(sizes) != 3 or not all(re.fullmatch("[0-9]{1,9}", n) for n in sizes):
        raise UnreadableError(path, f"its header says {' x '.join(sizes) or 'no'} voxels; expected three axes")
    if fields.get("elementnumberofchannels", "1") != "1":
        raise UnreadableError(path, "several values per voxel; expected one")
    expected = _product(fields["dimsize"], META_BYTES.get(fields.get("elementtype", "").lower()))
    if expected is None or "elementdatafile" not in fields:
        raise UnreadableError(path, "damaged: its header lacks ElementType or ElementDataFile")
    where = fields["elementdatafile"]
    if fields.get("compresseddata", "").lower()[:1] not in ("t", "1"):
        return None
    if where.upper() == "LIST" or "%" in where or not where:
        raise UnreadableError(path, "compressed voxels in several files; save it as one .mha file")
    data, place = (path, place) if where.upper() == "LOCAL" else (path.parent / where, 0)
    checksum = _count(path, data, place, _inflated, expected)
    stored, there = fields.get("compresseddatasize", ""), data.stat().st_size - place
    if stored != str(there):
        raise UnreadableError(path, f"damaged: its header says {stored or 'no'} compressed bytes; it has {there}")
    return checksum


def _product(numbers: str, size: int | None) -> int | None:
    """Bytes of this number of voxels; None where the header does not say it, which its reader will refuse"""
    try:
        return None if size is None else size * math.prod(int(n) for n in numbers.split())
    except ValueError:
        return None


def _count(
    path: Path,
    data: Path,
    place: int,
    unpack: Callable[[IO[bytes]], Iterator[bytes]],
    expected: int | None,
    lines: int = 0,
) -> int:
    """Unpacks all; the checksum. Raises UnreadableError if that fails or gives another number of bytes."""
    try:
        with data.open("rb") as file:
            file.seek(place)
            for _ in range(lines):
                file.readline(LONGEST_HEADER)
            length = checksum = 0
            for block in unpack(file):
                length += len(block)
                checksum = zlib.crc32(block, checksum)
                if expected is not None and length > expected:
                    break
    except EOFError:
        raise UnreadableError(path, "cut off: the compressed data end too early") from None
    except (zlib.error, gzip.BadGzipFile):
        raise UnreadableError(path, "damaged: its compressed data or their checksum are wrong") from None
    except OSError as error:  # bz2 has no error of its own
        reason = f"{data}: {error.strerror}" if error.strerror else "its compressed data or their checksum are wrong"
        raise UnreadableError(path, f"damaged: {reason}") from None
    if expected is not None and length != expected:
        more = "more" if length > expected else f"{length} bytes"
        raise UnreadableError(
            path, f"damaged: its header says {expected} bytes of voxels; its compressed data have {more}"
        )
    return checksum


def _gunzipped(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.open(file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _bunzipped(file: IO[bytes]) -> Iterator[bytes]:
    with bz2.open(file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """zlib, or gzip, which MetaIO reads too"""
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    while not unpack.eof:
        block = unpack.unconsumed_tail or file.read(BLOCK)
        made = unpack.decompress(block, BLOCK)
        if not block and not made and not unpack.eof:
            raise EOFError
        yield made
