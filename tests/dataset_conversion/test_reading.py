"""What is read from a file is what it holds, or it is refused: types, checksums, units, geometry."""

from __future__ import annotations

import gzip
import os
import random
import re
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.command import main
from dataset_conversion.grid import FORMS
from dataset_conversion.volumes import UnreadableError, read
from tests.dataset_conversion.trees import asoca_tree, described, edit_nrrd, generic_tree, nifti, volumes


def _convert(root: Path, raw: Path, *options: str, **change: Any) -> int:
    description = described(root.parent / "description", **change)
    return main(["generic", "-i", str(root), "-o", str(raw), "--jobs", "1", "--describe", str(description), *options])


def _written(raw: Path, name: str) -> sitk.Image:
    return sitk.ReadImage(str(raw / "Dataset530_Trial" / f"{name}.nii.gz"))


# --- types of voxels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_a_lowest_value_below_an_unsigned_type_changes_nothing(kind: type, tmp_path: Path) -> None:
    root = tmp_path / "d"
    expected = np.arange(336).reshape(6, 7, 8) % 250
    for k in range(2):
        nifti(root / "images" / f"c{k}.nii.gz", (expected + k).astype(kind))
        nifti(root / "labels" / f"c{k}.nii.gz", volumes(k)[1])
    assert _convert(root, tmp_path / "raw", lowest=-1024) == 0
    assert np.array_equal(sitk.GetArrayFromImage(_written(tmp_path / "raw", "imagesTr/c0_0000")).T, expected)


