"""Compressed voxels of NRRD and MetaImage files, unpacked once to their end: SimpleITK, and so nnU-Net, does not look
at their checksum and reads damaged ones without a word."""

from __future__ import annotations

import bz2
import gzip
import math
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


def check_packed(path: Path, start: bytes, voxels: np.ndarray | None = None) -> None:
    """Raises UnreadableError for a NRRD or MetaImage file whose compressed voxels are damaged, cut off or not as many
    as its header says. start: the file's first bytes; voxels: what was read from it, if it could be. Other files are
    not looked at."""
    if start.startswith(b"NRRD"):
        if voxels is None or not _ends_with_checksum(path, voxels):
            _check_nrrd(path)
    elif path.suffix.lower() in (".mha", ".mhd"):
        _check_meta(path)


def _ends_with_checksum(path: Path, voxels: np.ndarray) -> bool:
    """Whether a file ends with the checksum of its voxels, as gzip writes it: then all of them are as they were, and
    it need not be unpacked a second time."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        stored = int.from_bytes(file.read(4), "little")
    whole = np.ascontiguousarray(voxels).reshape(-1)
    return zlib.crc32(whole.view(np.uint8).data) == stored


def _check_nrrd(path: Path) -> None:
    with path.open("rb") as file:
        fields, lines = _nrrd_header(file)
        place = file.tell()
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("gz", "gzip", "bz2", "bzip2"):
        return
    unpack = _gunzipped if encoding.startswith("gz") else _bunzipped
    where = fields.get("data file", fields.get("datafile"))
    if where is None:
        data = path
    elif where.upper().startswith("LIST") or "%" in where:
        raise UnreadableError(path, "compressed voxels in several files; save it as one .nrrd file")
    else:
        data, place = path.parent / where, 0
    expected = _product(fields.get("sizes", ""), NRRD_BYTES.get(fields.get("type", "").lower()))
    if expected is not None and fields.get("byte skip", fields.get("byteskip", "0")).strip() not in ("0", "-1"):
        expected = None
    _count(path, data, place, unpack, expected, int(lines) if lines.isdigit() else 0)


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


def _check_meta(path: Path) -> None:
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
    if fields.get("compresseddata", "").lower()[:1] not in ("t", "1"):
        return
    where = fields.get("elementdatafile", "LOCAL")
    if where.upper() == "LIST" or "%" in where:
        raise UnreadableError(path, "compressed voxels in several files; save it as one .mha file")
    data = path if where.upper() == "LOCAL" else path.parent / where
    channels = fields.get("elementnumberofchannels", "1")
    expected = _product(
        f"{fields.get('dimsize', '')} {channels}", META_BYTES.get(fields.get("elementtype", "").lower())
    )
    _count(path, data, place if data == path else 0, _inflated, expected)


def _product(numbers: str, size: int | None) -> int | None:
    """Bytes of so many voxels; None where the header does not say it, which its reader will refuse"""
    try:
        return None if size is None else size * math.prod(int(n) for n in numbers.split())
    except ValueError:
        return None


def _count(
    path: Path,
    data: Path,
    place: int,
    unpack: Callable[[IO[bytes]], Iterator[int]],
    expected: int | None,
    lines: int = 0,
) -> None:
    try:
        with data.open("rb") as file:
            file.seek(place)
            for _ in range(lines):
                file.readline(LONGEST_HEADER)
            length = 0
            for n in unpack(file):
                length += n
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


def _gunzipped(file: IO[bytes]) -> Iterator[int]:
    with gzip.open(file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield len(block)


def _bunzipped(file: IO[bytes]) -> Iterator[int]:
    with bz2.open(file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield len(block)


def _inflated(file: IO[bytes]) -> Iterator[int]:
    """zlib, or gzip, which MetaIO reads too"""
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    while not unpack.eof:
        block = unpack.unconsumed_tail or file.read(BLOCK)
        made = len(unpack.decompress(block, BLOCK))
        if not block and not made and not unpack.eof:
            raise EOFError
        yield made
