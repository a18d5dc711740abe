"""Small downloads, and the ways in which real ones are broken."""

from __future__ import annotations

import gzip
import hashlib
import json
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


DESCRIPTION = {
    "name": "Trial",
    "id": 530,
    "images": {"CT": "images/{case}.nii.gz"},
    "label": "labels/{case}.nii.gz",
    "labels": {"background": 0, "tumour": 1},
}


def described(folder: Path, **change: object) -> Path:
    """A description for `convert generic`; keys that are None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "description.json"
    path.write_text(json.dumps({k: v for k, v in {**DESCRIPTION, **change}.items() if v is not None}))
    return path


def nifti(path: Path, array: np.ndarray, change: Callable[[nibabel.Nifti1Header], None] | None = None) -> Path:
    """x y z voxels of 0.5 x 0.7 x 1.3 mm, both forms set, before `change` edits the header as it is stored"""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([0.5, 0.7, 1.3, 1.0])
    affine[:3, 3] = 3, -4, 5
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_sform(affine, 1)
    image.header.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    if change is not None:
        stored = nibabel.Nifti1Header(bytes(content[:348]))
        change(stored)
        content[:348] = stored.binaryblock
    path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if path.name.endswith(".gz") else bytes(content))
    return path


def volumes(seed: int, shape: tuple[int, int, int] = (6, 7, 8), most: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Image (int16) and label (uint8), x y z"""
    random = np.random.default_rng(seed)
    return random.integers(-1000, 1000, shape).astype(np.int16), random.integers(0, most + 1, shape).astype(np.uint8)


def generic_tree(
    root: Path, n: int = 3, change: Callable[[nibabel.Nifti1Header], None] | None = None, kind: type = np.int16
) -> Path:
    """A download as DESCRIPTION says; images of voxel type `kind`, header of images and labels changed"""
    for k in range(n):
        image, label = volumes(k)
        nifti(root / "images" / f"c{k}.nii.gz", image.astype(kind), change)
        nifti(root / "labels" / f"c{k}.nii.gz", label, change)
    return root
