"""Damaged downloads of every kind: refused in words, or what comes out is what went in. See fuzz.py."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.dataset_conversion.fuzz import KINDS, count, holds, nearly

FAST = {"asoca": 4, "brats": 4, "msd": 6}
SLOW = {"asoca": 30, "brats": 30, "msd": 60, "nifti": 100, "nrrd": 200, "mha": 200, "description": 200}


@pytest.mark.parametrize("kind", KINDS)
def test_some_damaged_downloads(kind: str) -> None:
    _, wrong = count(kind, range(FAST.get(kind, 12)))
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_downloads(kind: str) -> None:
    found, wrong = count(kind, range(100, 100 + SLOW[kind]))
    assert not wrong
    assert found["ok"] > 0
    assert found["refused"] > 0


def test_the_oracle_takes_a_negligible_intercept_for_none_and_no_other() -> None:
    voxels = np.arange(100, dtype=np.float32)
    assert nearly(voxels, voxels + np.float32(7e-21))
    assert not nearly(voxels, voxels + np.float32(1e-3))


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_the_oracle_knows_damage_that_the_checksum_tells(ending: str, tmp_path: Path) -> None:
    """Other voxels with their own checksum cannot be told from sound ones; with that of the sound ones they can"""
    path = tmp_path / f"a.{ending}"
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(voxels.T), str(path), useCompression=True)
    assert holds(path, voxels, voxels.dtype)
    other = voxels.copy()
    other[0, 0, 0] = 7
    mark = b"\n\n" if ending == "nrrd" else b"LOCAL\n"
    pack, length = (gzip.compress, 8) if ending == "nrrd" else (zlib.compress, 4)
    head, sound = path.read_bytes().split(mark, 1)
    body = pack(other.T.tobytes())
    path.write_bytes(head + mark + body)
    assert holds(path, other, voxels.dtype)
    path.write_bytes(head + mark + body[:-length] + sound[-length:])
    assert not holds(path, other, voxels.dtype)
