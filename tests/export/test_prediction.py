"""The page's example, run as it stands on a real case, against nnU-Net's own prediction."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mamba.export.folder import export
from nnunet_mamba.names.networks import NETWORKS, Network
from tests.export.small_model import IMAGE, ITERATIONS, LABELS, NAME, REGIONS, plans, write_model

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export-to-onnx.md"
LEAST = 0.999
TIES = 3
"""Voxels of a small structure where two labels are alike: nnU-Net sums windows in half precision"""
LONGEST = 60
"""Lines of the example, blank ones not counted"""
ALLOWED_IMPORTS = {"itertools", "json", "math", "sys", "numpy as np", "onnxruntime", "SimpleITK as sitk"}


def _example() -> str:
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return code


def test_the_example_is_short_and_needs_little() -> None:
    code = _example()
    assert len([line for line in code.splitlines() if line.strip()]) <= LONGEST
    imports = re.findall(r"^import (.*)$|^from (\w+) import", code, re.M)
    assert {name for plain, _ in imports for name in plain.split(", ") if name} == ALLOWED_IMPORTS
    assert [package for _, package in imports if package] == ["scipy"]


def _predict_with_onnx(model: Path, image: Path, place: Path) -> np.ndarray:
    script, output = place / "predict_with_onnx.py", place / "labels.nii.gz"
    script.write_text(_example())
    done = subprocess.run(
        [sys.executable, str(script), str(model), str(output), str(image)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written, given = sitk.ReadImage(str(output)), sitk.ReadImage(str(image))
    assert written.GetSpacing() == given.GetSpacing()
    assert written.GetDirection() == given.GetDirection()
    return sitk.GetArrayFromImage(written)


def _predict_with_nnunet(model: Path, image: Path, folds: tuple[str, ...]) -> np.ndarray:
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    voxels, properties = SimpleITKIO().read_images([str(image)])
    labels: Any = predictor.predict_single_npy_array(voxels, properties)
    return labels


def _compare(folder: Path, image: Path, folds: tuple[str, ...], place: Path, ties: int = 0) -> None:
    export(folder, place / "onnx", folds)
    got, expected = _predict_with_onnx(place / "onnx", image, place), _predict_with_nnunet(folder, image, folds)
    assert got.shape == expected.shape
    for label in (1, 2):
        a, b = got == label, expected == label
        assert b.sum() > 100, "the network finds nothing: the test is void"
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= LEAST or (a ^ b).sum() <= ties


def test_windows_mirrored_on_a_resampled_image(tmp_path: Path) -> None:
    folder = write_model(tmp_path / NAME, mirroring=(1,), iterations=ITERATIONS)
    _compare(folder, IMAGE, ("0",), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("record", NETWORKS, ids=lambda r: r.name)
def test_every_network_on_a_real_case(record: Network, tmp_path: Path) -> None:
    content = plans()
    (planned,) = content["configurations"].values()
    if record.name == "LightMUNet":  # narrower, it amplifies rounding, in torch too
        planned["architecture"]["arch_kwargs"]["features_per_stage"] = [32, 32]
    name = f"{record.trainer}__nnUNetPlans__3d_fullres"
    folder = write_model(tmp_path / name, content, trainer=record.trainer, iterations=2 * ITERATIONS, mirroring=None)
    _compare(folder, IMAGE, ("0",), tmp_path, TIES)


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("members", "thresholds", "coarse slices")),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("regions", "2d", "mask", "ct", "transposed")),
    ],
)
def test_what_models_differ_in(kind: str, tmp_path: Path) -> None:
    content, image, labels = plans(2 if kind == "2d" else 3), IMAGE, LABELS
    (planned,) = content["configurations"].values()
    if kind in ("regions", "thresholds"):
        labels = REGIONS
    if kind == "thresholds":
        content["label_manager"] = "LabelManagerThresholds_300_600"
    if kind == "mask":
        planned["use_mask_for_norm"] = [True]
        image = _with_a_dark_border(tmp_path)
    if kind == "ct":
        planned["normalization_schemes"] = ["CTNormalization"]
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(IMAGE)))
        low, high = np.percentile(voxels, (0.5, 99.5))
        numbers = {"mean": voxels.mean(), "std": voxels.std(), "percentile_00_5": low, "percentile_99_5": high}
        content["foreground_intensity_properties_per_channel"] = {"0": {k: float(v) for k, v in numbers.items()}}
    if kind == "coarse slices":
        planned["spacing"] = [3.3, 1.1, 1.0]
        image = _with_spacing(tmp_path, (1.0, 1.0, 4.0))
    if kind == "transposed":
        content |= {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    folds = ("0", "1") if kind == "members" else ("0",)
    mirroring = (0, 1, 2) if kind == "members" else None
    length = (6 if kind == "2d" else 2) * ITERATIONS  # a slice shows less
    folder = write_model(tmp_path / NAME, content, labels, folds=folds, iterations=length, mirroring=mirroring)
    _compare(folder, image, folds, tmp_path)


def _with_spacing(place: Path, spacing: tuple[float, ...]) -> Path:
    image = sitk.ReadImage(str(IMAGE))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(place / "image.nii.gz"))
    return place / "image.nii.gz"


def _with_a_dark_border(place: Path) -> Path:
    image = sitk.ReadImage(str(IMAGE))
    voxels = sitk.GetArrayFromImage(image)
    for axis in range(3):
        np.moveaxis(voxels, axis, 0)[:3] = 0
    changed = sitk.GetImageFromArray(voxels)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(place / "image.nii.gz"))
    return place / "image.nii.gz"
