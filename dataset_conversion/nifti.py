"""NIfTI files and pairs (.hdr and .img), read by their content, not their name, to the checksum of compressed ones."""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.nifti1 import xform_codes
from nibabel.quaternions import mat2quat
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from dataset_conversion.grid import (
    FORMS,
    MOST_VOXELS,
    RAS_TO_LPS,
    SAME,
    SQUARE,
    UnreadableError,
    Volume,
    geometry,
    perpendicular,
)

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it mends in silence is refused or told here

GZIP = b"\x1f\x8b"
HALF = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)
"""End of the name of one of the two files of a pair"""
UNITS = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
"""Of coordinates, by code in the header, and mm in one; all other codes mean mm to SimpleITK, and so to nnU-Net."""
DAMAGED = "damaged: its compressed data or their checksum are wrong"
SINGLE = (352, 544)
"""Bytes before the voxels of a single file at least, NIfTI-1 and NIfTI-2"""
SPACING = 1e-5
"""Relative difference of voxel sizes that nnU-Net takes for the same."""

LEAST_SLOPE = 2.0**-52
"""Nearer to 0 a slope is none to SimpleITK, and one to nibabel."""
SCANNER = 1
"""sform_code of the scanner's own coordinates"""
ROUNDING = 2.0**-22
"""Of the three numbers of a rotation that a NIfTI file stores as float32"""
FIRST_LOST = 1e-3
"""Up to which the fourth is lost in their rounding"""


def first_bytes(path: Path, count: int = 544) -> bytes:
    """Of the content, unpacked if it is packed; empty if it cannot be"""
    with path.open("rb") as file:
        start = file.read(count)
    if start[:2] != GZIP:
        return start
    try:
        with gzip.open(path) as file:
            return file.read(count)
    except (OSError, EOFError, zlib.error):
        return b""


def is_nifti(start: bytes) -> bool:
    """Whether a file that starts so is one"""
    return len(start) >= 348 and any(int.from_bytes(start[:4], order) in (348, 540) for order in ("little", "big"))


def pair_of(path: Path) -> tuple[Path, Path] | None:
    """Header and voxels of a pair (NIfTI or Analyze) that is named by either of them; None if there are not both."""
    half = HALF.search(path.name)
    if half is None:
        return None
    is_header = half[1].lower() == "hdr"
    other = ("img" if is_header else "hdr") if half[1].islower() else ("IMG" if is_header else "HDR")
    for ending in (half[2] or "", "" if half[2] else ".gz"):
        beside = path.with_name(f"{path.name[: half.start()]}.{other}{ending}")
        if beside.is_file():
            return (path, beside) if is_header else (beside, path)
    return None


def magic_of(start: bytes) -> bytes:
    """What a header says of its voxels: n+1 or n+2 (in the same file), ni1 or ni2 (in another); all else is Analyze."""
    if not is_nifti(start):
        return b""
    return start[4:7] if _version(start)[0] else start[344:347]


def _version(start: bytes) -> tuple[bool, str]:
    """Whether it is NIfTI-2, and numpy's letter for its byte order"""
    little, big = (int.from_bytes(start[:4], order) for order in ("little", "big"))
    return 540 in (little, big), "<" if little in (348, 540) else ">"


def vox_offset(start: bytes) -> float:
    """Where a header, of NIfTI or Analyze, says that the voxels begin"""
    two, order = _version(start)
    return float(np.frombuffer(start, *((f"{order}i8", 1, 168) if two else (f"{order}f4", 1, 108)))[0])


