"""What counts where a mask is empty, and which of the two is."""

from __future__ import annotations

import re
from dataclasses import dataclass

BOTH, PREDICTION, REFERENCE = "both", "prediction", "reference"
"""Which masks of a pair are empty; "" where none is."""
FARTHEST_MM = 1e6


@dataclass(frozen=True)
class EmptyRule:
    """What counts where masks are empty.

    both: "best" (the best value: 1, or a distance of 0) or "nan" (the case is left out, as in nnU-Net).
    one: distance in mm where one is empty; "nan" leaves the case out, "diagonal" is that of the image.
    """

    both: str = "best"
    one: str = "diagonal"

    def __post_init__(self) -> None:
        if self.both not in ("best", "nan"):
            raise ValueError(f"-both_empty {self.both}; expected best or nan")
        number = re.fullmatch(r"\d+(\.\d+)?", self.one)
        if self.one not in ("nan", "diagonal") and not (number and float(self.one) <= FARTHEST_MM):
            raise ValueError(f"-one_empty {self.one}; expected nan, diagonal, or a distance in mm such as 374")

    def __str__(self) -> str:
        both = "the best value" if self.both == "best" else "left out"
        far = {"diagonal": "the image's diagonal", "nan": "left out"}.get(self.one, f"{self.one} mm")
        return f"both empty: {both}; one empty: overlap 0, distance {far} (lesions: 374 mm each)"


def which_is_empty(prediction: bool, reference: bool) -> str:
    """prediction, reference: whether there is anything in them"""
    if prediction:
        return "" if reference else REFERENCE
    return PREDICTION if reference else BOTH
