"""DICOM folders: what is read is the volume, and what is no whole series is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.prediction import dicom
from tests.prediction.conftest import write_dicom


def _oblique() -> sitk.Image:
    random = np.random.default_rng(0)
    image = sitk.GetImageFromArray(random.integers(0, 900, (9, 12, 10)).astype(np.int16))
    image.SetSpacing((0.9, 1.1, 2.5))
    image.SetOrigin((-31.0, 12.5, 40.0))
    angle = 0.2
    turned = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    image.SetDirection(turned.ravel().tolist())
    return image


def _slices(folder: Path) -> list[Path]:
    return [s.path for s in dicom.find_series(folder).slices]


def test_voxels_and_geometry_are_those_of_the_image(tmp_path: Path) -> None:
    image = _oblique()
    read = dicom.read_series(dicom.find_series(write_dicom(image, tmp_path / "s")))
    assert (sitk.GetArrayFromImage(read) == sitk.GetArrayFromImage(image)).all()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(read, name)(), getattr(image, name)(), atol=1e-5), name


def test_two_series_in_one_folder_are_told_and_chosen_by_number(tmp_path: Path) -> None:
    write_dicom(_oblique(), tmp_path / "s", "3", "T1")
    write_dicom(_oblique() + 1, tmp_path / "s", "4", "T2")
    with pytest.raises(ValueError, match=r"2 series in one folder: series \d T\d \(9 files\), series .*-series NUMBER"):
        dicom.find_series(tmp_path / "s")
    chosen = dicom.find_series(tmp_path / "s", "4")
    assert chosen.name == "series 4 T2"
    assert (sitk.GetArrayFromImage(dicom.read_series(chosen)) == sitk.GetArrayFromImage(_oblique() + 1)).all()
    with pytest.raises(ValueError, match=r"-series 9: .* holds series"):
        dicom.find_series(tmp_path / "s", "9")


@pytest.mark.parametrize(("lost", "told"), [((4,), "1 slice missing"), ((3, 4, 6), "3 slices missing")])
def test_a_gap_is_an_incomplete_series(lost: tuple[int, ...], told: str, tmp_path: Path) -> None:
    files = _slices(write_dicom(_oblique(), tmp_path / "s"))
    for number in lost:
        files[number].unlink()
    with pytest.raises(ValueError, match=f"series 3 T1 is incomplete: {told}, the first between .* mm; copy it again"):
        dicom.find_series(tmp_path / "s")


def test_a_series_that_begins_late_is_noted(tmp_path: Path) -> None:
    assert dicom.notes(dicom.find_series(write_dicom(_oblique(), tmp_path / "whole"))) == []
    late = dicom.find_series(write_dicom(_oblique(), tmp_path / "late", first=5))
    assert dicom.notes(late) == ["its instance numbers begin with 5: slices may be missing at one end"]


def test_slices_that_make_no_volume(tmp_path: Path) -> None:
    first, other = write_dicom(_oblique(), tmp_path / "twice"), write_dicom(_oblique(), tmp_path / "other")
    (first / "copy.dcm").write_bytes(_slices(other)[2].read_bytes())
    with pytest.raises(ValueError, match="several slices at one place"):
        dicom.find_series(first)

    small = write_dicom(_oblique(), tmp_path / "sizes")
    write_dicom(_oblique()[:8, :, :], tmp_path / "narrow")
    _slices(small)[3].write_bytes(_slices(tmp_path / "narrow")[3].read_bytes())
    with pytest.raises(ValueError, match="slices of 8 x 12 and 10 x 12 voxels"):
        dicom.find_series(small)

    straight = _oblique()
    straight.SetDirection(np.eye(3).ravel().tolist())
    scout = write_dicom(_oblique(), tmp_path / "scout")
    write_dicom(straight, tmp_path / "straight")
    _slices(scout)[0].write_bytes(_slices(tmp_path / "straight")[0].read_bytes())
    with pytest.raises(ValueError, match="slices in several directions"):
        dicom.find_series(scout)

    one = write_dicom(_oblique()[:, :, :1], tmp_path / "one")
    with pytest.raises(ValueError, match="has one slice"):
        dicom.find_series(one)


def test_uneven_distances_and_a_tilted_gantry(tmp_path: Path) -> None:
    image = _oblique()
    near = image[:, :, 4:]
    near.SetOrigin((np.array(near.GetOrigin()) + 0.3 * 2.5 * np.array(near.GetDirection())[2::3]).tolist())
    uneven = write_dicom(image[:, :, :4], tmp_path / "uneven")
    for path in _slices(write_dicom(near, tmp_path / "near")):
        (uneven / f"near_{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"uneven distances, 2\.5 to 3\.25 mm"):
        dicom.find_series(uneven)

    tilted = tmp_path / "tilted"
    for z in range(image.GetDepth()):
        one = image[:, :, z : z + 1]
        row = np.array(image.GetDirection())[1::3]
        one.SetOrigin((np.array(one.GetOrigin()) + 0.4 * z * row).tolist())
        (part,) = write_dicom(one, tmp_path / "part").iterdir()
        tilted.mkdir(exist_ok=True)
        part.rename(tilted / f"{z}.dcm")
    with pytest.raises(ValueError, match=r"tilted gantry \(9\.1 degrees\)"):
        dicom.find_series(tilted)


def test_a_damaged_slice(tmp_path: Path) -> None:
    folder = write_dicom(_oblique(), tmp_path / "s")
    file = _slices(folder)[4]
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"without a readable image|no position in space"):
        dicom.find_series(folder)


def test_a_slice_whose_voxels_are_cut_off(tmp_path: Path) -> None:
    folder = write_dicom(_oblique(), tmp_path / "s")
    file = _slices(folder)[4]
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(ValueError, match="without a readable image"):
        dicom.find_series(folder)
