"""A picture of one case: prediction against truth, or alone, in three planes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PLANES = ("axial", "coronal", "sagittal")
EMPTY: Mapping[int, str] = {}


def draw_overlay(
    image: Path, truth: Path | None, prediction: Path, target: Path, title: str = "", names: Mapping[int, str] = EMPTY
) -> None:
    """Write a PNG: the three planes through the truth's densest point, truth filled, prediction outlined.

    image, truth, prediction: volumes on one grid (z y x); without a truth the prediction is filled too. names: of label
    values. Raises ValueError when their shapes differ.
    """
    volume, labels, predicted = (_oriented(path) for path in (image, truth or prediction, prediction))
    spacing = volume.GetSpacing()[::-1]  # z y x, mm
    voxels, reference, guess = (sitk.GetArrayFromImage(v) for v in (volume, labels, predicted))
    reference, guess = np.rint(reference), np.rint(guess)  # as they are scored
    if not voxels.shape == reference.shape == guess.shape:
        raise ValueError(
            f"shapes differ: {image} {voxels.shape}, {truth} {reference.shape}, {prediction} {guess.shape}"
        )
    values = sorted((set(np.unique(reference).astype(int)) | set(np.unique(guess).astype(int))) - {0})
    colors = {value: colormaps["tab10"](i % 10) for i, value in enumerate(values)}
    low, high = np.percentile(voxels, (1, 99))

    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained", facecolor="white")
        for axis, (plane, ax) in enumerate(zip(PLANES, figure.subplots(1, 3), strict=True)):
            index = _densest_slice(reference if reference.any() else guess, axis)
            rows, columns = (spacing[a] for a in range(3) if a != axis)
            ax.imshow(
                np.take(voxels, index, axis), cmap="gray", vmin=low, vmax=high, aspect=rows / columns, origin="lower"
            )
            for value, color in colors.items():
                _fill(ax, np.take(reference, index, axis) == value, color, rows / columns)
                _outline(ax, np.take(guess, index, axis) == value, color)
            ax.set_title(f"{plane}, slice {index}")
            ax.set_axis_off()
        handles = [
            Line2D([], [], color=color, lw=2, label=names.get(value, f"label {value}"))
            for value, color in colors.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)), frameon=False)
        how = "truth filled, prediction outlined" if truth is not None else "prediction"
        figure.suptitle(f"{literal(title or prediction.name)}: {how}")
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)


def _oriented(path: Path) -> sitk.Image:
    """Axes so that planes have their names and look as radiologists have them: head and front up, the patient's right
    on the left"""
    image = sitk.ReadImage(str(path))
    return sitk.DICOMOrient(image, "LAS") if image.GetDimension() == 3 else image


def literal(text: str) -> str:
    """A name as matplotlib shows it, whatever dollars are in it: between two of them it expects mathematics"""
    return text.replace("$", r"\$")


def _densest_slice(mask: np.ndarray, axis: int) -> int:
    others = tuple(a for a in range(mask.ndim) if a != axis)
    return int(np.argmax((mask > 0).sum(others)))


def _fill(ax: Axes, mask: np.ndarray, color: tuple[float, ...], aspect: float) -> None:
    rgba = np.zeros((*mask.shape, 4))
    rgba[mask] = (*color[:3], 0.35)
    ax.imshow(rgba, origin="lower", aspect=aspect, interpolation="nearest")


def _outline(ax: Axes, mask: np.ndarray, color: tuple[float, ...]) -> None:
    if mask.any():
        ax.contour(mask.astype(float), levels=[0.5], colors=[color[:3]], linewidths=1.8)