def test_asoca_of_unsigned_images(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "d")
    path = root / "Normal" / "CTCA" / "Normal_1.nrrd"
    edit_nrrd(path, lambda i: sitk.Cast(sitk.Clamp(i, lowerBound=0), sitk.sitkUInt16))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert main(["asoca", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1"]) == 0
    made = sitk.ReadImage(str(tmp_path / "raw" / "Dataset510_ASOCA" / "imagesTr" / "Normal_01_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(made), expected)


@pytest.mark.parametrize(("kind", "lowest"), [(np.int16, 0.5), (np.int16, -900.0), (np.int8, 200), (np.float32, -7.5)])
def test_values_below_the_lowest_become_it(kind: type, lowest: float, tmp_path: Path) -> None:
    root = generic_tree(tmp_path / "d", kind=kind)
    source = sitk.GetArrayFromImage(sitk.ReadImage(str(root / "images" / "c1.nii.gz"))).astype(np.float64)
    assert _convert(root, tmp_path / "raw", lowest=lowest) == 0
    made = sitk.GetArrayFromImage(_written(tmp_path / "raw", "imagesTr/c1_0000"))
    assert np.array_equal(made, np.maximum(source, lowest))


def test_images_of_uint16_beyond_int16_keep_their_values(tmp_path: Path) -> None:
    root = generic_tree(tmp_path / "d")
    image = np.arange(336, dtype=np.uint16).reshape(6, 7, 8)
    image[2, 3, 4] = 40000
    nifti(root / "images" / "c1.nii.gz", image)
    assert _convert(root, tmp_path / "raw") == 0
    made = _written(tmp_path / "raw", "imagesTr/c1_0000")
    assert made.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(made).T, image)


def test_small_whole_numbers_of_wide_types_become_int16(tmp_path: Path) -> None:
    root = generic_tree(tmp_path / "d", kind=np.int32)
    assert _convert(root, tmp_path / "raw") == 0
    made = _written(tmp_path / "raw", "imagesTr/c1_0000")
    assert made.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(made).T, volumes(1)[0])


def test_numbers_that_float32_does_not_hold_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    nifti(root / "images" / "c1.nii.gz", np.full((6, 7, 8), -1e39))
    assert _convert(root, tmp_path / "raw") == 2
    assert "c1.nii.gz: 336 voxels beyond 3.4e+38, the largest number of float32" in capsys.readouterr().err


def test_whole_numbers_that_lose_units_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    for k, value in enumerate((2**24, 2**24 + 1, -(2**24) - 1)):
        nifti(root / "images" / f"c{k}.nii.gz", np.full((6, 7, 8), value, np.int32))
    assert _convert(root, tmp_path / "raw", "--keep-duplicates") == 0
    told = capsys.readouterr().out
    assert "c0.nii.gz: whole numbers" not in told
    assert "c1.nii.gz: whole numbers beyond 16777216" in told
    assert "c2.nii.gz: whole numbers beyond 16777216" in told


def test_labels_far_apart_in_a_small_type_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d")
    label = np.zeros((6, 7, 8), np.int8)
    label[0], label[1] = -100, 100
    nifti(root / "labels" / "c1.nii.gz", label)
    assert _convert(root, tmp_path / "raw") == 2
    assert "c1.nii.gz: label values -100, 100; allowed: 0, 1" in capsys.readouterr().err
    assert _convert(root, tmp_path / "raw", label_map={"-100": 1, "100": 1, "0": 0, "1": 1}) == 0
    made = sitk.GetArrayFromImage(_written(tmp_path / "raw", "labelsTr/c1")).T
    assert np.array_equal(made, (label != 0).astype(np.uint8))


# --- checksums -----------------------------------------------------------------------------------------------------


def _volume(path: Path) -> bytes:
    random = np.random.default_rng(0)
    image = sitk.GetImageFromArray(random.integers(-50, 50, (12, 20, 16)).astype(np.int16))
    sitk.WriteImage(image, str(path), useCompression=True)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
def test_damaged_compressed_voxels_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = _volume(path)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(read(path).array, expected)
    body = whole.index(b"\n\n") + 2 if name == "x.nrrd" else whole.index(b"LOCAL\n") + 6
    dice = random.Random(1)
    accepted = []
    for _ in range(60):
        content = bytearray(whole)
        if dice.random() < 0.5:
            content[dice.randrange(body + 10, len(whole))] ^= 1 << dice.randrange(8)
        else:
            place = dice.randrange(body + 10, len(whole) - 256)
            content[place : place + 256] = bytes(256)
        if content == whole:
            continue
        path.write_bytes(bytes(content))
        with suppress(UnreadableError):
            accepted.append(read(path).array)
    assert all(np.array_equal(array, expected) for array in accepted)
    assert len(accepted) < 10


def test_detached_voxels_are_read_to_their_checksum(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    for header, data in (("x.nhdr", "x.raw.gz"), ("x.mhd", "x.zraw")):
        sitk.WriteImage(image, str(tmp_path / header), useCompression=True)
        assert np.array_equal(read(tmp_path / header).array, sitk.GetArrayFromImage(image))
        content = bytearray((tmp_path / data).read_bytes())
        content[-3] ^= 1
        (tmp_path / data).write_bytes(bytes(content))
        with pytest.raises(UnreadableError, match=r"damaged: its compressed data or their checksum are wrong"):
            read(tmp_path / header)


@pytest.mark.parametrize(("name", "old", "new"), [("x.nrrd", b"sizes: 16 20 12", b"sizes: 16 20 11"),
                                                  ("x.mha", b"DimSize = 16 20 12", b"DimSize = 16 20 11")])  # fmt: skip
def test_a_header_of_fewer_voxels_than_are_there_is_refused(name: str, old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = _volume(path)
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(UnreadableError, match="its header says 7040 bytes of voxels; its compressed data have more"):
        read(path)


def test_meta_image_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.mha"
    path.write_bytes(_volume(path)[:-5])
    with pytest.raises(UnreadableError, match="cut off: the compressed data end too early"):
        read(path)


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.mha"
    whole = _volume(path)
    body = zlib.compress(bytes(2**28), 9)
    head = whole[: whole.index(b"LOCAL\n") + 6]
    path.write_bytes(re.sub(rb"CompressedDataSize = \d+", b"CompressedDataSize = %d" % len(body), head) + body)
    with pytest.raises(UnreadableError, match="its compressed data have more"):
        read(path)


# --- units and geometry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "mm", "word"), [(1, 1000.0, "metres"), (3, 0.001, "micrometres"), (3 + 8, 0.001, "micrometres")]
)
def test_image_and_label_in_another_unit_get_one_grid_in_mm(
    unit: int, mm: float, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(header: Any) -> None:
        header["xyzt_units"] = unit

    root = generic_tree(tmp_path / "d", change=change)
    assert _convert(root, tmp_path / "raw") == 0
    assert f"its coordinates are in {word}; written in mm" in capsys.readouterr().out
    source = sitk.ReadImage(str(root / "images" / "c1.nii.gz"))
    for name in ("imagesTr/c1_0000", "labelsTr/c1"):
        made = _written(tmp_path / "raw", name)
        assert made.GetSpacing() == pytest.approx((0.5 * mm, 0.7 * mm, 1.3 * mm), rel=1e-6)
        assert made.GetSpacing() == pytest.approx(source.GetSpacing(), rel=1e-6)
        assert made.GetOrigin() == pytest.approx(source.GetOrigin(), rel=1e-6)


@pytest.mark.parametrize("unit", [0, 2, 2 + 8, 0 + 16])
def test_mm_with_any_unit_of_time_is_copied(unit: int, tmp_path: Path) -> None:
    def change(header: Any) -> None:
        header["xyzt_units"] = unit

    root = generic_tree(tmp_path / "d", change=change)
    assert _convert(root, tmp_path / "raw") == 0
    copied = tmp_path / "raw" / "Dataset530_Trial" / "imagesTr" / "c1_0000.nii.gz"
    assert copied.read_bytes() == (root / "images" / "c1.nii.gz").read_bytes()


def test_grids_of_small_voxels_are_compared_on_their_scale(tmp_path: Path) -> None:
    """Half a voxel of 1 micrometre is less than what counts as the same place at clinical resolution."""

    def small(shift: float) -> Any:
        def change(header: Any) -> None:
            affine = np.diag([1.0, 1.0, 1.0, 1.0])
            affine[0, 3] = shift
            header.set_sform(affine, 1)
            header.set_qform(affine, 1)
            header["xyzt_units"] = 3

        return change

    root = generic_tree(tmp_path / "d", change=small(0))
    nifti(root / "labels" / "c1.nii.gz", volumes(1)[1], small(0.5))
    assert _convert(root, tmp_path / "raw") == 2


def test_voxel_sizes_that_differ_from_the_sform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(header: Any) -> None:
        header["qform_code"] = 0
        header["pixdim"][1:4] = 1

    root = generic_tree(tmp_path / "d", change=change)
    assert _convert(root, tmp_path / "raw") == 0
    assert "voxels of 0.5 x 0.7 x 1.3 by its sform, of 1 x 1 x 1 by pixdim" in capsys.readouterr().out
    for name in ("imagesTr/c1_0000", "labelsTr/c1"):
        made = _written(tmp_path / "raw", name)
        assert made.GetSpacing() == pytest.approx((0.5, 0.7, 1.3), rel=1e-6)
        assert made.GetOrigin() == pytest.approx((-3, 4, 5), abs=1e-5)


@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_forms_a_little_apart_are_read_as_nnunet_reads_them(code: int, tmp_path: Path) -> None:
    """Image and label, copied or written, have one grid for SimpleITK, whichever form that takes."""

    def change(header: Any) -> None:
        header["sform_code"] = code
        header["qoffset_y"] += 0.015

    root = generic_tree(tmp_path / "d", change=change)
    assert _convert(root, tmp_path / "raw") == 0
    image, label = (_written(tmp_path / "raw", name) for name in ("imagesTr/c1_0000", "labelsTr/c1"))
    assert image.GetOrigin() == pytest.approx(label.GetOrigin(), abs=1e-4)
    assert image.GetDirection() == pytest.approx(label.GetDirection(), abs=1e-6)


@pytest.mark.parametrize(
    ("slope", "inter", "is_read"),
    [(0, -1024, False), (np.nan, 5, False), (0, 0, True), (np.nan, np.nan, True), (1, -1024, True), (0, np.nan, True)],
)
def test_an_intercept_without_a_slope_is_refused(slope: float, inter: float, is_read: bool, tmp_path: Path) -> None:
    """The standard ignores it, SimpleITK adds it: what nnU-Net would see depends on who wrote the file."""

    def change(header: Any) -> None:
        header["scl_slope"], header["scl_inter"] = slope, inter

    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    path = nifti(tmp_path / "a.nii.gz", array, change)
    if is_read:
        assert np.array_equal(read(path).array, array.T + (float(inter) if slope == 1 else 0))
    else:
        with pytest.raises(UnreadableError, match=rf"scl_slope {slope:g} with scl_inter {inter:g}: by the NIfTI"):
            read(path)


@pytest.mark.parametrize(("slope", "is_read"), [(1e-17, False), (-3e-27, False), (1e-15, True)])
def test_a_slope_that_simpleitk_takes_for_none_is_refused(slope: float, is_read: bool, tmp_path: Path) -> None:
    """By nibabel's reading every label becomes 0."""

    def change(header: Any) -> None:
        header["scl_slope"], header["scl_inter"] = slope, 0

    path = nifti(tmp_path / "a.nii", volumes(0)[1], change)
    if is_read:
        assert read(path).array.max() == pytest.approx(slope)
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).max() == pytest.approx(slope)
    else:
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).max() == 1
        with pytest.raises(UnreadableError, match=f"scl_slope {slope:g}: so near to 0"):
            read(path)


def test_a_sign_of_the_third_axis_that_readers_take_for_different_things_is_refused(tmp_path: Path) -> None:
    def change(header: Any) -> None:
        header["sform_code"], header["pixdim"][0] = 0, -2

    path = nifti(tmp_path / "a.nii", volumes(0)[1], change)
    assert sitk.ReadImage(str(path)).GetDirection()[8] == -1
    assert nibabel.load(path).affine[2, 2] > 0
    with pytest.raises(UnreadableError, match=r"pixdim\[0\] -2: neither 1 nor -1"):
        read(path)


def test_a_form_of_an_unknown_code_is_told(tmp_path: Path) -> None:
    def change(header: Any) -> None:
        header["sform_code"], header["srow_y"] = 8, np.nan

    (repair,) = read(nifti(tmp_path / "a.nii", volumes(0)[1], change)).repairs
    assert repair == "a.nii: sform_code 8 is unknown; its sform is not used"


def _offset(path: Path, value: float, two: bool = False) -> Path:
    """The file with another vox_offset"""
    content = bytearray(path.read_bytes())
    place, kind = (168, np.int64) if two else (108, np.float32)
    content[place : place + len(kind(value).tobytes())] = kind(value).tobytes()
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("offset", [0, 1, 100, 348, 351, -8, float("nan")])
def test_voxels_that_would_begin_in_the_header_are_refused(offset: float, tmp_path: Path) -> None:
    """nibabel takes the header for voxels, SimpleITK what follows 348 bytes of it"""
    path = _offset(nifti(tmp_path / "a.nii", np.ones((6, 7, 8), np.float32)), offset)
    with pytest.raises(UnreadableError, match=rf"a.nii: vox_offset {offset:g}: its voxels would begin in its header"):
        read(path)


def test_voxels_that_would_begin_in_a_header_of_nifti2_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti2Image(np.ones((6, 7, 8), np.float32), np.diag([0.5, 0.7, 1.3, 1])), path)
    assert (read(path).array == 1).all()
    with pytest.raises(UnreadableError, match="vox_offset 352: its voxels would begin in its header; expected 544"):
        read(_offset(path, 352, two=True))


def _pair(folder: Path, kind: Any = nibabel.Nifti1Pair, packed: str = "") -> np.ndarray:
    """x.hdr and x.img; its voxels"""
    array = np.arange(336, dtype=np.float32).reshape(6, 7, 8)
    affine = np.diag([-0.5, 0.7, 1.3, 1])
    affine[:3, 3] = 3, -4, 5
    nibabel.save(kind(array, affine), folder / f"x.img{packed}")
    return array


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.AnalyzeImage])
def test_a_pair_is_read_alike_by_either_name(kind: Any, packed: str, tmp_path: Path) -> None:
    array = _pair(tmp_path, kind, packed)
    one, other = (read(tmp_path / f"x.{half}{packed}") for half in ("hdr", "img"))
    assert np.array_equal(one.array, array.T)
    assert np.array_equal(other.array, array.T)
    assert one.geometry == other.geometry
    if kind is nibabel.Nifti1Pair:  # SimpleITK reads no NIfTI-2 pairs
        assert one.geometry.matrix[:3, 3] == pytest.approx(sitk.ReadImage(str(tmp_path / f"x.img{packed}")).GetOrigin())
        assert one.geometry.spacing == pytest.approx((0.5, 0.7, 1.3))


