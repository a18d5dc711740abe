"""One file: what it really holds, where it lies in space, and what is wrong with it.

NIfTI files are read by their content, not by their name; all others by SimpleITK. Coordinates are
left-posterior-superior as in SimpleITK, arrays z y x.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import itertools
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it mends in silence is refused or told here

GZIP = b"\x1f\x8b"
SAME = 1e-3
"""mm between corners of two grids that count as the same."""
FORMS = 0.1
"""mm between corners by sform and by qform that count as agreement: both are stored as float32."""
SMALL_SHEAR = 1.0
"""Degrees that axes may be off a right angle for a repair."""
SQUARE = 1e-4
"""Off-diagonal cosines up to which axes count as perpendicular."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MOST_VOXELS = 2**33
HEADER = 352
"""Bytes before the voxels in a NIfTI file"""


class UnreadableError(Exception):
    """A file that cannot be used; the message says why and begins with its path."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True)
class Geometry:
    """Grid of a volume: voxels along x y z, and the 4x4 map from voxel index to mm (left-posterior-superior)."""

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @property
    def matrix(self) -> np.ndarray:
        return np.array(self.affine)

    @property
    def spacing(self) -> np.ndarray:
        return np.linalg.norm(self.matrix[:3, :3], axis=0)

    @property
    def direction(self) -> np.ndarray:
        return self.matrix[:3, :3] / self.spacing

    @property
    def orientation(self) -> str:
        """Where the axes point to, in nibabel's letters (of RAS coordinates)"""
        codes = nibabel.orientations.aff2axcodes(RAS_TO_LPS @ self.matrix)
        return "".join(c or "?" for c in codes)

    def corners(self) -> np.ndarray:
        """Positions of the grid's corners (8 3), mm"""
        index = np.array(list(itertools.product(*((0, n - 1) for n in self.shape))))
        return index @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def distance(self, other: Geometry) -> float:
        """Largest distance of corresponding corners, mm. Both have the same shape."""
        return float(np.abs(np.linalg.norm(self.corners() - other.corners(), axis=1)).max())


