"""Dice over distance: a panel per task and axis, a line per network, a mark where its convolutions end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from nnunet_mamba.study.protocol.reach_probe import NO_AXIS

AXES = {NO_AXIS: "", 0: ", axis 0 (slowest in memory)", 1: ", axis 1", 2: ", axis 2 (fastest in memory)"}
WIDTH, HEIGHT, DPI = 5.2, 4.2, 150
ASIDE = 0.012
"""Of the distance, by which networks are drawn apart"""


def draw(table: pd.DataFrame, found: pd.DataFrame, guessed: float, target: Path) -> None:
    """table: a row per dataset and network; found: a row per training; guessed: the Dice of who has not seen"""
    panels = [(*of, rows) for of, rows in table.groupby(["task", "axis"], sort=False)]  # type: ignore[misc]
    colors = {name: f"C{i}" for i, name in enumerate(table["network"].unique())}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH * len(panels), HEIGHT), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (task, axis, rows) in zip(axes[0], panels, strict=True):
        _panel(ax, rows, _where(found, task=task, axis=axis), colors)
        ax.axhline(guessed, color="0.4", linewidth=1)
        ax.annotate("both sides, without having seen", (1, guessed), (-4, -11), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", fontsize=8, color="0.4")  # fmt: skip
        ax.set_title(f"{task}{AXES[axis]}", fontsize=10)
    axes[0, 0].set_ylabel("Dice of unseen cases, each seed and mean")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(target, dpi=DPI)
    plt.close(figure)


def _panel(ax: Axes, table: pd.DataFrame, found: pd.DataFrame, colors: dict[str, str]) -> None:
    ends: dict[int, list[str]] = {}
    for place, (name, color) in enumerate(colors.items()):
        rows, each = (_where(frame, network=name).sort_values(by="far") for frame in (table, found))
        aside = 1 + ASIDE * (place - (len(colors) - 1) / 2)
        ax.plot(rows["far"] * aside, rows["Dice"], color=color, label=name, linewidth=1.5)
        ax.plot(each["far"] * aside, each["Dice"], "o", color=color, markersize=4, alpha=0.7)
        for reach in rows["reach"].unique():
            ends.setdefault(int(reach), []).append(name)
    for reach, names in ends.items():
        for i, name in enumerate(names):  # those that see equally far share a line of alternating colours
            ax.axvline(reach, color=colors[name], linestyle=(4 * i, (4, 4 * (len(names) - 1) or 2)), linewidth=1)
    far = np.unique(np.asarray(found["far"]))
    ax.set_xscale("log")
    ax.set_xticks(far, [str(f) for f in far])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("distance in voxels; dashed: where the convolutions of a network end")


def _where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Rows with these values"""
    for column, value in values.items():
        frame = frame.loc[frame[column] == value, :]
    return frame