def test_the_header_of_a_pair_is_checked_like_that_of_a_file(tmp_path: Path) -> None:
    _pair(tmp_path)
    header = nibabel.Nifti1Pair.from_filename(str(tmp_path / "x.img")).header
    header["scl_slope"], header["scl_inter"] = 0, -1024
    (tmp_path / "x.hdr").write_bytes(header.binaryblock)
    for half in ("hdr", "img"):
        with pytest.raises(UnreadableError, match="scl_slope 0 with scl_inter -1024"):
            read(tmp_path / f"x.{half}")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.AnalyzeImage])
def test_a_pair_whose_voxels_end_too_early_is_refused(kind: Any, tmp_path: Path) -> None:
    """SimpleITK would put 0 in their places."""
    _pair(tmp_path, kind)
    voxels = (tmp_path / "x.img").read_bytes()
    for offset, length in ((0, len(voxels) - 4), (4, len(voxels))):
        _offset(tmp_path / "x.hdr", offset)
        (tmp_path / "x.img").write_bytes(voxels[:length])
        for half in ("hdr", "img"):
            with pytest.raises(UnreadableError, match=r"x\.img: .*cut off"):
                read(tmp_path / f"x.{half}")


def test_a_header_that_says_its_voxels_follow_is_none_of_a_pair(tmp_path: Path) -> None:
    _pair(tmp_path)
    header = bytearray((tmp_path / "x.hdr").read_bytes())
    header[344:348] = b"n+1\0"
    (tmp_path / "x.hdr").write_bytes(bytes(header))
    for half in ("hdr", "img"):
        with pytest.raises(UnreadableError, match="says that its voxels follow in it"):
            read(tmp_path / f"x.{half}")


