"""`nnunet_mamba.metrics`: the numbers of `nnunet-mamba evaluate`, from arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import nnunet_mamba
from nnunet_mamba.cli import main as cli

SPACING = (2.0, 1.0, 0.5)


def _masks() -> tuple[np.ndarray, np.ndarray]:
    a, b = np.zeros((2, 12, 14, 16), np.uint8)
    a[2:8, 3:10, 4:12] = 1
    b[3:9, 3:10, 4:12] = 1
    return a, b


def test_values_by_hand() -> None:
    a, b = _masks()
    common, both = 5 * 7 * 8, 2 * 6 * 7 * 8
    assert nnunet_mamba.metrics.dice(a, b) == pytest.approx(2 * common / both)
    assert nnunet_mamba.metrics.hd95(a, b, SPACING) == 2.0  # a slice of 2 mm
    assert nnunet_mamba.metrics.nsd(a, b, SPACING, 2.5) == pytest.approx(1.0)
    assert nnunet_mamba.metrics.nsd(a, b, SPACING, 0.25) < 0.9
    assert nnunet_mamba.metrics.dice(a * 3.0, b > 0) == nnunet_mamba.metrics.dice(a, b)
    assert nnunet_mamba.metrics.dice(a[5], b[5]) > 0.8  # two axes


def test_empty_masks() -> None:
    a, _ = _masks()
    none = np.zeros_like(a)
    assert nnunet_mamba.metrics.dice(none, none) == 1
    assert nnunet_mamba.metrics.hd95(none, none, SPACING) == 0
    assert nnunet_mamba.metrics.dice(a, none) == 0
    assert nnunet_mamba.metrics.hd95(a, none, SPACING) == pytest.approx(np.linalg.norm(np.multiply(a.shape, SPACING)))
    assert nnunet_mamba.metrics.nsd(none, a, SPACING) == 0


def test_what_is_refused() -> None:
    a, b = _masks()
    for call, told in (
        (lambda: nnunet_mamba.metrics.dice(a, b[1:]), "two masks on one grid"),
        (lambda: nnunet_mamba.metrics.hd95(a, b, (1.0, 1.0)), "expected 3 numbers of mm"),
        (lambda: nnunet_mamba.metrics.hd95(a, b, (1.0, 1.0, 0.0)), "more than 0"),
        (lambda: nnunet_mamba.metrics.nsd(a, b, SPACING, 0), "tolerance 0"),
        (lambda: nnunet_mamba.metrics.dice("mask.nii.gz", b), "expected a mask"),
    ):
        with pytest.raises(ValueError, match=told):
            call()


def test_the_command_prints_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = _masks()
    a[4, 4, 4] = 2
    paths = []
    for name, mask in (("a", a), ("b", b)):
        image = sitk.GetImageFromArray(mask)
        image.SetSpacing(SPACING[::-1])
        paths.append(str(tmp_path / f"{name}.nii.gz"))
        sitk.WriteImage(image, paths[-1])
    before = sorted(tmp_path.iterdir())
    assert cli.main(["evaluate", *paths, "-metrics", "Dice", "HD95", "NSD2"]) == 0
    said = capsys.readouterr().out
    cells = [f"{f(a == 1, b == 1, SPACING):.4g}" for f in (nnunet_mamba.metrics.dice, nnunet_mamba.metrics.hd95)]
    cells.append(f"{nnunet_mamba.metrics.nsd(a == 1, b == 1, SPACING, 2.0):.4g}")
    assert f"| 1 | {' | '.join(cells)} | neither |" in said
    assert "| 2 | 0 | " in said
    assert "| reference |" in said
    assert sorted(tmp_path.iterdir()) == before
    for wrong, told in (
        (paths[:1], "1 file given; expected a prediction and its reference"),
        ([paths[0], paths[0]], "the same file"),
        ([paths[0], str(tmp_path / "c.nii.gz")], "no such file"),
        ([paths[0], str(tmp_path)], "give two folders by -ref and -pred"),
        ([*paths, "-o", str(tmp_path)], "-o goes with two folders"),
        ([], "-ref and -pred missing"),
    ):
        assert cli.main(["evaluate", *wrong]) == 2
        assert told in capsys.readouterr().err
