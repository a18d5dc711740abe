"""Small downloads, and the ways in which real ones are broken."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from dataset_conversion import asoca, brats
from dataset_conversion.declare import Found
from dataset_conversion.examples import case_name, make_asoca, make_brats

SIZE = (16, 20, 12)
BRATS_SIZE = (24, 28, 20)


def asoca_tree(root: Path) -> Path:
    make_asoca(root, (2, 2), (1, 1), SIZE, seed=3)
    return root


def brats_tree(root: Path, year: int = 2021, n: int = 3) -> Path:
    folder = root / "BraTS2021_Training_Data" if year == 2021 else root / "data"
    for k in range(n):
        make_brats(folder, year, case_name(year, k), seed=k, size=BRATS_SIZE)
    return root


def find_asoca(root: Path, **options: object) -> Found:
    return asoca.discover(root, options)


def find_brats(root: Path, **options: object) -> Found:
    return brats.discover(root, options)


def hashes(folder: Path) -> dict[str, str]:
    """Of every file, hidden ones included"""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def edit_nifti(path: Path, change: Callable[[np.ndarray, nibabel.Nifti1Header], np.ndarray]) -> None:
    """Change voxels (x y z) and header; sform and qform of the header are kept as the change leaves them."""
    image = nibabel.load(path)
    header = image.header.copy()
    array = change(np.asanyarray(image.dataobj).copy(), header)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    made = nibabel.Nifti1Image(array, None, header)
    nibabel.save(made, path)


def edit_nrrd(path: Path, change: Callable[[sitk.Image], sitk.Image]) -> None:
    sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path), useCompression=True)


def edit_nrrd_header(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    head, _, data = content.partition(b"\n\n")
    assert old in head, head
    path.write_bytes(head.replace(old, new) + b"\n\n" + data)


def unpack(path: Path) -> None:
    """Plain content under the name of a compressed file"""
    path.write_bytes(gzip.decompress(path.read_bytes()))
