"""Where voxels lie in space, and a volume: voxels and their grid.

Coordinates are left-posterior-superior as in SimpleITK, arrays z y x.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

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

    @property
    def same(self) -> float:
        """mm that another grid may be off and still be this one: SAME, less where voxels are small"""
        return min(SAME, float(self.spacing.min()) / 100)

    def corners(self) -> np.ndarray:
        """Positions of the grid's corners (8 3), mm"""
        index = np.array(list(itertools.product(*((0, n - 1) for n in self.shape))))
        return index @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def distance(self, other: Geometry) -> float:
        """Largest distance of corresponding corners, mm. Both have the same shape."""
        return float(np.abs(np.linalg.norm(self.corners() - other.corners(), axis=1)).max())


def geometry(shape: Sequence[int], affine: np.ndarray) -> Geometry:
    """A grid from its size and the map from voxels to mm"""
    return Geometry(tuple(int(n) for n in shape), tuple(tuple(float(v) for v in row) for row in affine))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Volume:
    """A file's voxels (z y x) and grid. repairs: what had to be repaired; copyable: nothing was, and it is .nii.gz."""

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


def perpendicular(path: Path, affine: np.ndarray, fix_shear: bool, repairs: list[str]) -> np.ndarray:
    """The map with perpendicular axes, which nnU-Net's reader needs. Raises UnreadableError for a sheared one that
    may not be repaired."""
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
