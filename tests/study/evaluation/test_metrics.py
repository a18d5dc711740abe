"""Metrics against brute force and SimpleITK, on real masks and at uneven spacing; empty masks by their rules."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

import nnunet_mamba
from nnunet_mamba.study.evaluation.lesions import lesion_scores
from nnunet_mamba.study.evaluation.metrics import METRICS, EmptyRule, find, score

LABELS = sorted((Path(nnunet_mamba.__file__).parent / "data" / "hippocampus").rglob("labelsTr/*.nii.gz"))
TUMOUR = Path(__file__).parents[2] / "data" / "brain_tumour" / "BRATS_001.nii.gz"
SPACINGS = [(1.0, 1.0, 1.0), (4.0, 0.5, 0.7)]
RULE = EmptyRule()


def _real_pair(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A true mask, and one shifted, thinned, with a false island and a piece of it at the image's border."""
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(LABELS[index]))) > 0
    prediction = ndimage.shift(reference.astype(np.uint8), (1, -2, 1), order=0).astype(bool)
    prediction[:, :, : reference.shape[2] // 3] &= ndimage.binary_erosion(prediction)[:, :, : reference.shape[2] // 3]
    prediction[:3, :3, :3] = True
    return prediction, reference


def _border(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _directed(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    points = [np.argwhere(_border(m)) * spacing for m in (a, b)]
    return cKDTree(points[1]).query(points[0])[0]


def test_there_are_real_masks() -> None:
    assert len(LABELS) >= 5


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("index", range(3))
def test_distances_are_those_of_all_pairs_of_border_voxels(index: int, spacing: tuple[float, ...]) -> None:
    p, r = _real_pair(index)
    there, back = _directed(p, r, spacing), _directed(r, p, spacing)
    expected = {
        "HD": max(there.max(), back.max()),
        "HD95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "ASSD": np.concatenate([there, back]).mean(),
    }
    for name, value in expected.items():
        assert score(METRICS[name], p, r, spacing, RULE) == pytest.approx(value, rel=1e-5), name  # float32 inside


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_simpleitk_agrees(spacing: tuple[float, ...]) -> None:
    p, r = _real_pair(0)
    images = [sitk.GetImageFromArray(m.astype(np.uint8)) for m in (p, r)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    overlap, distance = sitk.LabelOverlapMeasuresImageFilter(), sitk.HausdorffDistanceImageFilter()
    overlap.Execute(*images)
    distance.Execute(*images)
    assert score(METRICS["Dice"], p, r, spacing, RULE) == pytest.approx(overlap.GetDiceCoefficient(1))
    assert score(METRICS["IoU"], p, r, spacing, RULE) == pytest.approx(overlap.GetJaccardCoefficient(1))
    # SimpleITK measures from all voxels of a mask, the largest of which is at the border too
    assert score(METRICS["HD"], p, r, spacing, RULE) == pytest.approx(distance.GetHausdorffDistance(), rel=1e-4)


def test_surface_dice_of_two_cubes() -> None:
    """One cube, moved by 2 of 20 voxels along x: faces across x are 2 mm apart, the others overlap to nine tenths."""
    p, r = np.zeros((2, 40, 40, 40), bool)
    r[10:30, 10:30, 10:30] = True
    p[10:30, 10:30, 12:32] = True
    nsd1, nsd2 = (score(m, p, r, (1.0, 1.0, 1.0), RULE) for m in find(["NSD1", "NSD2.5"]))
    # on four of six faces a strip of 1 of 20 is too far; edges, cut by sub-voxel surfaces, count more
    assert nsd1 == pytest.approx((4 * 0.95) / 6, abs=0.07)
    assert nsd2 == pytest.approx(1.0, abs=0.01)


def test_cl_dice_sees_a_gap_that_dice_does_not() -> None:
    tube = np.zeros((9, 9, 60), bool)
    tube[3:6, 3:6, 4:56] = True
    broken, thin = tube.copy(), tube.copy()
    broken[:, :, 25:35] = False
    thin[3, :, 4:34] = False
    dice, center = (METRICS[n] for n in ("Dice", "clDice"))
    assert score(dice, thin, tube, (1, 1, 1), RULE) == pytest.approx(score(dice, broken, tube, (1, 1, 1), RULE))
    assert score(center, thin, tube, (1, 1, 1), RULE) > 0.99
    assert score(center, broken, tube, (1, 1, 1), RULE) < 0.92


def test_cl_dice_is_the_harmonic_mean() -> None:
    """A line, and the prediction that has a third of it: precision 1, sensitivity 1/3"""
    line, third = np.zeros((2, 5, 5, 40), bool)
    line[2, 2, 2:32] = True
    third[2, 2, 2:12] = True
    assert score(METRICS["clDice"], third, line, (1, 1, 1), RULE) == pytest.approx(0.5)
    assert score(METRICS["clDice"], line, third, (1, 1, 1), RULE) == pytest.approx(0.5)


FULL, EMPTY = np.ones((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
DIAGONAL = math.sqrt(3**2 + 8**2 + 5**2)


@pytest.mark.parametrize("name", [n for n in METRICS if not n.startswith("Volume")])
def test_empty_masks(name: str) -> None:
    metric, spacing = METRICS[name], (1.0, 2.0, 1.0)
    lesions = name.startswith("Lesion")
    assert score(metric, EMPTY, EMPTY, spacing, RULE) == metric.best
    if not lesions:
        assert math.isnan(score(metric, EMPTY, EMPTY, spacing, EmptyRule("nan")))
    for pair in ((FULL, EMPTY), (EMPTY, FULL)):
        default = score(metric, *pair, spacing, RULE)
        assert default == (metric.worst if metric.worst is not None else pytest.approx(DIAGONAL))
        if metric.worst is None:
            assert score(metric, *pair, spacing, EmptyRule(one="374")) == 374
            assert math.isnan(score(metric, *pair, spacing, EmptyRule(one="nan")))
    assert score(metric, FULL, FULL, spacing, RULE) == metric.best


def test_volume_difference() -> None:
    assert score(METRICS["VolumeDifference"], FULL, EMPTY, (10, 10, 10), RULE) == pytest.approx(60.0)
    assert score(METRICS["VolumeDifference"], EMPTY, FULL, (1, 1, 1), RULE) == pytest.approx(-0.06)


def test_wrong_names_and_rules() -> None:
    with pytest.raises(ValueError, match="metric 'dice'; expected some of Dice, IoU"):
        find(["dice"])
    with pytest.raises(ValueError, match="-both_empty worst; expected best or nan"):
        EmptyRule(both="worst")
    with pytest.raises(ValueError, match="-one_empty far; expected nan, diagonal, or a distance in mm"):
        EmptyRule(one="far")


def _blocks(*corners: tuple[int, int, int], size: int = 4) -> np.ndarray:
    mask = np.zeros((40, 40, 40), bool)
    for x, y, z in corners:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


UNIT = (1.0, 1.0, 1.0)


def test_lesions_are_counted_one_by_one() -> None:
    reference = _blocks((2, 2, 2), (30, 30, 30))
    assert lesion_scores("Dice", reference, reference, UNIT) == 1
    assert lesion_scores("Dice", _blocks((2, 2, 2)), reference, UNIT) == 0.5  # one missed
    false = _blocks((2, 2, 2), (30, 30, 30), (2, 30, 2))
    assert lesion_scores("Dice", false, reference, UNIT) == pytest.approx(2 / 3)  # one false
    assert lesion_scores("HD95", false, reference, UNIT) == pytest.approx(374 / 3)
    assert lesion_scores("HD95", _blocks((2, 2, 2)), reference, UNIT) == pytest.approx(374 / 2)


@pytest.mark.parametrize(("gap", "together"), [(5, True), (6, True), (7, False), (8, False)])
def test_three_dilations_join_what_is_up_to_six_voxels_apart(gap: int, together: bool) -> None:
    near = _blocks((2, 2, 2), (2, 2, 6 + gap))
    joined = 2 * 64 / (64 + 128)  # one lesion, of which half is found
    assert lesion_scores("Dice", _blocks((2, 2, 2)), near, UNIT) == pytest.approx(joined if together else 0.5)


def test_lesions_near_each_other_are_one_and_small_ones_do_not_count() -> None:
    near = _blocks((2, 2, 2), (2, 2, 10))  # 4 voxels between: three dilations of each meet
    assert lesion_scores("Dice", _blocks((2, 2, 2)), near, UNIT) == pytest.approx(2 * 64 / (64 + 128))
    far = _blocks((2, 2, 2), (2, 2, 20))
    assert lesion_scores("Dice", _blocks((2, 2, 2)), far, UNIT) == 0.5
    small = _blocks((2, 2, 2)) | _blocks((30, 30, 30), size=3)  # 27 mm3
    assert lesion_scores("Dice", small, small, UNIT) == 1
    assert lesion_scores("Dice", _blocks((2, 2, 2)), small, UNIT) == 1  # missed, but too small to count
    assert lesion_scores("Dice", small, _blocks((2, 2, 2)), UNIT) == 0.5  # a false one counts whatever its size
    assert lesion_scores("Dice", _blocks((2, 2, 2)), small, (1.0, 2.0, 1.0)) == 0.5  # 54 mm3
    with pytest.raises(ValueError, match="defined in 3d; these masks have 2 axes"):
        lesion_scores("Dice", np.ones((3, 3), bool), np.ones((3, 3), bool), (1, 1))


@pytest.mark.parametrize(("voxels", "counts"), [(49, False), (50, False), (51, True)])
def test_a_lesion_of_exactly_the_limit_does_not_count(voxels: int, counts: bool) -> None:
    """One that is found, and one of about 50 mm3 that is missed"""
    found = _blocks((2, 2, 2))
    reference = found.copy()
    reference[30:35, 30:35, 30:33].flat[:] = np.arange(75) < voxels
    assert reference.sum() == 64 + voxels
    for spacing, size in ((UNIT, 1), ((2.0, 0.5, 1.0), 1)):
        assert np.prod(spacing) == size
        assert lesion_scores("Dice", found, reference, spacing) == (0.5 if counts else 1)
        assert lesion_scores("HD95", found, reference, spacing) == (374 / 2 if counts else 0)


@pytest.mark.parametrize("tolerance", ["1", "2", "0.5"])
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 2.0), (4.0, 0.5, 0.7), (1.0, 1.0, 1.0)], ids=str)
def test_surface_dice_is_deepminds(spacing: tuple[float, ...], tolerance: str) -> None:
    """An independent implementation, at even and uneven spacing: boxes and a real mask"""
    deepmind = pytest.importorskip("surface_distance")
    box, longer = np.zeros((2, 20, 20, 20), bool)
    box[5:12, 5:12, 5:12] = True
    longer[5:12, 5:12, 5:14] = True
    (metric,) = find([f"NSD{tolerance}"])
    for p, r in ((longer, box), (box, longer), _real_pair(0)):
        distances = deepmind.compute_surface_distances(r, p, list(spacing))
        expected = deepmind.compute_surface_dice_at_tolerance(distances, float(tolerance))
        assert score(metric, p, r, spacing, RULE) == pytest.approx(expected, abs=2e-3)


def test_surface_dice_at_uneven_spacing_is_a_known_number() -> None:
    """The areas of sub-voxel surfaces: 0.847 if each border voxel counted alike"""
    p, r = np.zeros((2, 20, 20, 20), bool)
    r[5:12, 5:12, 5:12] = True
    p[5:12, 5:12, 5:14] = True
    assert score(find(["NSD1"])[0], p, r, (0.5, 0.5, 2.0), RULE) == pytest.approx(0.8924, abs=2e-3)


def test_every_metric_is_defined_in_words() -> None:
    for metric in itertools.chain(METRICS.values(), find(["NSD2"])):
        assert len(metric.definition) > 20
        assert metric.unit in ("", "mm", "ml")


@pytest.fixture(scope="module")
def tumour() -> tuple[np.ndarray, np.ndarray]:
    """The whole tumour of a full-size case, and a prediction: moved, grown, a part missing, a false island far away."""
    r = sitk.GetArrayFromImage(sitk.ReadImage(str(TUMOUR))) > 0
    p = ndimage.binary_dilation(ndimage.shift(r.astype(np.uint8), (2, -1, 1), order=0).astype(bool))
    p[:, : int(np.argwhere(r)[:, 1].mean()) - 15] = False
    p[20:24, 200:204, 100:104] = True
    return p, r


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.625, 0.4, 0.4)], ids=str)
def test_full_size_masks(tumour: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]) -> None:
    p, r = tumour
    assert r.shape == (155, 240, 240)
    there, back = _directed(p, r, spacing), _directed(r, p, spacing)
    expected = {
        "HD95": max(np.percentile(there, 95), np.percentile(back, 95)), "HD": max(there.max(), back.max()),
        "ASSD": np.concatenate([there, back]).mean(), "Dice": 2 * (p & r).sum() / (p.sum() + r.sum()),
    }  # fmt: skip
    for name, value in expected.items():
        assert score(METRICS[name], p, r, spacing, RULE) == pytest.approx(value, rel=1e-5), name


def test_definitions_of_hd95_differ(tumour: tuple[np.ndarray, np.ndarray]) -> None:
    """As documented: weighted by area is another number than of border voxels, and not far from it."""
    p, r = tumour[0].copy(), tumour[1]
    p[20:40, 200:220, 100:120] = True
    values = {name: score(METRICS[name], p, r, (1.0, 1.0, 1.0), RULE) for name in ("HD95", "HD95area")}
    assert values["HD95"] != pytest.approx(values["HD95area"], rel=0.01)
    assert values["HD95"] == pytest.approx(values["HD95area"], rel=0.1)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_area_weighted_distance_of_two_boxes(spacing: tuple[float, ...]) -> None:
    """One box, moved along the last axis by 3 voxels: nothing is farther away, and the ends are."""
    p, r = np.zeros((2, 20, 20, 20), bool)
    r[5:10, 5:10, 5:10] = True
    p[5:10, 5:10, 8:13] = True
    assert score(METRICS["HD95area"], p, r, spacing, RULE) == pytest.approx(3 * spacing[2])


def test_area_weighted_distance_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_mamba.study.evaluation.metrics.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"metric HD95area needs .*pip install 'nnunet-mamba\[official\]'"):
        find(["HD95area"])
