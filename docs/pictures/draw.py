"""Draws the documentation's pictures beside this file: `python docs/pictures/draw.py`.

The step numbers come from the project's own token orders. Drawn again, the files are the same byte for byte (with the
same matplotlib).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from nnunet_mamba.blocks.mamba import to_tokens
from nnunet_mamba.ops.oriented_scan.orders import permute

FOLDER = Path(__file__).parent
SETTINGS = {"svg.hashsalt": "nnunet-mamba", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9}
WIDTH = 9.375  # inches: 900 pixels of a browser

INK, SOFT, LINE = "#1c2733", "#5b6875", "#8a97a5"
BLUE, PALE_BLUE, GREY, ORANGE = "#2f6fad", "#d7e6f5", "#e6e9ec", "#c8551b"
STEPS = LinearSegmentedColormap.from_list("steps", ["#f4f8fc", "#8fbbe3"])

SIZE = 3
ROW_HEIGHT, SHEAR, SLICE_GAP, RADIUS = 0.74, 0.34, 2.75, 0.23


def main() -> None:
    """Write all pictures."""
    for name, draw in PICTURES.items():
        with plt.rc_context(SETTINGS):
            figure = draw()
            figure.savefig(FOLDER / name, facecolor="white", metadata={"Date": None, "Creator": None})
            plt.close(figure)


# ------------------------------------------------------------------------------------------------------- scan orders


def scan_orders() -> Figure:
    """The step at which each voxel of a 3 x 3 x 3 volume is read, in the three orders."""
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 5.5))
    figure.subplots_adjust(left=0.02, right=0.99, bottom=0.09, top=0.98, wspace=0.02)
    orders = (
        ("f", "forward", "step t reads token t"),
        ("b", "reverse", "step t reads token 26 - t"),
        ("s", "inter-slice", "step t reads token (t % 3) * 9 + t // 3"),
    )
    for axes, (letter, title, rule) in zip(panels, orders, strict=True):
        _volume(axes, _steps(letter))
        _text(axes, 1.34, 0.7, title, size=12, weight="bold")
        _text(axes, 1.34, -3 * SLICE_GAP + 0.5, rule)
    for x in range(SIZE):
        left = _position(x, 1, 0)[0] - 0.95
        panels[0].text(left, _position(x, 1, 0)[1], f"x = {x}", ha="right", va="center", color=SOFT, fontsize=9.5)
    _compass(panels[0])
    figure.text(
        0.5, 0.035,
        "The number is the step at which a voxel is read. Arrows join neighbours that are read one after the other.",
        ha="center", va="center", color=SOFT, fontsize=9.5,
    )  # fmt: skip
    return figure


def _steps(order: str) -> torch.Tensor:
    """(x y z): the step that reads each voxel"""
    tokens = to_tokens(torch.arange(SIZE**3).reshape(1, 1, SIZE, SIZE, SIZE))
    read = permute(tokens, order, SIZE).flatten()
    return torch.argsort(read).reshape(SIZE, SIZE, SIZE)


def _position(x: int, y: int, z: int) -> tuple[float, float]:
    """Centre of a voxel on the page: slices below each other, rows towards the reader"""
    return z + SHEAR * (SIZE - 1 - y), -x * SLICE_GAP - y * ROW_HEIGHT


def _volume(axes: Axes, steps: torch.Tensor) -> None:
    axes.set(xlim=(-1.9, 3.4), ylim=(-3 * SLICE_GAP + 0.2, 0.95))
    axes.set_aspect("equal")
    axes.axis("off")
    where = {}
    for x, y, z in torch.cartesian_prod(*[torch.arange(SIZE)] * 3).tolist():
        step = int(steps[x, y, z])
        where[step] = (x, y, z)
        centre = _position(x, y, z)
        axes.add_patch(_cell(centre, STEPS(step / (SIZE**3 - 1))))
        axes.text(*centre, str(step), ha="center", va="center", color=INK, fontsize=10.5, zorder=4)
    for step in range(SIZE**3 - 1):
        here, there = where[step], where[step + 1]
        if sum(abs(a - b) for a, b in zip(here, there, strict=True)) == 1:
            _step_arrow(axes, _position(*here), _position(*there))


def _cell(centre: tuple[float, float], colour: tuple[float, ...]) -> Polygon:
    px, py = centre
    half, lean = ROW_HEIGHT / 2, SHEAR / 2
    corners = [
        (px - 0.5 + lean, py + half), (px + 0.5 + lean, py + half),
        (px + 0.5 - lean, py - half), (px - 0.5 - lean, py - half),
    ]  # fmt: skip
    return Polygon(corners, closed=True, facecolor=colour, edgecolor=LINE, linewidth=0.8, zorder=1)


def _step_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    (ax, ay), (bx, by) = start, end
    length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
    dx, dy = (bx - ax) / length * RADIUS, (by - ay) / length * RADIUS
    tail, head = (ax + dx, ay + dy), (bx - dx, by - dy)
    axes.add_patch(
        FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=7, color=ORANGE, linewidth=1.1,
                        shrinkA=0, shrinkB=0, zorder=3)
    )  # fmt: skip


def _compass(axes: Axes) -> None:
    """The three axes as the volume lies, left of the gap between two slices"""
    ox, oy = -1.56, -1.75
    for dx, dy, name in ((0.55, 0.0, "z"), (-SHEAR * 0.8, -ROW_HEIGHT * 0.8, "y"), (0.0, -0.85, "x")):
        axes.add_patch(
            FancyArrowPatch((ox, oy), (ox + dx, oy + dy), arrowstyle="-|>", mutation_scale=7, color=SOFT,
                            linewidth=1.0, shrinkA=0, shrinkB=0)
        )  # fmt: skip
        length = (dx**2 + dy**2) ** 0.5
        axes.text(
            ox + dx * (1 + 0.2 / length), oy + dy * (1 + 0.2 / length), name, ha="center", va="center", color=SOFT,
            fontsize=9.5,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- overview

BOX_TOP, BOX_BOTTOM = 318.0, 44.0
BOXES = ((8.0, 190.0), (226.0, 214.0), (468.0, 190.0), (686.0, 206.0))
"""Left edge and width of the four boxes, in pixels of a 900 pixel wide picture."""


def overview() -> Figure:
    """Plan, network, block, scan."""
    figure = plt.figure(figsize=(WIDTH, 3.75))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 900), ylim=(0, 360))
    axes.axis("off")
    titles = ("nnU-Net plan", "network", "Mamba layer", "tri-orientated scan")
    notes = ("stages, features, patch", "sized by the plan", "at every blue stage", "over the tokens")
    draw = (_plan, _network, _layer, _scan)
    for (left, width), title, note, inside in zip(BOXES, titles, notes, draw, strict=True):
        box = FancyBboxPatch(
            (left, BOX_BOTTOM), width, BOX_TOP - BOX_BOTTOM, boxstyle="round,pad=0,rounding_size=8",
            facecolor="white", edgecolor=LINE, linewidth=1.2,
        )  # fmt: skip
        axes.add_patch(box)
        _text(axes, left + width / 2, BOX_TOP + 20, title, size=11.5, weight="bold")
        _text(axes, left + width / 2, BOX_BOTTOM - 19, note, color=SOFT)
        inside(axes, left, width)
    for (left, width), (following, _) in pairwise(BOXES):
        _arrow(axes, (left + width + 3, 181), (following - 3, 181), colour=INK, size=13, width=1.8)
    return figure


def _plan(axes: Axes, left: float, width: float) -> None:
    _text(axes, left + width / 2, 294, "patch 128 x 128 x 128", size=9)
    columns = [left + share * width for share in (0.17, 0.47, 0.79)]
    for x, heading in zip(columns, ("stage", "features", "map size"), strict=True):
        _text(axes, x, 258, heading, color=SOFT)
    axes.plot([left + 14, left + width - 14], [245, 245], color=LINE, linewidth=0.8)
    for stage in range(5):
        for x, value in zip(columns, (stage, 48 * 2**stage, 128 // 2**stage), strict=True):
            _text(axes, x, 226 - 31 * stage, str(value), size=9.5)
    _text(axes, left + width / 2, 66, "strides 1, 2, 2, 2, 2; batch 2", size=9)


def _network(axes: Axes, left: float, width: float) -> None:
    middle = left + width / 2
    heights = [272 - 42 * level for level in range(5)]
    offsets = [86 - 21 * level for level in range(5)]  # of a bar's middle from the U's
    for level, (y, offset) in enumerate(zip(heights, offsets, strict=True)):
        half = 5.5 + 1.4 * level
        sides = (-1, 1) if level < 4 else (-1,)
        for side in sides:
            x = middle + side * offset if level < 4 else middle
            is_mamba = side < 0 and level > 0
            axes.add_patch(
                Rectangle((x - half, y - 15 + level), 2 * half, 30 - 2 * level, facecolor=BLUE if is_mamba else GREY,
                          edgecolor=INK if not is_mamba else BLUE, linewidth=0.8, zorder=2)
            )  # fmt: skip
        if level < 4:
            _arrow(axes, (middle - offset + half + 3, y), (middle + offset - half - 3, y), colour=LINE, dashed=True)
            below = middle - offsets[level + 1] if level < 3 else middle
            _arrow(axes, (middle - offset + 2, y - 17 + level), (below - 2, heights[level + 1] + 16), colour=INK)
            above = middle + offsets[level + 1] if level < 3 else middle
            _arrow(axes, (above + 2, heights[level + 1] + 16), (middle + offset - 2, y - 17 + level), colour=INK)
    for x, colour, name in ((left + 13, BLUE, "Mamba layers"), (left + 116, GREY, "convolutions")):
        axes.add_patch(
            Rectangle((x, 58), 11, 11, facecolor=colour, edgecolor=BLUE if colour == BLUE else INK, linewidth=0.8)
        )
        axes.text(x + 16, 63.5, name, ha="left", va="center", color=SOFT, fontsize=8.5)


def _layer(axes: Axes, left: float, width: float) -> None:
    x, wide = left + width / 2 - 11, 144
    rows = (
        (286, "map (b c x y z)", "white"),
        (239, "tokens (b l c)", "white"),
        (192, "layer norm", GREY),
        (145, "tri-orientated Mamba", PALE_BLUE),
        (74, "map (b c x y z)", "white"),
    )
    for y, label, colour in rows:
        _label(axes, x, y, label, wide, colour)
    for upper, lower in ((286, 239), (239, 192), (192, 145)):
        _arrow(axes, (x, upper - 14), (x, lower + 14), colour=INK)
    plus = 109
    _arrow(axes, (x, 131), (x, plus + 8), colour=INK)
    axes.add_patch(Circle((x, plus), 7.5, facecolor="white", edgecolor=INK, linewidth=1.0, zorder=3))
    axes.plot([x - 4, x + 4], [plus, plus], color=INK, linewidth=1.0, zorder=4)
    axes.plot([x, x], [plus - 4, plus + 4], color=INK, linewidth=1.0, zorder=4)
    _arrow(axes, (x, plus - 8), (x, 88), colour=INK)
    right = x + wide / 2 + 15
    axes.plot([x + wide / 2, right, right], [286, 286, plus], color=INK, linewidth=1.1)
    _arrow(axes, (right, plus), (x + 9, plus), colour=INK)


def _scan(axes: Axes, left: float, width: float) -> None:
    xs = [left + 22 + 20 * i for i in range(9)]
    for y, name, hops in (
        (262, "forward", [(i, i + 1) for i in range(8)]),
        (201, "reverse", [(i + 1, i) for i in range(8)]),
        (133, "inter-slice", [(0, 3), (3, 6)]),
    ):
        axes.text(left + 16, y + (25 if name != "inter-slice" else 35), name, ha="left", va="center", color=INK,
                  fontsize=9)  # fmt: skip
        for i, x in enumerate(xs):
            axes.add_patch(Circle((x, y), 5, facecolor=(PALE_BLUE, "#9cc3e6", BLUE)[i // 3], edgecolor=BLUE,
                                  linewidth=0.8, zorder=2))  # fmt: skip
        for a, b in hops:
            if abs(a - b) == 1:
                way = 6 if b > a else -6
                _arrow(axes, (xs[a] + way, y), (xs[b] - way, y), colour=ORANGE, size=5)
            else:
                _arc(axes, (xs[a], y + 6), (xs[b], y + 6))
    _arrow(axes, (left + width / 2, 117), (left + width / 2, 101), colour=INK)
    _label(axes, left + width / 2, 87, "sum, gate", 90, "white")
    _text(axes, left + width / 2, 60, "three slices, three tokens each", color=SOFT)


def _arc(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, connectionstyle="arc3,rad=-0.38", arrowstyle="-|>", mutation_scale=7, color=ORANGE,
                        linewidth=1.1, shrinkA=0, shrinkB=0, zorder=3)
    )  # fmt: skip


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    colour: str,
    size: float = 7,
    width: float = 1.1,
    dashed: bool = False,
) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=size, color=colour, linewidth=width,
                        linestyle=(0, (3, 2)) if dashed else "-", shrinkA=0, shrinkB=0, zorder=3)
    )  # fmt: skip


def _label(axes: Axes, x: float, y: float, text: str, wide: float, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch((x - wide / 2, y - 13), wide, 26, boxstyle="round,pad=0,rounding_size=5", facecolor=colour,
                       edgecolor=INK, linewidth=0.9, zorder=2)
    )  # fmt: skip
    _text(axes, x, y, text, size=9)


def _text(
    axes: Axes, x: float, y: float, text: str, *, size: float = 9, weight: str = "normal", color: str = INK
) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=size, fontweight=weight, color=color, zorder=5)


# --------------------------------------------------------------------------------------------------- learning curves

RECIPES = {
    "": ("nnU-Net's SGD", LINE),
    "_AdamW_lr3e-3": ("AdamW at 3e-3", BLUE),
    "_AdamW_lr3e-3_NoMirroring": ("AdamW at 3e-3, no mirroring", ORANGE),
}
NETWORKS = {"nnUNetTrainer": ("nnU-Net's U-Net", "-"), "nnUNetTrainerSegMamba": ("SegMamba", "--")}


def learning_curves() -> Figure:
    """Mean pseudo Dice after each epoch of the trainings in learning-curves.csv."""
    found = pd.read_csv(FOLDER / "learning-curves.csv", keep_default_na=False)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    for (trainer, recipe), rows in found.groupby(["trainer", "recipe"], sort=False):
        (network, style), (label, colour) = NETWORKS[str(trainer)], RECIPES[str(recipe)]
        axes.plot(
            rows["iterations"], rows["pseudo_dice"], style, color=colour, label=f"{label}: {network}", marker="o", ms=3
        )
    axes.set(xlabel="iterations", ylabel="mean pseudo Dice of fold 0", ylim=(-0.02, 0.9), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GREY)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "scan-orders.svg": scan_orders,
    "overview.svg": overview,
    "learning-curves.svg": learning_curves,
}

if __name__ == "__main__":
    main()