def test_resume_sees_that_the_other_half_of_a_pair_changed(tmp_path: Path) -> None:
    root, raw = generic_tree(tmp_path / "d"), tmp_path / "raw"
    for k in range(3):
        image = nibabel.load(root / "images" / f"c{k}.nii.gz")
        nibabel.save(nibabel.Nifti1Pair(np.asanyarray(image.dataobj), image.affine), root / "images" / f"c{k}.img")
    images = {"CT": "images/{case}.hdr"}
    (raw / "Dataset530_Trial" / "labelsTs").mkdir(parents=True)  # in the way: the conversion stops before its end
    (raw / "Dataset530_Trial" / ".conversion").mkdir()
    (raw / "Dataset530_Trial" / "labelsTs" / "y.nii.gz").touch()
    assert _convert(root, raw, images=images) == 2
    (raw / "Dataset530_Trial" / "labelsTs" / "y.nii.gz").unlink()
    voxels = bytearray((root / "images" / "c1.img").read_bytes())
    voxels[:2] = np.int16(77).tobytes()
    (root / "images" / "c1.img").write_bytes(bytes(voxels))
    assert _convert(root, raw, "--resume", images=images) == 0
    assert sitk.GetArrayFromImage(_written(raw, "imagesTr/c1_0000"))[0, 0, 0] == 77


