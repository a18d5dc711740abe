"""A tree of thin curves at a thick root, and equal curves that begin a few voxels beside it: only the tree is target.

All curves are grown from the root first, each with one side branch. Then half of them, by lot, lose their first voxels,
so that a gap parts them from the root; these are the fragments. The other half lose as many at their tips. So tree and
fragments have the same lengths, courses, thickness and intensities, and nothing but the gap tells them apart: far from
the root a curve must be followed back to it. No curve comes nearer to another, or back to the root, than the gap.

The root is brighter and thick, so that it is found at once, and is not target: the Dice of easy voxels would hide what
is asked. Each case has as many fragments as branches of the tree, so that counts tell nothing either.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from dataset_conversion.phantom import CURVE, LANDMARK, checked, noisy, round_up

Node = tuple[int, int, int]

RADIUS = 2
"""Voxels of the root to either side of its axis"""
ROOMY = 4
"""Nodes of the lattice per node of a curve: so much that curves find their way"""
DIVISOR = 16
"""Of the size, so that a patch can be the whole volume"""
TRIES = 1000
LAST = 3
"""Edges of a curve beyond its side branch at least"""
LENGTHS, GAPS, BRANCHES, THICKNESSES = (24, 240), (2, 8), (2, 12), (1, 2)
STEPS = [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)]


@dataclass(frozen=True)
class ThinTree:
    """The task with its options, in voxels of 1 mm.

    length: of a curve from the root to its tip, about. gap: free voxels between the root and a fragment. branches:
    curves at the root, fragments included. thickness: of a curve.
    Raises ValueError, naming the option, for values that are not allowed.
    """

    length: int = 64
    gap: int = 3
    branches: int = 4
    thickness: int = 2

    def __post_init__(self) -> None:
        checked("length", self.length, *LENGTHS)
        checked("gap", self.gap, *GAPS)
        checked("branches", self.branches, *BRANCHES, "")
        checked("thickness", self.thickness, *THICKNESSES)
        if self.branches % 2:
            raise ValueError(f"--branches {self.branches}: expected an even number, since half of them are fragments")
        least = (LAST + 1) * self.cell
        if self.length < least:
            raise ValueError(f"--length {self.length}: expected at least {least} with --gap {self.gap}")

    @property
    def cell(self) -> int:
        """Voxels between nodes of the lattice along which curves run, so that none comes nearer than the gap: nodes are
        moved by up to a voxel, and curves are as thick as they are"""
        return self.gap + self.thickness + RADIUS + 1

    @property
    def main(self) -> int:
        """Edges of a curve: of the lattice, from the node beside the root on"""
        return round_up(self.length, self.cell) // self.cell

    @property
    def trunk(self) -> int:
        """Nodes of the root; four curves can begin beside each"""
        return max(2, self.branches // 2)

    @property
    def nodes(self) -> int:
        """Of the lattice, along each axis"""
        count, needed = self.trunk + 3, ROOMY * self.branches * (self.main + self.main // 2 + 1)
        while count**3 < needed:
            count += 1
        return count

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volumes, z y x"""
        return (round_up(self.nodes * self.cell, DIVISOR),) * 3

    @property
    def name(self) -> str:
        return f"ThinTreeL{self.length}Gap{self.gap}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of these volumes before training"""
        return ("Dice where fragments are taken for branches of the tree: 0.67",)

    def facts(self) -> dict[str, Any]:
        """The options, for a file beside the dataset"""
        return {"length": self.length, "gap": self.gap, "branches": self.branches, "thickness": self.thickness}

    @staticmethod
    def stratum(number: int) -> str:
        """None: every case has both answers"""
        return ""

    def draw(self, random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (int16) and label (uint8) of a case, z y x"""
        contrast, label, _ = self.shapes(random)
        return noisy(random, contrast), label

    def shapes(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The case without its noise: contrast, label, and the number of the curve from 1 on (all uint8), z y x"""
        size = self.shape[0]
        origin = random.integers(0, size - self.nodes * self.cell + 1, 3) + self.cell // 2
        side = [int(n) for n in random.integers(1, self.nodes - 1, 2)]
        root = [(k, side[0], side[1]) for k in range(self.trunk)]
        curves = self._grown(random, root)
        places = {n: origin + self.cell * np.array(n) for n in root}
        for curve in curves:
            for path in curve:
                for n in path:
                    if n not in places:
                        places[n] = origin + self.cell * np.array(n) + random.integers(-1, 2, 3)

        low, high = places[root[0]] - RADIUS, places[root[-1]] + RADIUS
        low[0] = 0
        contrast, label, number = (np.zeros(self.shape, np.uint8) for _ in range(3))
        for k, is_tree in enumerate(random.permutation(np.arange(self.branches) < self.branches // 2)):
            main, twig = (_line([places[n] for n in path]) for path in curves[k])
            apart = np.maximum(low - main - (self.thickness - 1), main - high).max(1) - 1  # free voxels to the root
            begin = int(np.flatnonzero(apart < self.gap).max()) + 1
            lost = int((apart[:begin] >= 0).sum())
            end = len(main) - int(random.integers(self.cell))  # where in its last edge a tip is tells nothing
            kept = main[: end - lost] if is_tree else main[begin:end]
            twig = twig[: len(twig) - int(random.integers(self.cell))]
            mask = self._thick(np.concatenate([kept, twig]))
            contrast[mask], number[mask] = CURVE, k + 1
            label[mask] = is_tree
        trunk = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
        contrast[trunk], label[trunk], number[trunk] = LANDMARK, 0, 0
        return self._turned(random, contrast, label, number)

    def _grown(self, random: np.random.Generator, root: list[Node]) -> list[tuple[list[Node], list[Node]]]:
        """Per curve the nodes from the root to the tip, and those of its side branch from where it begins"""
        beside = [_moved(n, step) for n in root for step in STEPS[:4]]
        for _ in range(TRIES):
            starts = [beside[i] for i in random.permutation(len(beside))[: self.branches]]
            taken = {*root, *starts}
            mains = [self._walk(random, start, self.main, taken) for start in starts]
            twigs = [self._twig(random, main, taken) for main in mains] if all(mains) else [[]]
            if all(twigs):
                return [([root[m[0][0]], *m], t) for m, t in zip(mains, twigs, strict=True)]
        raise RuntimeError(f"no room for {self.branches} curves in {TRIES} tries")  # never seen

    def _twig(self, random: np.random.Generator, main: list[Node], taken: set[Node]) -> list[Node]:
        """A side branch; empty if there is no room for it. It begins where no tip is cut, see `shapes`."""
        for i in random.permutation(np.arange(1, len(main) - LAST)):
            twig = self._walk(random, main[i], self.main // 2, taken)
            if twig:
                return twig
        return []

    def _walk(self, random: np.random.Generator, start: Node, edges: int, taken: set[Node]) -> list[Node]:
        """Free nodes, each beside the one before, which are taken then; empty if it has come to no end"""
        for _ in range(10):
            path = [start]
            while len(path) <= edges:
                free = [n for n in (_moved(path[-1], s) for s in STEPS) if n not in taken and n not in path]
                free = [n for n in free if all(0 <= i < self.nodes for i in n)]
                if not free:
                    break
                path.append(free[int(random.integers(len(free)))])
            else:
                taken.update(path)
                return path
        return []

    def _thick(self, points: np.ndarray) -> np.ndarray:
        """Mask of a curve, from the points (n 3) in its middle"""
        mask = np.zeros(self.shape, bool)
        for offset in np.ndindex((self.thickness,) * 3):
            mask[tuple((points + offset).T)] = True
        return mask

    @staticmethod
    def _turned(
        random: np.random.Generator, contrast: np.ndarray, label: np.ndarray, number: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """With the root at one of the six faces"""
        axis, flip = int(random.integers(3)), bool(random.integers(2))
        made = (np.moveaxis(a[::-1] if flip else a, 0, axis) for a in (contrast, label, number))
        contrast, label, number = (np.ascontiguousarray(a) for a in made)
        return contrast, label, number


def _moved(node: Node, step: Node) -> Node:
    return node[0] + step[0], node[1] + step[1], node[2] + step[2]


def _line(places: list[np.ndarray]) -> np.ndarray:
    """Points (n 3) from place to place, each a face's neighbour of the one before"""
    points = [places[0]]
    for a, b in pairwise(places):
        moves = [(Fraction(2 * k + 1, 2 * abs(int(d))), axis, int(np.sign(d))) for axis, d in enumerate(b - a)
                 for k in range(abs(int(d)))]  # fmt: skip
        for _, axis, sign in sorted(moves):
            points.append(points[-1] + sign * np.eye(3, dtype=int)[axis])
    return np.array(points)
