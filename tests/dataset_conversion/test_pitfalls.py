"""What goes wrong on real downloads, one after the other: what is mended, and what is refused and how."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.convert import RefusedError, convert, plan
from dataset_conversion.declare import REFUSED, REPAIRED, WARNING, Options
from tests.dataset_conversion.trees import (
    asoca_tree,
    brats_tree,
    edit_nifti,
    edit_nrrd,
    edit_nrrd_header,
    find_asoca,
    find_brats,
    unpack,
)

CASE = "BraTS2021_00001"


def _t1(root: Path) -> Path:
    return _file(root, "t1")


def _file(root: Path, name: str) -> Path:
    return root / "BraTS2021_Training_Data" / CASE / f"{CASE}_{name}.nii.gz"


def _rename_seg(root: Path) -> None:
    _file(root, "seg").rename(_file(root, "seg").with_name("W39_1998.09.19_Segm.nii.gz"))


def _folder_named_like_a_file(root: Path) -> None:
    path, folder = _t1(root), _t1(root).with_name(f"{CASE}_t1.nii")
    content = gzip.decompress(path.read_bytes())
    path.unlink()
    folder.mkdir()
    (folder / "00000057_brain_t1.nii").write_bytes(content)


def _gzip_named_plain(root: Path) -> None:
    _t1(root).rename(_t1(root).with_suffix(""))


def _move(mm: float, name: str = "seg") -> Callable[[Path], None]:
    def change(array: np.ndarray, header: Any) -> np.ndarray:
        affine = header.get_best_affine()
        affine[0, 3] += mm
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        return array

    return lambda root: edit_nifti(_file(root, name), change)


def _forms_disagree(root: Path) -> None:
    def change(array: np.ndarray, header: Any) -> np.ndarray:
        affine = header.get_best_affine()
        affine[2, 3] += 5
        header.set_sform(affine, 2)
        return array

    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        edit_nifti(_file(root, name), change)


def _shear(degrees: float) -> Callable[[Path], None]:
    def change(array: np.ndarray, header: Any) -> np.ndarray:
        affine = header.get_best_affine()
        affine[0, 1] = np.tan(np.radians(degrees))
        header.set_sform(affine, 1)
        header["qform_code"] = 0
        return array

    return lambda root: [edit_nifti(_file(root, n), change) for n in ("t1", "t1ce", "t2", "flair", "seg")]  # type: ignore[return-value]


def _ras(root: Path) -> None:
    def change(array: np.ndarray, header: Any) -> np.ndarray:
        affine = np.diag([1.0, 1, 1, 1])
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        return array

    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        edit_nifti(_file(root, name), change)


def _voxels(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: edit_nifti(_file(root, name), lambda array, header: change(array))


def _nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[3, 3, 3] = np.nan
    return array


def _other_values(array: np.ndarray) -> np.ndarray:
    array[array == 4] = 3
    return array


def _text(content: bytes) -> Callable[[Path], None]:
    return lambda root: _t1(root).write_bytes(content) and None


def _cut(share: float) -> Callable[[Path], None]:
    return lambda root: _t1(root).write_bytes(_t1(root).read_bytes()[: int(share * _t1(root).stat().st_size)]) and None


def _flip_a_byte(root: Path) -> None:
    content = bytearray(_t1(root).read_bytes())
    content[-6] ^= 0xFF
    _t1(root).write_bytes(bytes(content))


def _zero_spacing(root: Path) -> None:
    def change(array: np.ndarray, header: Any) -> np.ndarray:
        header["pixdim"][3] = 0
        return array

    raw = bytearray(gzip.decompress(_t1(root).read_bytes()))
    raw[76 + 3 * 4 : 76 + 4 * 4] = np.float32(0).tobytes()
    _t1(root).write_bytes(gzip.compress(bytes(raw)))


MENDED = {
    "case 355": (_rename_seg, REPAIRED, "W39_1998.09.19_Segm.nii.gz is taken for the missing segmentation"),
    "folder named like a file": (_folder_named_like_a_file, REPAIRED, "is a folder; the one file in it is used"),
    "plain content named .gz": (lambda root: unpack(_t1(root)), REPAIRED, "is not compressed, unlike its name says"),
    "gzip named .nii": (_gzip_named_plain, REPAIRED, "is compressed, unlike its name says"),
    "jitter": (_move(5e-4), REPAIRED, "off the first image; takes its geometry"),
    "RAS among LPS": (_ras, WARNING, "axes point to RAS; BraTS2021 has LPS"),
    "float labels": (
        _voxels("seg", lambda a: a.astype(np.float64) * 0.99999997), REPAIRED, "off whole numbers; rounded",
    ),
    "fourth axis of length 1": (_voxels("t2", lambda a: a[..., None]), REPAIRED, "axes of length 1"),
    "empty label": (_voxels("seg", np.zeros_like), WARNING, "the label is empty"),
}  # fmt: skip


@pytest.mark.parametrize("what", MENDED)
def test_mended_or_told(what: str, tmp_path: Path) -> None:
    damage, level, message = MENDED[what]
    root = brats_tree(tmp_path / "download")
    expected = convert(find_brats(root), tmp_path / "expected", Options())
    damage(root)
    report = convert(find_brats(root), tmp_path / "raw", Options())
    told = [p for p in report.problems if p.case == CASE]
    assert [p.level for p in told if message in p.text] == [level] * max(1, len(told))
    assert len(report.cases) == len(expected.cases) == 3
    if what in ("RAS among LPS", "empty label"):
        return
    for name in (*(f"imagesTr/{CASE}_{c:04d}" for c in range(4)), f"labelsTr/{CASE}"):
        before, after = (
            sitk.ReadImage(str(tmp_path / folder / "Dataset521_BraTS2021" / f"{name}.nii.gz"))
            for folder in ("expected", "raw")
        )
        assert np.array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after)), name
        assert after.GetOrigin() == pytest.approx(before.GetOrigin(), abs=1e-9)
        assert after.GetDirection() == before.GetDirection()


REFUSALS = {
    "missing image": (lambda root: _t1(root).unlink(), f"{CASE}_t1.nii.gz is missing", None),
    "missing label": (lambda root: _file(root, "seg").unlink(), "no segmentation", None),
    "label moved": (_move(5.0), "lies up to 5 mm off the case's first image", {"trust_array": True}),
    "another grid": (_voxels("seg", lambda a: a[:-1]), "on another grid, 23x28x20 voxels; the case's first", None),
    "sform against qform": (_forms_disagree, "sform and qform disagree by up to 5 mm", {"prefer": "qform"}),
    "sheared": (_shear(0.5), "sheared: its axes are 0.5 degrees off a right angle; --fix-shear", {"fix_shear": True}),
    "sheared much": (_shear(5), "sheared: its axes are 5 degrees off a right angle", None),
    "NaN": (_voxels("t2", _nan), "1 voxels are NaN or infinite", {"nan_to_zero": True}),
    "half labels": (
        _voxels("seg", lambda a: a * np.float32(0.5)),
        "labels are not whole numbers (up to 0.5 off)",
        None,
    ),
    "labels of another year": (_voxels("seg", _other_values), "label values 3; allowed: 0, 1, 2, 4", None),
    "label of another task": (_voxels("seg", lambda a: a * 60), "label values 60, 120, 240; allowed", None),
    "LFS pointer": (_text(b"version https://git-lfs.github.com/spec/v1\noid sha256:1"), "Git LFS pointer", None),
    "web page": (_text(b"<!DOCTYPE html><html>"), "an HTML or XML page", None),
    "path saved as a file": (_text(b"/data/BRATS_001.nii.gz\n"), "text: '/data/BRATS_001.nii.gz'", None),
    "ZIP": (_text(b"PK\x03\x04"), "a ZIP archive: unpack it", None),
    "empty file": (_text(b""), "empty or cut off", None),
    "cut off": (_cut(0.5), "cut off: the compressed data end too early", None),
    "cut off in the header": (_cut(0.001), "empty or cut off", None),
    "wrong checksum": (_flip_a_byte, "damaged: its compressed data or their checksum are wrong", None),
    "zero spacing": (_zero_spacing, "voxel size 1 x 1 x 0 mm", None),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_with_a_reason_and_nothing_written(what: str, tmp_path: Path) -> None:
    damage, message, remedy = REFUSALS[what]
    root = brats_tree(tmp_path / "download")
    damage(root)
    with pytest.raises(RefusedError) as caught:
        convert(find_brats(root), tmp_path / "raw", Options())
    refused = [p for p in caught.value.report.problems if p.level == REFUSED]
    assert {p.case for p in refused} == {CASE}
    assert message in str(caught.value)
    assert str(root) in str(caught.value), "the file's path is told"
    assert not (tmp_path / "raw").exists()

    report = convert(find_brats(root), tmp_path / "raw", Options(skip_incomplete=True))
    assert CASE not in {c.id for c in report.cases}
    assert len(report.cases) == 2
    assert not list((tmp_path / "raw").rglob(f"{CASE}*"))
    if remedy is not None:
        mended = convert(find_brats(root), tmp_path / "mended", Options(**remedy))
        assert len(mended.cases) == 3
        assert any(p.level == REPAIRED and p.case == CASE for p in mended.problems)


def test_all_reasons_are_told_at_once(tmp_path: Path) -> None:
    root = brats_tree(tmp_path / "download")
    _t1(root).unlink()
    _voxels("seg", lambda a: a * 60)(root)
    other = root / "BraTS2021_Training_Data" / "BraTS2021_00002" / "BraTS2021_00002_flair.nii.gz"
    other.write_bytes(b"")
    report = plan(find_brats(root), Options())
    assert len([p for p in report.problems if p.level == REFUSED]) >= 3
    assert report.refused_cases == {CASE, "BraTS2021_00002"}


def test_duplicates(tmp_path: Path) -> None:
    root = brats_tree(tmp_path / "download")
    folder = root / "BraTS2021_Training_Data"
    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        copy = folder / "BraTS2021_00077" / f"BraTS2021_00077_{name}.nii.gz"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(_file(root, name), copy)
    with pytest.raises(RefusedError, match=f"BraTS2021_00077: the same images as {CASE}"):
        convert(find_brats(root), tmp_path / "raw", Options())
    report = convert(find_brats(root), tmp_path / "raw", Options(keep_duplicates=True))
    assert len(report.cases) == 4
    shutil.copytree(folder / CASE, folder / "copy (1)" / CASE)
    assert f"{CASE}: found 2 times" in plan(find_brats(root), Options()).summary()


def test_junk_and_nesting(tmp_path: Path) -> None:
    root = brats_tree(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "__MACOSX").mkdir()
    (root / "BraTS2021_Training_Data" / CASE / f"._{CASE}_t1.nii.gz").write_bytes(b"junk")
    (root / "BraTS2021_Training_Data" / ".DS_Store").write_bytes(b"junk")
    report = plan(find_brats(tmp_path / "a"), Options())
    assert len(report.cases) == 3
    assert not report.problems


# --- ASOCA ---------------------------------------------------------------------------------------------------------


def _annotation(root: Path) -> Path:
    return root / "Normal" / "Annotations" / "Normal_1.nrrd"


def _shift(mm: float) -> Callable[[sitk.Image], sitk.Image]:
    def change(image: sitk.Image) -> sitk.Image:
        image.SetOrigin([image.GetOrigin()[0] + mm, *image.GetOrigin()[1:]])
        return image

    return change


ASOCA_REFUSALS = {
    "missing annotation": (lambda root: _annotation(root).unlink(), "no label"),
    "one slice less": (lambda root: edit_nrrd(_annotation(root), lambda i: i[:, :, :-1]), "16x20x11 voxels"),
    "label 255": (lambda root: edit_nrrd(_annotation(root), lambda i: i * 255), "label values 255; allowed: 0, 1"),
    "moved 5 mm": (lambda root: edit_nrrd(_annotation(root), _shift(5)), "lies up to 5 mm off"),
    "cut off": (lambda root: _annotation(root).write_bytes(_annotation(root).read_bytes()[:-40]), "Normal_1.nrrd"),
}


@pytest.mark.parametrize("what", ASOCA_REFUSALS)
def test_asoca_refused(what: str, tmp_path: Path) -> None:
    damage, message = ASOCA_REFUSALS[what]
    root = asoca_tree(tmp_path / "download")
    damage(root)
    with pytest.raises(RefusedError) as caught:
        convert(find_asoca(root), tmp_path / "raw", Options())
    assert message in str(caught.value)
    assert caught.value.report.refused_cases == {"Normal_01"}


def test_asoca_headers_that_simpleitk_refuses(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "download")
    path = root / "Normal" / "CTCA" / "Normal_1.nrrd"
    expected = sitk.ReadImage(str(path))
    edit_nrrd_header(path, b"kinds: domain domain domain", b"kinds: domain domain list")
    report = convert(find_asoca(root), tmp_path / "raw", Options())
    made = sitk.ReadImage(str(tmp_path / "raw" / "Dataset510_ASOCA" / "imagesTr" / "Normal_01_0000.nii.gz"))
    assert made.GetSpacing() == pytest.approx(expected.GetSpacing(), rel=1e-6)
    assert made.GetOrigin() == pytest.approx(expected.GetOrigin(), abs=1e-3)
    array = sitk.GetArrayFromImage(expected)
    assert np.array_equal(sitk.GetArrayFromImage(made), np.maximum(array, -1024))
    assert "SimpleITK refuses its header; read with pynrrd" in report.summary()


def test_asoca_zero_spacing(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "download")
    path = root / "Normal" / "CTCA" / "Normal_1.nrrd"
    head = path.read_bytes().partition(b"\n\n")[0]
    directions = next(line for line in head.splitlines() if line.startswith(b"space directions"))
    edit_nrrd_header(path, directions, b"space directions: (0.5,0,0) (0,0.5,0) (0,0,0)")
    with pytest.raises(RefusedError, match=r"Normal_1\.nrrd: voxel size 0\.5 x 0\.5 x 0 mm"):
        convert(find_asoca(root), tmp_path / "raw", Options())


def test_padding_is_cut_off_unless_kept(tmp_path: Path) -> None:
    root = asoca_tree(tmp_path / "download")
    convert(find_asoca(root), tmp_path / "cut", Options())
    convert(find_asoca(root, keep_padding=True), tmp_path / "kept", Options())
    lowest = [
        nibabel.load(tmp_path / name / "Dataset510_ASOCA" / "imagesTr" / "Normal_02_0000.nii.gz").get_fdata().min()
        for name in ("cut", "kept")
    ]
    assert lowest[0] == -1024
    assert lowest[1] < -2500