def geometry(shape: tuple[int, ...], affine: np.ndarray) -> Geometry:
    """A grid from its size and the map from voxels to mm"""
    return Geometry(tuple(int(n) for n in shape), tuple(tuple(float(v) for v in row) for row in affine))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Volume:
    """A file's voxels (z y x) and grid. repairs: what had to be mended; copyable: nothing was, and it is .nii.gz."""

    array: np.ndarray
    geometry: Geometry
    repairs: tuple[str, ...] = ()
    copyable: bool = False

    def digest(self) -> str:
        """Of the voxels, whatever the file's form"""
        whole = np.ascontiguousarray(self.array)
        digest = hashlib.sha256(repr((whole.shape, whole.dtype.str)).encode())
        digest.update(whole.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def read(path: Path, prefer: str | None = None, fix_shear: bool = False) -> Volume:
    """Read a volume. prefer: "sform" or "qform" where a NIfTI's two geometries disagree; fix_shear: make slightly
    sheared axes perpendicular. Raises UnreadableError."""
    if path.is_dir():
        raise UnreadableError(path, "a folder, and not one that holds a single NIfTI file")
    try:
        start = _first_bytes(path)
        if _is_nifti(start) or path.name.lower().endswith((".nii", ".nii.gz")):
            return _read_nifti(path, start, prefer, fix_shear)
        return _read_other(path)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None


def _first_bytes(path: Path, count: int = 544) -> bytes:
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


def _is_nifti(start: bytes) -> bool:
    return len(start) >= 348 and any(int.from_bytes(start[:4], order) in (348, 540) for order in ("little", "big"))


def _version(start: bytes) -> tuple[bool, str]:
    """Whether it is NIfTI-2, and numpy's letter for its byte order"""
    little, big = (int.from_bytes(start[:4], order) for order in ("little", "big"))
    return 540 in (little, big), "<" if little in (348, 540) else ">"


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


def _read_nifti(path: Path, start: bytes, prefer: str | None, fix_shear: bool) -> Volume:
    if not _is_nifti(start):
        raise UnreadableError(path, f"not a NIfTI file; it looks like {_what_else(start)}")
    two, order = _version(start)
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    # before nibabel puts 1 in the place of 0
    sizes = np.frombuffer(start, f"{order}f8", 3, 112) if two else np.frombuffer(start, f"{order}f4", 3, 80)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise UnreadableError(path, f"voxel size {' x '.join(f'{s:g}' for s in sizes)} mm")
    repairs: list[str] = []
    try:
        with _content(path) as (file, packed):
            image = kind.from_stream(file)
            if np.prod([int(n) for n in image.shape], dtype=np.float64) > MOST_VOXELS:
                raise UnreadableError(path, f"its header says {image.shape} voxels")
            stored = np.dtype(image.get_data_dtype())
            if stored.fields or stored.kind not in "iufb":
                raise UnreadableError(path, f"voxels of type {stored}; expected one number per voxel")
            array = np.asanyarray(image.dataobj)
            while packed and file.read(2**20):  # to the end: its checksum is there
                pass
    except UnreadableError:
        raise
    except EOFError:
        raise UnreadableError(path, "cut off: the compressed data end too early") from None
    except (zlib.error, gzip.BadGzipFile):
        raise UnreadableError(path, "damaged: its compressed data or their checksum are wrong") from None
    except (
        HeaderDataError, ImageDataError, WrapStructError, OSError, ValueError, OverflowError, MemoryError, TypeError,
        IndexError, KeyError, ImageFileError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableError(path, f"damaged or cut off NIfTI file: {reason}") from None
    if packed != path.name.endswith(".gz"):
        repairs.append(f"{path.name} is {'' if packed else 'not '}compressed, unlike its name says")
    if array.ndim > 3 and all(n == 1 for n in array.shape[3:]):
        array = array.reshape(array.shape[:3])
        repairs.append(f"{path.name} has axes of length 1 after the third; they are dropped")
    if array.ndim != 3 or 0 in array.shape:
        raise UnreadableError(path, f"shape {image.shape}; expected three axes")
    affine = _affine(path, image, array.shape, prefer, repairs)
    affine = _square(path, affine, fix_shear, repairs)
    form = image.header
    scaled = form.get_slope_inter() not in ((None, None), (1.0, 0.0), (1.0, None))
    copyable = not repairs and packed and path.name.endswith(".nii.gz") and not scaled and image.ndim == 3
    return Volume(array.T, geometry(array.shape, RAS_TO_LPS @ affine), tuple(repairs), copyable)


def _affine(path: Path, image: Any, shape: tuple[int, ...], prefer: str | None, repairs: list[str]) -> np.ndarray:
    """Voxel to mm (RAS): sform and qform, if both are there, must agree"""
    header = image.header
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
        apart = geometry(shape, forms["sform"]).distance(geometry(shape, forms["qform"]))
        if apart > FORMS and prefer is None:
            raise UnreadableError(
                path,
                f"sform and qform disagree by up to {apart:.3g} mm, and readers differ in which they use; decide with "
                "--prefer sform or --prefer qform",
            )
        if apart > FORMS:
            repairs.append(f"{path.name}: sform and qform disagree by {apart:.3g} mm; {prefer} used")
            return forms[prefer]  # type: ignore[index]
        return forms["qform"]  # as SimpleITK, and so nnU-Net, reads it
    return next(iter(forms.values()))


def _square(path: Path, affine: np.ndarray, fix_shear: bool, repairs: list[str]) -> np.ndarray:
    """Perpendicular axes, which nnU-Net's reader needs"""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine <= SQUARE:
        return affine
    angle = float(np.degrees(np.arcsin(min(1.0, cosine))))
    if not fix_shear or angle > SMALL_SHEAR:
        hint = f"; --fix-shear makes up to {SMALL_SHEAR:g} degree perpendicular" if angle <= SMALL_SHEAR else ""
        raise UnreadableError(path, f"sheared: its axes are {angle:.2g} degrees off a right angle{hint}")
    u, _, v = np.linalg.svd(axes)
    squared = affine.copy()
    squared[:3, :3] = (u @ v) * spacing
    repairs.append(f"{path.name}: sheared by {angle:.2g} degrees, made perpendicular")
    return squared


def _read_other(path: Path) -> Volume:
    """Any format of SimpleITK; NRRD files that it refuses are read by pynrrd."""
    repairs: list[str] = []
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if np.prod([float(n) for n in size]) > MOST_VOXELS:
            raise UnreadableError(path, f"its header says {size} voxels")
        image = reader.Execute()
        array = sitk.GetArrayFromImage(image)
        spacing = np.array(image.GetSpacing())
        direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
        origin, components = np.array(image.GetOrigin()), image.GetNumberOfComponentsPerPixel()
        shape = image.GetSize()
    except RuntimeError as error:
        if path.suffix.lower() not in (".nrrd", ".nhdr"):
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UnreadableError(path, f"SimpleITK cannot read it: {lines[-1].strip() if lines else ''}") from None
        array, direction, spacing, origin = _read_nrrd(path)
        shape, components = array.shape[::-1], 1
        repairs.append(f"{path.name}: SimpleITK refuses its header; read with pynrrd")
    if components != 1 or array.ndim != 3:
        raise UnreadableError(path, f"shape {shape}, {components} values per voxel; expected three axes, one value")
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UnreadableError(path, f"voxel size {' x '.join(f'{s:g}' for s in spacing)} mm")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    if not np.isfinite(affine).all():
        raise UnreadableError(path, "unusable geometry: not finite")
    return Volume(array, geometry(shape, affine), tuple(repairs))


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Array (z y x), direction (columns), spacing and origin in LPS"""
    import nrrd

    try:
        data, header = nrrd.read(str(path))
    except Exception as error:  # pynrrd raises whatever its parsing runs into
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableError(path, f"damaged NRRD file: {reason}") from None
    if data.ndim != 3:
        raise UnreadableError(path, f"shape {data.shape}; expected three axes")
    rows = header.get("space directions")
    if rows is None:
        raise UnreadableError(path, "no geometry: its header has no space directions")
    columns = np.array(rows, dtype=np.float64).T
    origin = np.array(header.get("space origin", np.zeros(3)), dtype=np.float64)
    spacing = np.linalg.norm(columns, axis=0)
    if columns.shape != (3, 3) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UnreadableError(path, f"voxel size {' x '.join(f'{s:g}' for s in np.atleast_1d(spacing))} mm")
    space = str(header.get("space", "left-posterior-superior")).lower()
    flips = {"left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1),
             "ras": (-1, -1, 1), "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1)}  # fmt: skip
    if space not in flips:
        raise UnreadableError(path, f"space {space!r} is not known")
    signs = np.array(flips[space], dtype=np.float64)
    return data.T, (columns / spacing) * signs[:, None], spacing, origin * signs


def write(path: Path, array: np.ndarray, grid: Geometry) -> None:
    """Write z y x voxels as compressed NIfTI. Raises OSError when that fails (a full disk, for example)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(s) for s in grid.spacing])
    image.SetDirection([float(d) for d in grid.direction.ravel()])
    image.SetOrigin([float(o) for o in grid.matrix[:3, 3]])
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise OSError(f"{path}: cannot be written: {lines[-1].strip() if lines else error}") from None
    # on a full disk SimpleITK writes what fits and says nothing; a whole file ends with the length of its content
    with path.open("rb") as file:
        file.seek(-4, 2) if path.stat().st_size > 4 else None
        if int.from_bytes(file.read(4), "little") != (HEADER + array.nbytes) % 2**32:
            raise OSError(errno.ENOSPC, "not written whole; is the disk full?", str(path))
