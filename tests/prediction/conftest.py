"""A model in nnU-Net's folder and in a zip, made in a second; and scans of a packaged case in several forms."""

from __future__ import annotations

import json
import locale
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.export.small_model import HIPPOCAMPUS, IMAGE, LABELS, plans, write_model

NAME = "nnUNetTrainerUMambaBotNoMamba__nnUNetPlans__3d_fullres"
PATCH = [40, 56, 40]
"""Holds a whole case: one window."""
UNSEEN = HIPPOCAMPUS / "imagesTs" / "hippocampus_173.nii.gz"


def write_small_model(folder: Path, labels=LABELS, folds=("0", "1"), patch=PATCH, **changes) -> Path:
    """Of random weights, other ones in the second fold, with the fingerprint of two cases"""
    content = plans(patch_size=patch, **changes)
    write_model(folder, content, labels, "nnUNetTrainerUMambaBotNoMamba", folds, (0,))
    for fold in folds[1:]:
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        checkpoint = torch.load(path, weights_only=False)
        generator = torch.Generator().manual_seed(1)
        for weights in checkpoint["network_weights"].values():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
        torch.save(checkpoint, path)
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint()))
    return folder


def fingerprint() -> dict:
    """As nnU-Net writes it, of the packaged case, and of one twice as large"""
    image = sitk.ReadImage(str(IMAGE))
    voxels = sitk.GetArrayFromImage(image)
    low, middle, high = (float(v) for v in np.percentile(voxels, (20, 50, 99)))
    numbers = {"max": float(voxels.max()), "mean": middle, "median": middle, "min": float(voxels.min()),
               "percentile_00_5": low, "percentile_99_5": high, "std": 1.0}  # fmt: skip
    return {
        "foreground_intensity_properties_per_channel": {"0": numbers},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [list(voxels.shape), [2 * n for n in voxels.shape]],
        "spacings": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
    }


def zipped(folder: Path, target: Path) -> Path:
    """As nnUNetv2_export_model_to_zip packs it: below the data set's folder"""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, Path("Dataset004_Hippocampus") / folder.name / path.relative_to(folder))
    return target


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / NAME)


@pytest.fixture(scope="session")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zipped(model, tmp_path_factory.mktemp("zip") / "model.zip")


def write_dicom(image: sitk.Image, folder: Path, number: str = "3", description: str = "T1", first: int = 1) -> Path:
    """A series of an image: one file per slice, with unlike names, in no order"""
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.Cast(sitk.DICOMOrient(image, "LPS"), sitk.sitkInt16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)
    direction = image.GetDirection()
    cosines = [direction[i] for i in (0, 3, 6, 1, 4, 7)]
    for z in range(image.GetDepth()):
        one = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        for tag, value in {
            "0008|0060": "MR", "0008|0016": "1.2.840.10008.5.1.4.1.1.4", "0008|0018": f"1.2.826.0.1.{number}.{z + 1}",
            "0020|000d": "1.2.826.0.1.1", "0020|000e": f"1.2.826.0.1.2.{number}", "0020|0011": number,
            "0008|103e": description, "0020|0013": str(z + first), "0010|0010": "Nobody",
            "0020|0032": "\\".join(f"{p:.6f}" for p in position),
            "0020|0037": "\\".join(f"{c:.6f}" for c in cosines),
        }.items():  # fmt: skip
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}_{(z * 7919) % 1009:04d}.dcm"))
        writer.Execute(one)
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves "C", and other tests would read files as ASCII
    return folder
