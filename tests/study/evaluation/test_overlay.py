"""The picture of a case: drawn for what comes out of a training, refused for what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunet_mamba.study.evaluation.overlay import draw_overlay


def _write(path: Path, voxels: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.5, 2.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return _write(tmp_path / "image.nii.gz", rng.normal(size=(12, 30, 20)).astype(np.float32))


def _mask(low: int, high: int) -> np.ndarray:
    mask = np.zeros((12, 30, 20), np.uint8)
    mask[3:9, low:high, 5:15] = 1
    mask[3:9, low + 4 : high, 5:8] = 2
    return mask


def test_prediction_and_truth_are_visible(image: Path, tmp_path: Path) -> None:
    truth, guess = _write(tmp_path / "t.nii.gz", _mask(5, 20)), _write(tmp_path / "p.nii.gz", _mask(9, 24))
    empty = _write(tmp_path / "e.nii.gz", np.zeros((12, 30, 20), np.uint8))
    pictures = []
    for name, a, b in (("both", truth, guess), ("no prediction", truth, empty), ("no truth", empty, guess)):
        draw_overlay(image, a, b, tmp_path / "out" / f"{name}.png")
        pictures.append(imread(tmp_path / "out" / f"{name}.png"))
    assert pictures[0].shape[0] > 300
    assert pictures[0].shape[1] > 900
    colored = [float((p[..., :3].max(-1) - p[..., :3].min(-1) > 0.1).mean()) for p in pictures]
    assert min(colored) > 0.001
    assert colored[0] > max(colored[1:]) * 0.9


def test_empty_everything_is_drawn(image: Path, tmp_path: Path) -> None:
    empty = _write(tmp_path / "e.nii.gz", np.zeros((12, 30, 20), np.uint8))
    draw_overlay(image, empty, empty, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 5_000


def test_other_grid_is_refused(image: Path, tmp_path: Path) -> None:
    other = _write(tmp_path / "o.nii.gz", np.zeros((12, 30, 19), np.uint8))
    with pytest.raises(ValueError, match=r"shapes differ: .*\(12, 30, 20\).*\(12, 30, 19\)"):
        draw_overlay(image, other, other, tmp_path / "x.png")
