"""Warnings: one for each thing that is unlike the training data, none for a scan like them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.grid import Geometry, geometry
from nnunet_mamba.prediction import fingerprint
from nnunet_mamba.prediction.fingerprint import Known
from nnunet_mamba.prediction.images import Case, Source
from nnunet_mamba.prediction.scans import Reading, Scan, check
from tests.export.small_model import HIPPOCAMPUS

MR = {"median": 100.0, "min": 0.0, "max": 300.0, "percentile_00_5": 40.0, "percentile_99_5": 200.0}
CT = {"median": 60.0, "min": -80.0, "max": 900.0, "percentile_00_5": -20.0, "percentile_99_5": 180.0}
SIZES = {"spacings": [[3.0, 1.0, 1.0], [5.0, 0.8, 0.8]], "shapes_after_crop": [[40, 200, 200], [30, 300, 300]]}


def _known(numbers: dict[str, float] = MR, scheme: str = "ZScoreNormalization", **more: Any) -> Known:
    content = {**SIZES, "foreground_intensity_properties_per_channel": {"0": numbers}}
    return Known.of(content, ["A"], [scheme], **more)


def _grid(*mm: float, flip: tuple[int, int, int] = (1, 1, 1)) -> Geometry:
    return geometry((6, 5, 4), np.diag([*np.multiply(mm, flip), 1.0]))


def _scan(low: float = 0, high: float = 300, grid: Geometry | None = None) -> Scan:
    case = Case("a", (Source(Path("a.nii.gz")),))
    return Scan(case, grid or _grid(0.9, 0.9, 4.0), ((low, (low + high) / 2, high),))


def test_a_scan_like_the_training_data_has_no_warning() -> None:
    assert fingerprint.of_scan(_scan(), _known(orientations=("LPS",))) == []
    assert fingerprint.of_size((35, 220, 240), (3.5, 0.9, 0.9), _known()) == []
    assert fingerprint.of_scan(_scan(), Known.of(None, ["A"], ["ZScoreNormalization"])) == []
    assert fingerprint.of_scan(_scan(-1000, 2000), _known(CT, "CTNormalization")) == []


@pytest.mark.parametrize(
    ("scan", "known", "told"),
    [
        (_scan(grid=_grid(2.0, 2.0, 4.0)), _known(), "voxels of 2 x 2 x 4 mm"),
        (_scan(grid=_grid(0.9, 0.9, 9.0)), _known(), "training: 0.8 x 0.8 x 3 to 1 x 1 x 5 mm"),
        (
            _scan(grid=_grid(0.9, 0.9, 4.0, flip=(-1, 1, 1))),
            _known(orientations=("LPS",)),
            "orientation RPS; training: LPS",
        ),
        (_scan(0, 1), _known(), "another modality, unit or scale"),
        (_scan(-1000, 2000), _known(), "nothing below 0: another modality"),
        (_scan(0, 255), _known(CT, "CTNormalization"), "below 0 in Hounsfield units"),
    ],
)
def test_what_is_unlike(scan: Scan, known: Known, told: str) -> None:
    (warning,) = fingerprint.of_scan(scan, known)
    assert told in warning


def test_size_and_exchanged_channels() -> None:
    (told,) = fingerprint.of_size((35, 220, 600), (3.5, 0.9, 0.9), _known())
    assert told == "size without the empty surroundings: 540 mm along x (training: 200 to 240)"
    numbers = {
        "0": MR,
        "1": {"median": 9000.0, "min": 0.0, "max": 13000.0, "percentile_00_5": 5000.0, "percentile_99_5": 12000.0},
    }
    known = Known.of({"foreground_intensity_properties_per_channel": numbers}, ["A", "B"], ["ZScoreNormalization"] * 2)
    source = Source(Path("a.nii.gz"))
    swapped = Scan(Case("a", (source, source)), _grid(1, 1, 1), ((4000.0, 8000.0, 13000.0), (20.0, 90.0, 250.0)))
    first, second = fingerprint.of_scan(swapped, known)
    assert "It looks like B: are the channels in the right order?" in first
    assert "It looks like A" in second


def test_labels_at_the_border_name_the_side() -> None:
    labels, image = np.zeros((4, 5, 6), np.uint8), np.full((4, 5, 6), 100.0)
    masks = {"whole": (1, 2), "core": (2,)}
    labels[1:3, 1:4, 1:4] = 1
    known = _known()
    assert fingerprint.of_labels(labels, [image], masks, _grid(1, 1, 1), known) == []
    labels[1, 1, 5] = 2  # x increases to the left in left-posterior-superior coordinates
    (told,) = fingerprint.of_labels(labels, [image], masks, _grid(1, 1, 1), known)
    assert "(whole, core at the left end)" in told
    labels[1, 1, 5], labels[0, 2, 2] = 0, 1
    (told,) = fingerprint.of_labels(labels, [image], masks, _grid(1, 1, 1), known)
    assert "(whole at the lower end)" in told


def test_what_was_found_has_other_intensities_or_nothing_was() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    assert fingerprint.of_labels(labels, [labels], {"a": (1,)}, _grid(1, 1, 1), _known()) == [
        "nothing was found: no voxel has a label"
    ]
    labels[2, 2, 2] = 1
    (told,) = fingerprint.of_labels(labels, [labels * 700.0], {"a": (1,)}, _grid(1, 1, 1), _known())
    assert told == "A: what was found has intensities about 700; in training 0 to 300"


def _truth(image: Path) -> np.ndarray:
    folder = "labelsTr" if image.parent.name == "imagesTr" else "labelsTs_reference"
    return sitk.GetArrayFromImage(sitk.ReadImage(str(HIPPOCAMPUS / folder / image.name)))


def test_real_unseen_cases_have_no_warning_and_other_images_do(tmp_path: Path) -> None:
    """MR scans whose scales differ a hundredfold: a scale of its own is no other modality"""
    training, unseen = (sorted((HIPPOCAMPUS / name).glob("*.nii.gz")) for name in ("imagesTr", "imagesTs"))
    arrays = {p: sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (*training, *unseen)}
    found = np.concatenate([arrays[p][_truth(p) > 0].astype(float) for p in training])
    low, middle, high = np.percentile(found, (0.5, 50, 99.5))
    numbers = {
        "median": middle,
        "min": found.min(),
        "max": found.max(),
        "percentile_00_5": low,
        "percentile_99_5": high,
    }
    content = {
        "spacings": [[1.0, 1.0, 1.0]] * len(training),
        "shapes_after_crop": [list(arrays[p].shape) for p in training],
        "foreground_intensity_properties_per_channel": {"0": {k: float(v) for k, v in numbers.items()}},
    }
    known = Known.of(content, ["MRI"], ["ZScoreNormalization"])
    for path in unseen:
        scan = check(Case("a", (Source(path),)), ["MRI"], Reading())
        assert fingerprint.of_scan(scan, known) == []
        assert fingerprint.of_size(arrays[path].shape, (1, 1, 1), known) == []
        assert fingerprint.of_labels(_truth(path), [arrays[path]], {"all": (1, 2)}, scan.grid, known) == []
    shifted = sitk.GetImageFromArray(arrays[unseen[0]].astype(np.float32) - 1024)
    sitk.WriteImage(shifted, str(tmp_path / "ct.nii.gz"))
    scan = check(Case("a", (Source(tmp_path / "ct.nii.gz"),)), ["MRI"], Reading())
    assert any("another modality" in text for text in fingerprint.of_scan(scan, known))
