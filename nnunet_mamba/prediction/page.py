"""One page to look at and to send: warnings, volumes, and the cases to scroll through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_mamba.prediction.model import Usable
from nnunet_mamba.study.comparison.report import Report, Section, write_html
from nnunet_mamba.study.comparison.tables import Table
from nnunet_mamba.trust.measures import TITLES

MOST_SHOWN = 20
"""Cases in the viewer: the page must stay small enough to send."""
NOT_A_DEVICE = "Not a medical device: look at every label map before you use it."


def write_page(
    target: Path, usable: Usable, cases: Mapping[str, Mapping[str, Any]], shown: Sequence[Mapping[str, Any]],
    card: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    """cases: as prediction.json has them; shown: what `viewer.encode` gives; card: what is known of the model."""
    names = list(usable.masks)
    volumes = tuple((case, *(f"{of['ml'][name]:.3f}" for name in names)) for case, of in cases.items())
    warnings = tuple((case, text) for case, of in cases.items() for text in of["warnings"])
    about = tuple((key, text) for key, text in [*card, *(("stored with the model", t) for t in usable.told)])
    sections = (
        *_trust(cases),
        Section("Warnings", (Table("Warnings", _note(len(warnings), usable), ("case", "warning"), warnings),)),
        Section("Volumes", (Table("Volumes", "In ml; the same numbers: volumes.csv.", ("case", *names), volumes),)),
        Section("Model", (Table("Model", "What its files say.", ("what", "value"), about),)),
    )
    left_out = len(cases) - len(shown)
    note = f"{left_out} more cases are not shown here; their pictures lie beside this page." if left_out > 0 else ""
    model = usable.model
    report = Report(
        f"{model.plans['dataset_name']}: predictions of {len(cases)} case{'' if len(cases) == 1 else 's'}",
        (f"{model.trainer}, {model.configuration}, folds {' '.join(model.folds)}", NOT_A_DEVICE),
        sections,
        (
            ("volume", "voxels with the label, or in the region, times the volume of a voxel"),
            ("warning", "the scan, or what was found in it, is unlike the training data: look there first"),
        ),
        tuple(shown), tuple(sorted(usable.value_names.items())), note,
    )  # fmt: skip
    partial = target.with_name(f".{target.name}.partial")
    write_html(report, partial)
    partial.replace(target)


def look_in_words(case: Mapping[str, Any]) -> str:
    """Of a case as prediction.json has it: whether to look at it, by the model's cross-validation; else nothing"""
    look = (case.get("trust") or {}).get("look")
    return "" if look is None else "yes" if look else "no"


def _trust(cases: Mapping[str, Mapping[str, Any]]) -> tuple[Section, ...]:
    """The cases in most doubt first; none where no case was judged"""
    judged = [(name, of["trust"]) for name, of in cases.items() if of.get("trust")]
    if not judged:
        return ()
    judged.sort(key=lambda item: item[1]["in_more_doubt_than"], reverse=True)
    rows = tuple(
        (name, f"{trust['value']:.3f}", f"{trust['in_more_doubt_than']:.0%}", look_in_words(cases[name]) or "no advice")
        for name, trust in judged
    )
    head = ("case", TITLES[judged[0][1]["measure"]], "in more doubt than, of the validation cases", "look at it")
    note = "By what the model's cross-validation showed. A case that is not to be looked at can be bad all the same."
    return (Section("Trust", (Table("Trust", note, head, rows),)),)


def _note(count: int, usable: Usable) -> str:
    if usable.fingerprint is None:
        return "The model comes without a fingerprint of its training data: scans cannot be compared with them."
    return "Where a scan is unlike the training data, or labels end at its border." if count else "None."
