"""Two equal tubes on a line and a marker beyond each: the kind of the markers says which tube is the target.

    margin | marker | distance | tube | gap | tube | distance | marker | margin
             whole               target                         split

One marker is whole, the other split into halves. The target is the tube on the side of the whole one. All lies on one
line along one axis, at a random place of the cross-section.

What is near tells nothing. Both answers have the same tubes and the same markers, only at other ends; noise apart,
every window of at most the distance occurs equally often in both. So neither a window, nor a count or mean of windows
over the whole volume (which a norm over the volume computes) tells which tube it is: a tube and its marker must be
seen together. This is why there are two markers, one of each kind, and not one; and why the margin is as wide as the
distance: a marker that is seen together with the border would tell its side. The markers are a multiple of 32 apart for
distances that are multiples of 16, so that the phase of strides tells no side either.

A network that sees `reach` voxels to each side can join a tube and its marker itself from a reach above the distance
on, and through norms over the volume from half of that on: then some window between them holds both.

Mirroring, turning, scaling and all changes of intensities keep the relation, as long as the markers stay in the patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset_conversion.phantom import CURVE, LANDMARK, checked, noisy, round_up

MARKER, TUBE, BETWEEN = 6, 10, 6
"""Voxels along the axis: of a marker, of a tube, and from tube to tube"""
DIAMETER, DISC = 8, 58
"""Across, of tubes and markers: those 52 voxels for which twice their offsets from a corner, squared, sum to DISC or
less"""
SPLIT = 4
"""Voxels between the halves of a split marker, across the axis"""
ROOM = 8
"""Voxels that the line may at least be moved along the axis from case to case"""
DIVISOR = 32
"""Of the size along the axis, so that a patch can be the whole volume"""
DISTANCES, MARGINS, WIDTHS = (8, 240), (0, 240), (16, 64)


@dataclass(frozen=True)
class FarMarker:
    """The task with its options, all in voxels of 1 mm.

    distance: from either tube to its marker. axis: of the array z y x that the line follows, 0 the slowest in memory, 2
    the fastest. margin: at least so much beyond the markers, None for the distance. width: of the volume across.
    Raises ValueError, naming the option, for values that are not allowed.
    """

    distance: int = 48
    axis: int = 0
    margin: int | None = None
    width: int = 24

    def __post_init__(self) -> None:
        checked("distance", self.distance, *DISTANCES)
        checked("axis", self.axis, 0, 2, "")
        checked("margin", self.beyond, *MARGINS)
        checked("width", self.width, *WIDTHS)

    @property
    def beyond(self) -> int:
        """The margin"""
        return self.distance if self.margin is None else self.margin

    @property
    def extent(self) -> int:
        """Voxels from marker to marker, both included"""
        return 2 * (MARKER + self.distance + TUBE) + BETWEEN

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volumes, z y x"""
        across = [self.width, self.width]
        across.insert(self.axis, round_up(self.extent + 2 * self.beyond + ROOM, DIVISOR))
        return tuple(across)

    @property
    def name(self) -> str:
        return f"FarMarkerD{self.distance}Axis{self.axis}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of these volumes before training"""
        return (
            f"train with a patch of the whole volume, {' x '.join(map(str, self.shape))}; from marker to marker it is "
            f"{self.extent} voxels along axis {self.axis}",
            "Dice without the marker: 0.67 where both tubes are found, 0.5 on average where one is guessed",
        )

    def facts(self) -> dict[str, Any]:
        """The options, for a file beside the dataset"""
        return {"distance": self.distance, "axis": self.axis, "margin": self.beyond, "width": self.width}

    @staticmethod
    def stratum(number: int) -> str:
        """The answer of a case, by turns: whether the target is the tube at lower or at higher indices"""
        return ("low", "high")[number % 2]

    def draw(self, random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (int16) and label (uint8) of a case, z y x"""
        contrast, label = self.shapes(random, number)
        return noisy(random, contrast), label

    def shapes(self, random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The case without its noise: contrast and label (uint8), z y x"""
        length = self.shape[self.axis]
        reach = (DIAMETER + SPLIT) // 2 + 1
        at = int(random.integers(self.beyond, length - self.extent - self.beyond + 1))
        centre = [int(c) for c in random.integers(reach, self.width - reach + 1, 2)]
        across = int(random.integers(2))
        low_is_target = self.stratum(number) == "low"
        contrast = np.zeros((length, self.width, self.width), np.uint8)
        label = np.zeros_like(contrast)

        whole, split = self._sections(centre, across)
        first = at + MARKER + self.distance
        tubes = [slice(n, n + TUBE) for n in (first, first + TUBE + BETWEEN)]
        ends = [slice(n, n + MARKER) for n in (at, at + self.extent - MARKER)]
        for tube in tubes:
            contrast[tube, whole] = CURVE
        for end, is_whole in zip(ends, (low_is_target, not low_is_target), strict=True):
            contrast[end, whole if is_whole else split] = LANDMARK
        label[tubes[not low_is_target], whole] = 1
        return self._along_axis(contrast), self._along_axis(label)

    def _along_axis(self, volume: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(volume, 0, self.axis))

    def _sections(self, centre: list[int], across: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks of a cross-section: a disc around a corner of voxels, and the same in halves, apart along one axis"""
        offset = 2 * np.arange(self.width) + 1
        squares = [(offset - 2 * c) ** 2 for c in centre]
        disc = squares[0][:, None] + squares[1][None, :] <= DISC
        lower = (offset < 2 * centre[across]).reshape((-1, 1) if across == 0 else (1, -1))
        apart = SPLIT // 2
        return disc, np.roll(disc & lower, -apart, across) | np.roll(disc & ~lower, apart, across)
