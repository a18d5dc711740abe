"""Every file that is written or copied is read back by SimpleITK before its case counts as done."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion import generic
from dataset_conversion import written as module
from dataset_conversion.command import main
from dataset_conversion.convert import convert
from dataset_conversion.declare import Options
from dataset_conversion.grid import geometry
from dataset_conversion.written import differs, write
from tests.dataset_conversion.trees import described, generic_tree


def _command(tmp_path: Path) -> list[str]:
    root = generic_tree(tmp_path / "d", kind=np.int32)  # not copied: becomes int16
    description = described(tmp_path / "description")
    return ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe", str(description)]


def _spoilt(change: Any) -> Any:
    write_image = sitk.WriteImage

    def spoilt(image: sitk.Image, name: str, **options: bool) -> None:
        write_image(change(image), name, **options)

    return spoilt


SPOILT = {
    "a voxel": (lambda i: _voxel(i), "other voxels"),
    "spacing": (lambda i: _with(i, "SetSpacing", (0.5, 0.7, 1.4)), "voxels of 0.5 x 0.7 x 1.4 mm, not 0.5 x 0.7 x 1.3"),
    "origin": (lambda i: _with(i, "SetOrigin", (-3.4, 4, 5)), "up to 0.4 mm elsewhere"),
    "direction": (lambda i: _with(i, "SetDirection", (1, 0, 0, 0, -1, 0, 0, 0, -1)), "mm elsewhere"),
}


def _voxel(image: sitk.Image) -> sitk.Image:
    image[1, 2, 3] = image[1, 2, 3] + 1
    return image


def _with(image: sitk.Image, setter: str, values: tuple[float, ...]) -> sitk.Image:
    getattr(image, setter)(values)
    return image


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_as_meant_is_no_case(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = SPOILT[what]
    command = _command(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(sitk, "WriteImage", _spoilt(change))
        assert main(command) == 1
    told = capsys.readouterr().err
    assert f"written, but read back: {message}" in told or (message == "mm elsewhere" and message in told)
    assert "go on with the same command and --resume" in told
    target = tmp_path / "raw" / "Dataset530_Trial"
    assert not list(target.rglob("*.nii.gz"))
    assert main([*command, "--resume"]) == 0


@pytest.mark.parametrize("link", [None, "hard", "sym"])
def test_a_copy_that_simpleitk_reads_differently_is_written_anew(
    link: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = generic_tree(tmp_path / "d")
    read_image, seen = sitk.ReadImage, []

    def other(path: str) -> sitk.Image:
        image = read_image(path)
        seen.append(Path(path).name)
        if len(seen) == 1:
            image.SetSpacing((1, 1, 1))
        return image

    monkeypatch.setattr(module.sitk, "ReadImage", other)
    found = generic.discover(root, {"describe": described(tmp_path / "description")})
    convert(found, tmp_path / "raw", Options(link=link))
    monkeypatch.undo()
    target = tmp_path / "raw" / "Dataset530_Trial" / "imagesTr"
    anew, copied = (target / f"c{k}_0000.nii.gz" for k in (0, 1))
    source = root / "images"
    assert anew.read_bytes() != (source / "c0.nii.gz").read_bytes()
    assert copied.read_bytes() == (source / "c1.nii.gz").read_bytes()
    assert np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (anew, source / "c0.nii.gz")))
    assert seen.count("imagesTr_c0_0000.nii.gz") == 2, "what was written anew is read back too"
    assert {name.removeprefix("imagesTr_").removeprefix("labelsTr_") for name in seen} == {
        f"c{k}{end}.nii.gz" for k in range(3) for end in ("", "_0000")
    }, "every file is read back"


def test_a_copy_that_lost_bytes_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = generic_tree(tmp_path / "d")

    def short(source: Path, target: Path) -> None:
        target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes())[:-40] + bytes(40)))

    monkeypatch.setattr(shutil, "copyfile", short)
    convert(generic.discover(root, {"describe": described(tmp_path / "description")}), tmp_path / "raw", Options())
    made = tmp_path / "raw" / "Dataset530_Trial" / "imagesTr" / "c1_0000.nii.gz"
    assert np.array_equal(
        *(sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (made, root / "images" / "c1.nii.gz"))
    )


def test_differences_that_matter(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    affine = np.diag([0.5, 0.7, 1.3, 1.0])
    path = tmp_path / "x.nii.gz"
    write(path, array, geometry((5, 4, 3), affine))
    assert differs(path, array, geometry((5, 4, 3), affine)) is None
    for shift, same in ((0.05, True), (0.15, False)):
        moved = affine.copy()
        moved[0, 3] = shift
        assert (differs(path, array, geometry((5, 4, 3), moved)) is None) == same
    for factor, same in ((1 + 1e-6, True), (1 + 1e-4, False)):
        wider = affine.copy()
        wider[0, 0] *= factor
        assert (differs(path, array, geometry((5, 4, 3), wider)) is None) == same
    assert "(3, 4, 5) voxels, not (3, 4, 4)" in str(differs(path, array[..., 1:], geometry((4, 4, 3), affine)))
    path.write_bytes(path.read_bytes()[:30])
    assert "cannot be read" in str(differs(path, array, geometry((5, 4, 3), affine)))
