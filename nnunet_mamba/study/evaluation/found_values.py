"""What label maps hold where no dataset.json says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from nnunet_mamba.study.evaluation.description import ENDINGS, Description
from nnunet_mamba.study.evaluation.each_case import of_each_case
from nnunet_mamba.study.evaluation.masks import counts_of, files_by_case, read_labels

MOST = 300
"""More values than any anatomy has labels: an image, not a label map."""


def found_ending(reference: Path, prediction: Path) -> str:
    """The one that files of both folders have. Raises ValueError if there is none, or more than one."""
    both = [e for e in ENDINGS if files_by_case(reference, e) and files_by_case(prediction, e)]
    if len(both) != 1:
        what = f"files of {' and '.join(both)}" if both else f"no files of {', '.join(ENDINGS)}"
        raise ValueError(
            f"{reference} and {prediction} have {what} in common; name the dataset.json that says which: -djfile FILE"
        )
    return both[0]


def found_labels(pairs: Mapping[str, tuple[Path, Path]], jobs: int) -> tuple[Description, list[str]]:
    """Every value but 0 as a label, and lines about them. Files that cannot be read have no say.

    Raises ValueError where nothing is labelled, or too many values are there.
    """
    values, _ = of_each_case(_values, pairs, jobs, "label values")
    in_references, in_predictions = (Counter(v for of in values.values() for v in of[i]) for i in (0, 1))
    everything = sorted((in_references | in_predictions).keys() - {0})
    if not everything and values:
        raise ValueError(f"all {len(values)} pairs are empty, and no dataset.json says what is scored: -djfile FILE")
    if len(everything) > MOST:
        raise ValueError(f"{len(everything)} different values: images, not label maps? If they are, -djfile FILE")
    lines = [f"  {v}: in {in_references[v]} references, {in_predictions[v]} predictions" for v in everything]
    return Description({str(v): (v,) for v in everything}, None), lines


def _values(pair: tuple[Path, Path]) -> tuple[set[int], set[int]]:
    reference, prediction = (set(counts_of(read_labels(path)[0])) for path in pair)
    return reference, prediction
