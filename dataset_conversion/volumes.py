"""One file: what it really holds, where it lies in space, and what is wrong with it.

NIfTI files are read by their content, not by their name; all others by SimpleITK.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.grid import MOST_VOXELS, UnreadableError, Volume, geometry, perpendicular
from dataset_conversion.nifti import check_length, first_bytes, is_nifti, magic_of, pair_of, read_nifti, vox_offset
from dataset_conversion.packed import check_voxels, is_meta, unpacked

GIPL_HEADER = 256
SINGULAR = 1e-6
"""Volume that unit vectors along the axes span, up to which they count as lying in one plane"""


def read(path: Path, prefer: str | None = None, fix_shear: bool = False) -> Volume:
    """Read a volume. prefer: "sform" or "qform" where a NIfTI's two geometries disagree; fix_shear: make slightly
    sheared axes perpendicular. Raises UnreadableError."""
    return _read(path, prefer, fix_shear, stacked=False)[0]


def read_stack(path: Path, prefer: str | None = None, fix_shear: bool = False) -> tuple[Volume, ...]:
    """As `read`, for a NIfTI whose fourth axis, if it has one, is the channel: one volume per channel."""
    return _read(path, prefer, fix_shear, stacked=True)


def _read(path: Path, prefer: str | None, fix_shear: bool, stacked: bool) -> tuple[Volume, ...]:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # SimpleITK would end the process
        raise UnreadableError(path, "its name is not UTF-8; rename it (convmv does so for whole folders)") from None
    if path.is_dir():
        raise UnreadableError(path, "a folder, and not one that holds a single NIfTI file")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UnreadableError(path, "no regular file")
    try:
        pair = pair_of(path)
        if pair is not None:
            return _read_pair(*pair, prefer, fix_shear, stacked)
        start = first_bytes(path)
        if is_nifti(start) or path.name.lower().endswith((".nii", ".nii.gz")):
            return read_nifti(path, start, prefer, fix_shear, stacked)
        return (_read_other(path, start, fix_shear),)
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None


def _read_pair(header: Path, path: Path, prefer: str | None, fix_shear: bool, stacked: bool) -> tuple[Volume, ...]:
    """NIfTI, or Analyze, whose voxels are in a file of their own"""
    start = first_bytes(header)
    magic = magic_of(start)
    if magic in (b"ni1", b"ni2"):
        return read_nifti(path, start, prefer, fix_shear, stacked, header)
    if magic in (b"n+1", b"n+2"):
        raise UnreadableError(
            header, f"says that its voxels follow in it (magic {magic.decode()}), next to {path.name}"
        )
    volume = _read_other(path, first_bytes(path), fix_shear)
    if is_nifti(start):  # so Analyze: SimpleITK puts 0 where it ends too early
        check_length(path, volume.array.nbytes, vox_offset(start))
    return (volume,)


def check_raw(path: Path, voxels: int) -> None:
    """Raises UnreadableError for a GIPL file that ends before its voxels do: SimpleITK reads something else there.
    voxels: how many bytes of them"""
    if path.name.lower().endswith((".gipl", ".gipl.gz")):
        check_length(path, voxels, GIPL_HEADER)


def _read_other(path: Path, start: bytes, fix_shear: bool) -> Volume:
    """Any format of SimpleITK; NRRD files that it refuses are read by pynrrd."""
    if start.startswith(b"# vtk"):
        raise UnreadableError(path, "a VTK file, which does not say where its axes point; save it as NRRD or NIfTI")
    repairs: list[str] = []
    checksum = unpacked(path, start) if is_meta(path) else None
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
        check_voxels(path, start, array, checksum)
        check_raw(path, array.nbytes)
    except RuntimeError as error:
        unpacked(path, start)
        if path.suffix.lower() not in (".nrrd", ".nhdr"):
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UnreadableError(path, f"SimpleITK cannot read it: {lines[-1].strip() if lines else ''}") from None
        array, direction, spacing, origin = _read_nrrd(path)
        shape, components = array.shape[::-1], 1
        repairs.append(f"{path.name}: SimpleITK refuses its header; read with pynrrd")
    if components != 1 or array.ndim != 3 or 0 in array.shape:
        raise UnreadableError(path, f"shape {shape}, {components} values per voxel; expected three axes, one value")
    if array.dtype.kind not in "iuf":
        raise UnreadableError(path, f"voxels of type {array.dtype}; expected one number per voxel")
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UnreadableError(path, f"voxel size {' x '.join(f'{s:g}' for s in spacing)} mm")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    if not np.isfinite(affine).all():
        raise UnreadableError(path, "unusable geometry: not finite")
    if not abs(np.linalg.det(direction)) > SINGULAR:
        raise UnreadableError(path, "unusable geometry: its axes lie in one plane")
    affine = perpendicular(path, affine, fix_shear, repairs)
    return Volume(array, geometry(array.shape[::-1], affine), tuple(repairs))


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
    if origin.shape != (3,):
        raise UnreadableError(path, f"its origin has {origin.size} numbers; expected three")
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
