"""Writing a volume, and reading it back by another library before it counts."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.grid import FORMS, Geometry, geometry

HEADER = 352
"""Bytes before the voxels in a NIfTI file"""
SPACING = 1e-5
"""Relative difference of voxel sizes that nnU-Net takes for the same"""


def write(path: Path, array: np.ndarray, grid: Geometry) -> None:
    """Write z y x voxels as compressed NIfTI. Raises OSError when that fails (a full disk, for example)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(s) for s in grid.spacing])
    image.SetDirection([float(d) for d in grid.direction.ravel()])
    image.SetOrigin([float(o) for o in grid.matrix[:3, 3]])
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"{path}: cannot be written: {_last_line(error)}") from None
    # on a full disk SimpleITK writes what fits and says nothing; a whole file ends with the length of its content
    with path.open("rb") as file:
        file.seek(-4, 2) if path.stat().st_size > 4 else None
        if int.from_bytes(file.read(4), "little") != (HEADER + array.nbytes) % 2**32:
            raise OSError(errno.ENOSPC, "not written whole; is the disk full?", str(path))


def write_checked(path: Path, array: np.ndarray, grid: Geometry) -> None:
    """As `write`. Raises OSError too if what is then there is not what was meant."""
    write(path, array, grid)
    wrong = differs(path, array, grid)
    if wrong is not None:
        raise OSError(errno.EIO, f"written, but read back: {wrong}; is the disk sound?", str(path))


def differs(path: Path, array: np.ndarray, grid: Geometry) -> str | None:
    """What SimpleITK, with which nnU-Net reads, finds in a file that is not as meant; None if all is."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        return f"cannot be read: {_last_line(error)}"
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.shape != array.shape:
        return f"{voxels.shape} voxels, not {array.shape}"
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    read = geometry(voxels.shape[::-1], affine)
    if not np.allclose(read.spacing, grid.spacing, rtol=SPACING, atol=0):
        return f"voxels of {_sizes(read)} mm, not {_sizes(grid)}"
    apart = read.distance(grid)
    if not apart <= min(FORMS, float(grid.spacing.min()) / 2):
        return f"up to {apart:.3g} mm elsewhere"
    if not np.array_equal(voxels, array):
        return "other voxels"
    return None


def _sizes(grid: Geometry) -> str:
    return " x ".join(f"{s:g}" for s in grid.spacing)


def _last_line(error: RuntimeError) -> str:
    """SimpleITK tells where in its code first, and then what"""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else str(error)