@pytest.mark.parametrize(("mm", "code"), [(0.0005, 0), (0.01, 2)])
def test_how_far_a_label_may_be_off(mm: float, code: int, tmp_path: Path) -> None:
    def change(header: Any) -> None:
        affine = header.get_best_affine()
        affine[0, 3] += mm
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)

    root = generic_tree(tmp_path / "d")
    nifti(root / "labels" / "c1.nii.gz", volumes(1)[1], change)
    assert _convert(root, tmp_path / "raw") == code
    assert _convert(root, tmp_path / "trusted", "--trust-array") == 0
    image, label = (_written(tmp_path / "trusted", name) for name in ("imagesTr/c1_0000", "labelsTr/c1"))
    assert label.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-6)


@pytest.mark.parametrize(("mm", "code"), [(0.05, 0), (0.2, 2)])
def test_how_far_sform_and_qform_may_be_apart(mm: float, code: int, tmp_path: Path) -> None:
    def change(header: Any) -> None:
        affine = header.get_best_affine()
        affine[1, 3] += mm
        header.set_sform(affine, 1)

    root = generic_tree(tmp_path / "d", change=change)
    assert _convert(root, tmp_path / "raw") == code
    for form, moved in (("sform", -mm), ("qform", 0.0)):
        assert _convert(root, tmp_path / form, "--prefer", form) == 0
        if code:
            made = _written(tmp_path / form, "labelsTr/c1")
            assert made.GetOrigin()[1] == pytest.approx(4 + moved, abs=1e-5)


