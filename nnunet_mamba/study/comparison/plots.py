"""Pictures of a comparison, each a function that gives one matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_mamba.study.comparison.differences import Difference
from nnunet_mamba.study.comparison.tables import Tables, per_case
from nnunet_mamba.study.comparison.training import DICE, LOSSES, FoldRecord
from nnunet_mamba.study.evaluation.metrics import find
from nnunet_mamba.study.evaluation.overlay import literal

COLORS = [matplotlib.colormaps["tab10"](i) for i in range(10)]
PANEL = (4.2, 3.2)
FEW_EPOCHS = 30
"""Up to this number, cases are marked one by one."""


def _panels(count: int, columns: int = 3) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained", facecolor="white")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for empty in axes[count:]:
        empty.set_axis_off()
    return figure, axes[:count]


def distributions(tables: Tables, metric: str, masks: Sequence[str]) -> Figure:
    """Violin, box and every case, for each mask."""
    figure, axes = _panels(len(masks))
    jitter = np.random.default_rng(0)
    for ax, mask in zip(axes, masks, strict=True):
        scores = per_case(tables, metric, mask)
        for place, name in enumerate(tables, 1):
            values = scores[name].dropna().to_numpy()
            color = COLORS[(place - 1) % len(COLORS)]
            if len(values) > 1 and np.ptp(values) > 0:
                for body in ax.violinplot(values, [place], widths=0.85, showextrema=False)["bodies"]:  # type: ignore[union-attr]
                    body.set_facecolor(color)
            ax.boxplot(values, positions=[place], widths=0.25, showfliers=False, medianprops={"color": "black"})
            ax.plot(place + jitter.uniform(-0.08, 0.08, len(values)), values, ".", color=color, ms=4, alpha=0.6)
        ax.set_xticks(range(1, len(tables) + 1), list(map(literal, tables)), rotation=20, ha="right", fontsize=7)
        ax.set_ylabel(_with_unit(metric))
        ax.set_title(literal(mask), fontsize=10)
        ax.grid(axis="y", alpha=0.3)
    return figure


def forest(found: Sequence[Difference], metric: str) -> Figure:
    """Mean differences of one metric with their intervals."""
    rows = [d for d in found if d.metric == metric]
    figure = Figure(figsize=(8, 0.9 + 0.32 * len(rows)), layout="constrained", facecolor="white")
    ax = figure.subplots()
    for place, d in enumerate(rows):
        if not np.isnan(d.low):
            ax.plot([d.low, d.high], [place, place], color="0.4", lw=2)
        ax.plot(d.mean, place, "o", color=COLORS[0] if d.primary else "black")
    ax.axvline(0, color="0.6", lw=1)
    ax.set_yticks(range(len(rows)), [literal(f"{d.second} - {d.first}, {d.mask}") for d in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel(f"difference of {_with_unit(metric)}, 95% interval")
    return figure


def volume_agreement(tables: Tables, masks: Sequence[str]) -> Figure:
    """Predicted less true volume over their mean (Bland and Altman 1986), with mean and limits of agreement."""
    figure, axes = _panels(len(masks))
    for ax, mask in zip(axes, masks, strict=True):
        for color, (name, table) in zip(_cycled(len(tables)), tables.items(), strict=True):
            values = table.xs(mask, level="mask")
            difference = values["VolumeDifference"]
            ax.plot(values["Volume"] - difference / 2, difference, ".", color=color, label=_in_legend(name))
            mean, limit = difference.mean(), 1.96 * difference.std()
            ax.axhline(mean, color=color, lw=1)
            if limit == limit:
                for y in (mean - limit, mean + limit):
                    ax.axhline(y, color=color, lw=1, ls="dotted")
        ax.axhline(0, color="0.7", lw=0.8)
        ax.set_xlabel("mean of predicted and true volume in ml")
        ax.set_ylabel("predicted - true, ml")
        ax.set_title(literal(mask), fontsize=10)
    axes[0].legend(fontsize=7)
    return figure


def curves(records: Mapping[str, Sequence[FoldRecord]]) -> Figure:
    """Losses above, Dice below, a column per model, a colour per fold."""
    names = list(records)
    figure = Figure(figsize=(PANEL[0] * len(names), 2 * PANEL[1]), layout="constrained", facecolor="white")
    grid = figure.subplots(2, len(names), squeeze=False, sharey="row")
    for column, name in enumerate(names):
        for color, record in zip(_cycled(len(records[name])), records[name], strict=True):
            for row, kinds in enumerate((LOSSES, DICE)):
                for style, kind in zip(("-", "dotted"), kinds, strict=True):
                    values = record.curves.get(kind, [])
                    label = f"fold {record.fold}" if style == "-" else None
                    marker = "." if len(values) <= FEW_EPOCHS else None
                    epochs = range(1, len(values) + 1)
                    grid[row, column].plot(epochs, values, color=color, ls=style, lw=1.2, label=label, marker=marker)
        grid[0, column].set_title(literal(name), fontsize=9)
        grid[1, column].set_xlabel("epoch")
    for row, kinds in enumerate((LOSSES, DICE)):
        first, second = kinds.values()
        grid[row, 0].set_ylabel(f"{first} (line),\n{second} (dots)", fontsize=8)
    grid[0, 0].legend(fontsize=7)
    return figure


def _in_legend(name: str) -> str:
    """Legends leave out what begins with an underscore"""
    return literal(f" {name}" if name.startswith("_") else name)


def _with_unit(metric: str) -> str:
    (found,) = find([metric])
    return f"{metric} in {found.unit}" if found.unit else metric


def _cycled(count: int) -> list[tuple[float, ...]]:
    return [COLORS[i % len(COLORS)] for i in range(count)]