def _what_else(start: bytes) -> str:
    """What a file that should be a NIfTI looks like"""
    head = start.lstrip()[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: the file itself was never downloaded"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "an HTML or XML page: the download gave a web page"
    if start.startswith(b"PK"):
        return "a ZIP archive: unpack it"
    if start.startswith(b"NRRD"):
        return "an NRRD file under another name"
    if not start:
        return "empty or cut off"
    if all(32 <= byte < 127 or byte in (9, 10, 13) for byte in start[:64]):
        return f"text: {start[:40].decode('ascii').strip()!r}"
    return "something else"


@contextmanager
def _content(path: Path) -> Iterator[tuple[Any, bool]]:
    """The unpacked content, and whether it was packed"""
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP
        raw.seek(0)
        if packed:
            with gzip.open(raw) as unpacked:
                yield unpacked, True
        else:
            yield raw, False


def read_nifti(
    path: Path, start: bytes, prefer: str | None, fix_shear: bool, stacked: bool, header: Path | None = None
) -> tuple[Volume, ...]:
    """A file's volume; stacked: or those along its fourth axis. Of a pair `path` holds the voxels, `header` the header,
    which begins with `start`. Raises UnreadableError."""
    if not is_nifti(start):
        raise UnreadableError(path, f"not a NIfTI file; it looks like {_what_else(start)}")
    two, _ = _version(start)
    sizes = _check_start(path, start, 0 if header is not None else SINGLE[two])
    image, array, packed = _voxels(path, header, two)
    repairs: list[str] = []
    _tell_codes(path, start, repairs)
    if packed != path.name.endswith(".gz"):
        repairs.append(f"{path.name} is {'' if packed else 'not '}compressed, unlike its name says")
    if array.ndim > 3 and all(n == 1 for n in array.shape[3:]):
        array = array.reshape(array.shape[:3])
        repairs.append(f"{path.name} has axes of length 1 after the third; they are dropped")
    if array.ndim not in ((3, 4) if stacked else (3,)) or 0 in array.shape:
        raise UnreadableError(path, f"shape {image.shape}; expected three axes")
    shape = array.shape[:3]
    affine = _affine(path, image.header, shape, prefer, repairs)
    _tell_sizes(path, affine, sizes, repairs)
    affine = _in_mm(path, image.header, affine, repairs)
    affine = perpendicular(path, affine, fix_shear, repairs)
    grid = geometry(shape, RAS_TO_LPS @ affine)
    if stacked and array.ndim > 3:
        return tuple(Volume(channel.T, grid, tuple(repairs)) for channel in np.moveaxis(array, -1, 0))
    scaled = image.header.get_slope_inter() not in ((None, None), (1.0, 0.0), (1.0, None))
    copyable = not repairs and packed and path.name.endswith(".nii.gz") and not scaled and image.ndim == 3
    return (Volume(array.T, grid, tuple(repairs), copyable),)


def _check_start(path: Path, start: bytes, first: int) -> np.ndarray:
    """A header's voxel sizes as they are stored. Raises UnreadableError for those, and for what readers differ in: an
    intercept without a slope, voxels before byte `first`."""
    two, order = _version(start)
    # before nibabel puts 1 in the place of 0
    sizes = np.frombuffer(start, f"{order}f8", 3, 112) if two else np.frombuffer(start, f"{order}f4", 3, 80)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise UnreadableError(path, f"voxel size {' x '.join(f'{s:g}' for s in sizes)} mm")
    offset = vox_offset(start)
    if not offset >= first:
        raise UnreadableError(
            path,
            f"vox_offset {offset:g}: its voxels would begin in its header; expected {first} or more, mostly {first}",
        )
    slope, inter = np.frombuffer(start, f"{order}f8", 2, 176) if two else np.frombuffer(start, f"{order}f4", 2, 112)
    if (slope == 0 or not np.isfinite(slope)) and np.isfinite(inter) and inter != 0:
        raise UnreadableError(
            path,
            f"scl_slope {slope:g} with scl_inter {inter:g}: by the NIfTI standard neither counts, SimpleITK and so "
            "nnU-Net add the second; set scl_inter to 0 or scl_slope to 1, as is right",
        )
    if 0 < abs(slope) < LEAST_SLOPE:
        raise UnreadableError(path, f"scl_slope {slope:g}: so near to 0 that SimpleITK and so nnU-Net take 1 for it")
    header = _stored(start)
    if header["qform_code"] > 0 and -1 != header["pixdim"][0] < 0:
        raise UnreadableError(path, f"pixdim[0] {header['pixdim'][0]:g}: neither 1 nor -1; some readers take -1 for it")
    return sizes


def _stored(start: bytes) -> Any:
    """A header as it is, before nibabel mends it"""
    two, order = _version(start)
    kind: Any = nibabel.Nifti2Header if two else nibabel.Nifti1Header
    return kind(start[: kind.sizeof_hdr], endianness=order, check=False)


def _tell_codes(path: Path, start: bytes, repairs: list[str]) -> None:
    """Forms that nibabel leaves out for their code, and SimpleITK takes"""
    for name in ("sform", "qform"):
        code = int(_stored(start)[f"{name}_code"])
        if code > max(xform_codes.value_set()):
            repairs.append(f"{path.name}: {name}_code {code} is unknown; its {name} is not used")


def contradictions(path: Path) -> list[str]:
    """What a NIfTI file's header says twice and differently, so that readers take it for different things; nothing of
    other files, and of headers without meaning."""
    start = first_bytes(path)
    if not is_nifti(start):
        return []
    header = _stored(start)
    found: list[str] = []
    try:
        shape = tuple(int(n) for n in header.get_data_shape()[:3])
        if len(shape) < 3 or not (header["sform_code"] or header["qform_code"]):
            return []
        sizes = _check_start(path, start, SINGLE[_version(start)[0]])
        _tell_codes(path, start, found)
        _tell_sizes(path, _affine(path, header, shape, None, found), sizes, found)
    except UnreadableError as error:
        found.append(str(error))
    except (HeaderDataError, ValueError):
        return []
    # what is wrong stands before the first semicolon; after it what a conversion does about it
    return [text.removeprefix(f"{path}: ").removeprefix(f"{path.name}: ").partition("; ")[0] for text in found]


def check_length(path: Path, voxels: int, offset: float) -> None:
    """Reads a file to its checksum. Raises UnreadableError if it is damaged, or there are fewer bytes of voxels after
    `offset`."""
    there = -offset
    try:
        with _content(path) as (file, _):
            while block := file.read(2**20):
                there += len(block)
    except EOFError:
        pass
    except (zlib.error, gzip.BadGzipFile):
        raise UnreadableError(path, DAMAGED) from None
    if not there >= voxels:
        raise UnreadableError(path, f"cut off: {there:.0f} of {voxels} bytes of voxels are there")


def _voxels(path: Path, header: Path | None, two: bool) -> tuple[Any, np.ndarray, bool]:
    """nibabel's image, its voxels, and whether they were packed"""
    single, pair = (nibabel.Nifti2Image, nibabel.Nifti2Pair) if two else (nibabel.Nifti1Image, nibabel.Nifti1Pair)
    try:
        with ExitStack() as opened:
            file, packed = opened.enter_context(_content(path))
            files = {"image": FileHolder(fileobj=file)}
            if header is not None:
                files["header"] = FileHolder(fileobj=opened.enter_context(_content(header))[0])
            image: Any = (single if header is None else pair).from_file_map(files)
            if np.prod([int(n) for n in image.shape], dtype=np.float64) > MOST_VOXELS:
                raise UnreadableError(path, f"its header says {image.shape} voxels")
            stored = np.dtype(image.get_data_dtype())
            if stored.fields or stored.kind not in "iufb":
                raise UnreadableError(path, f"voxels of type {stored}; expected one number per voxel")
            array = np.asanyarray(image.dataobj)
            while packed and file.read(2**20):  # to the end: its checksum is there
                pass
            return image, array, packed
    except UnreadableError:
        raise
    except EOFError:
        raise UnreadableError(path, "cut off: the compressed data end too early") from None
    except (zlib.error, gzip.BadGzipFile):
        raise UnreadableError(path, DAMAGED) from None
    except (
        HeaderDataError, ImageDataError, WrapStructError, OSError, ValueError, OverflowError, MemoryError, TypeError,
        IndexError, KeyError, ImageFileError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableError(path, f"damaged or cut off NIfTI file: {reason}") from None


def _affine(path: Path, header: Any, shape: tuple[int, ...], prefer: str | None, repairs: list[str]) -> np.ndarray:
    """Voxel to the header's unit (RAS): sform and qform, if both are there, must agree"""
    try:
        with np.errstate(all="ignore"):
            forms = {
                name: form
                for name, (form, code) in (("sform", header.get_sform(True)), ("qform", header.get_qform(True)))
                if code and form is not None
            }
    except (HeaderDataError, ValueError) as error:
        raise UnreadableError(path, f"unusable geometry: {str(error).splitlines()[0]}") from None
    for name, form in list(forms.items()):
        columns = np.linalg.norm(form[:3, :3], axis=0)
        if not (np.isfinite(form).all() and (columns > 1e-6).all() and abs(np.linalg.det(form[:3, :3])) > 1e-12):
            if len(forms) == 1:
                raise UnreadableError(path, f"unusable geometry: its {name} is singular or not finite")
            del forms[name]
            repairs.append(f"{path.name}: its {name} is singular or not finite; the other form is used")
    if not forms:
        raise UnreadableError(path, "no geometry: neither sform nor qform is set")
    if len(forms) == 2:
        by_qform = geometry(shape, forms["qform"])
        if _differs_by_rounding(header, forms["sform"], forms["qform"]):
            return forms["sform"]
        apart = geometry(shape, forms["sform"]).distance(by_qform)
        allowed = min(FORMS, float(by_qform.spacing.min()) / 2)
        if apart > allowed and prefer is None:
            raise UnreadableError(
                path,
                f"sform and qform disagree by up to {apart:.3g} mm, and readers differ in which they use; decide with "
                "--prefer sform or --prefer qform",
            )
        if apart > allowed:
            repairs.append(f"{path.name}: sform and qform disagree by {apart:.3g} mm; {prefer} used")
            return forms[prefer]  # type: ignore[index]
        # nearly the same: the one that SimpleITK, and so nnU-Net, reads in a copy (sform of code 1, else the qform)
        return forms["sform" if int(header["sform_code"]) == SCANNER else "qform"]
    return next(iter(forms.values()))


def _differs_by_rounding(header: Any, sform: np.ndarray, qform: np.ndarray) -> bool:
    """Whether the qform is the sform as far as it can be. Of the four numbers of its rotation the first is not stored,
    and is lost in the rounding of the others where it is near 0: oblique axes near left-posterior-superior, as
    SimpleITK and dcm2niix write them, come back turned by up to 0.1 degrees."""
    columns = np.linalg.norm(sform[:3, :3], axis=0)
    axes = sform[:3, :3] / columns
    axes[:, 2] *= -1 if header["pixdim"][0] < 0 else 1
    if np.abs(axes.T @ axes - np.eye(3)).max() > SQUARE or np.linalg.det(axes) < 0:
        return False
    if not np.allclose(columns, header["pixdim"][1:4], rtol=SPACING, atol=0):
        return False
    if np.abs(sform[:3, 3] - qform[:3, 3]).max() > min(SAME, columns.min() / 100):
        return False
    first, *others = mat2quat(axes)
    stored = [float(header[f"quatern_{name}"]) for name in "bcd"]
    signs = (1, -1) if abs(first) < FIRST_LOST else (1,)
    return any(np.abs(np.multiply(sign, others) - stored).max() <= ROUNDING for sign in signs)


def _tell_sizes(path: Path, affine: np.ndarray, sizes: np.ndarray, repairs: list[str]) -> None:
    """A file whose field of voxel sizes differs from the map is read differently by different programs, so it must not
    be copied."""
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(columns, sizes, rtol=SPACING, atol=0):
        told = [" x ".join(f"{s:g}" for s in values) for values in (columns, sizes)]
        repairs.append(f"{path.name}: voxels of {told[0]} by its sform, of {told[1]} by pixdim; its sform is used")


def _in_mm(path: Path, header: Any, affine: np.ndarray, repairs: list[str]) -> np.ndarray:
    """The map in mm. A file whose unit is another must not be copied: not all programs know units."""
    unit, mm = UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    if unit == "mm":
        return affine
    repairs.append(f"{path.name}: its coordinates are in {unit}; written in mm")
    return np.diag([mm, mm, mm, 1.0]) @ affine