@pytest.mark.parametrize("degrees", [0.5, 20])
@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_sheared_volumes_are_refused_in_every_format(degrees: float, ending: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    path = tmp_path / f"x.{ending}"
    sitk.WriteImage(image, str(path))
    s, c = f"{np.sin(np.radians(degrees)):.9f}", f"{np.cos(np.radians(degrees)):.9f}"
    square, sheared = {
        "nrrd": (b"(1,0,0) (0,1,0) (0,0,1)", f"(1,0,0) ({s},{c},0) (0,0,1)"),
        "mha": (b"1 0 0 0 1 0 0 0 1", f"1 0 0 {s} {c} 0 0 0 1"),
    }[ending]
    content = path.read_bytes()
    assert square in content
    path.write_bytes(content.replace(square, sheared.encode()))
    with pytest.raises(UnreadableError, match=f"sheared: its axes are {degrees:g} degrees off a right angle"):
        read(path)
    if degrees < 1:
        mended = read(path, fix_shear=True)
        assert "made perpendicular" in mended.repairs[0]
        assert mended.geometry.direction.T @ mended.geometry.direction == pytest.approx(np.eye(3), abs=1e-9)


def test_a_mended_shear_leaves_turned_axes_where_they_were(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    turned = np.array([[0, 0.6, 0.8], [0, -0.8, 0.6], [1, 0, 0]])
    turned[:, 1] += 0.008 * turned[:, 0]
    turned /= np.linalg.norm(turned, axis=0)
    image.SetDirection(turned.ravel().tolist())
    image.SetSpacing((0.5, 0.7, 1.3))
    sitk.WriteImage(image, str(tmp_path / "x.mha"))
    mended = read(tmp_path / "x.mha", fix_shear=True).geometry
    assert mended.direction == pytest.approx(turned, abs=0.006)
    assert mended.spacing == pytest.approx((0.5, 0.7, 1.3), rel=1e-6)


def test_axes_in_one_plane_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 8, 10), np.int16)), str(path))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(1,0,0) (0,1,0) (0,0,1)", b"(1,0,0) (1,0,0) (0,0,1)"))
    with pytest.raises(UnreadableError, match=re.escape(str(path))):
        read(path)


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = asoca_tree(tmp_path / "d")
    folder = os.fsencode(root / "Normal" / "CTCA")
    os.rename(folder + b"/Normal_1.nrrd", folder + b"/M\xfcller_1.nrrd")  # noqa: PTH104
    assert main(["asoca", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "2"]) == 2
    told = capfd.readouterr().err
    assert "its name is not UTF-8" in told
    assert "a label without image" in told
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (rb"CompressedDataSize = \d+", b"CompressedDataSize = 9", "its header says 9 compressed bytes"),
        (rb"CompressedDataSize = \d+\n", b"", "its header says no compressed bytes"),
        (rb"NDims = 3", b"NDims = 99", "expected three axes"),
        (rb"DimSize = 16 20 12", b"DimSize = -1 20 12", "expected three axes"),
        (rb"ElementType = MET_SHORT", b"ElementType = x", "lacks ElementType"),
    ],
)
def test_meta_image_headers_that_mislead_simpleitk(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    """It reads other voxels without a word, or ends the process."""
    path = tmp_path / "x.mha"
    path.write_bytes(re.sub(old, new, _volume(path), count=1))
    with pytest.raises(UnreadableError, match=message):
        read(path)


def test_voxels_that_simpleitk_reads_wrongly_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.nrrd", "x.mha"):
        path = tmp_path / name
        _volume(path)
        with monkeypatch.context() as patched:
            patched.setattr(sitk, "GetArrayFromImage", lambda image: np.zeros((12, 20, 16), np.int16))
            with pytest.raises(UnreadableError, match="SimpleITK reads other voxels than its compressed data hold"):
                read(path)


def test_files_that_do_not_say_where_their_axes_point_are_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "x.vtk"))
    with pytest.raises(UnreadableError, match="a VTK file, which does not say where its axes point"):
        read(tmp_path / "x.vtk")


@pytest.mark.parametrize("ending", ["gipl", "gipl.gz"])
def test_a_format_without_a_checksum_that_ends_too_early_is_refused(ending: str, tmp_path: Path) -> None:
    """SimpleITK reads something else in the place of what is missing."""
    array = np.random.default_rng(0).integers(0, 9, (6, 7, 8)).astype(np.int16)
    path = tmp_path / f"x.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    assert np.array_equal(read(path).array, array)
    content = path.read_bytes()
    content = gzip.decompress(content) if ending.endswith(".gz") else content
    path.write_bytes(gzip.compress(content[:-20]) if ending.endswith(".gz") else content[:-20])
    with pytest.raises(UnreadableError, match=r"cut off: 65[0-9] of 672 bytes of voxels are there"):
        read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes with names")
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "x.nii.gz")
    with pytest.raises(UnreadableError, match="no regular file"):
        read(tmp_path / "x.nii.gz")


def _tilted(seed: int, path: Path) -> Path:
    """As SimpleITK writes a scan whose axes are a little oblique: both forms, of one map"""
    small = np.random.default_rng(seed).normal(0, 0.001, 3)
    x, y, z = small
    axes, _ = np.linalg.qr(np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]]))
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 99, (3, 512, 512)).astype(np.int16))
    image.SetDirection((axes * np.sign(np.diag(axes))).ravel().tolist())
    image.SetSpacing((0.7, 0.7, 1.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def test_a_quaternion_that_lost_its_first_number_is_no_disagreement(tmp_path: Path) -> None:
    """Image by SimpleITK; label by nibabel, of the image's affine, which is its sform"""
    lost = 0
    for seed in range(8):
        path = _tilted(seed, tmp_path / str(seed) / "images" / "x.nii.gz")
        header = nibabel.load(path).header
        corner = np.array([511, 511, 2, 1])
        lost += bool(np.abs((header.get_sform() - header.get_qform()) @ corner).max() > FORMS)
        label = np.zeros((512, 512, 3), np.uint8)
        label[5:9] = 1
        (tmp_path / str(seed) / "labels").mkdir()
        nibabel.save(nibabel.Nifti1Image(label, header.get_sform()), tmp_path / str(seed) / "labels" / "x.nii.gz")
        image, other = (read(tmp_path / str(seed) / part / "x.nii.gz") for part in ("images", "labels"))
        assert image.geometry.distance(other.geometry) < image.geometry.same
        assert image.copyable
    assert lost > 0, "none whose forms look as if they disagreed"


@pytest.mark.parametrize(
    ("field", "change"),
    [("quatern_b", 1e-6), ("quatern_c", -1e-6), ("qoffset_x", 0.2), ("pixdim", 1e-3)],
)
def test_forms_that_differ_by_more_than_rounding_disagree(field: str, change: float, tmp_path: Path) -> None:
    """In the neighbourhood where the first number of the quaternion is lost"""
    image = nibabel.load(_tilted(0, tmp_path / "x.nii"))
    if field == "pixdim":
        image.header["pixdim"][1] += change
    else:
        image.header[field] += change
    image.header["vox_offset"] = 352  # which nibabel forgets when it reads
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[:348] = image.header.binaryblock
    (tmp_path / "x.nii").write_bytes(bytes(content))
    with pytest.raises(UnreadableError, match="sform and qform disagree"):
        read(tmp_path / "x.nii")
