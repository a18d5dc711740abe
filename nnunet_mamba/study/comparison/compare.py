"""From candidates to a report."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_mamba.study.comparison import plots, tables
from nnunet_mamba.study.comparison.candidates import Candidate
from nnunet_mamba.study.comparison.cases import Groups
from nnunet_mamba.study.comparison.differences import differences
from nnunet_mamba.study.comparison.report import Report, Section, picture
from nnunet_mamba.study.comparison.scores import mean_name, scores_of, with_mean
from nnunet_mamba.study.comparison.training import energy_kwh, read_fold
from nnunet_mamba.study.comparison.viewer import ViewedCase, encode
from nnunet_mamba.study.evaluation import metrics
from nnunet_mamba.study.evaluation.description import value_names
from nnunet_mamba.study.evaluation.evaluate import Evaluation, Question
from nnunet_mamba.study.evaluation.masks import check_image
from nnunet_mamba.study.evaluation.output import write_csv
from nnunet_mamba.study.evaluation.overlay import draw_overlay
from nnunet_mamba.version import __version__

MOST_SHOWN = 10
VOLUMES = ("Volume", "VolumeDifference")
SHOWN = {"best": 0.0, "median": 0.5, "worst": 1.0}
"""Which cases are shown: their place, from 0 to 1, when sorted from the best score down."""


@dataclass(frozen=True)
class Inputs:
    """references, images: case -> file. energy: folder of codecarbon's records. asked: its first metric decides."""

    dataset: str
    candidates: Sequence[Candidate]
    references: Mapping[str, Path]
    images: Mapping[str, Path]
    cases: Sequence[str]
    groups: Groups
    asked: Question
    test: str
    energy: Path | None = None


def compare(inputs: Inputs, out: Path, jobs: int) -> Report:
    """Scores (kept in `out`), statistics, costs, pictures. Writes `scores.csv` with every score."""
    asked, candidates = inputs.asked, inputs.candidates
    shown = [m for m in asked.metrics if m not in VOLUMES] or list(asked.metrics)
    whole = replace(asked, metrics=tuple(dict.fromkeys((*asked.metrics, *VOLUMES))))
    results = {c.name: scores_of(c, inputs.references, inputs.cases, whole, out / "scores", jobs) for c in candidates}
    _all_must_be_scored(results)
    found = {name: with_mean(result.table) for name, result in results.items()}
    _write_scores(found, out / "scores.csv")
    masks = list(asked.masks) if len(asked.masks) == 1 else [mean_name(list(asked.masks)), *asked.masks]
    primary = masks[0]
    drawn = [
        picture(f"distribution_{m}", f"{m}: violin, box and every case", plots.distributions(found, m, masks))
        for m in shown
    ]
    sections = [Section("Scores", (tables.summary(found, shown, masks, asked.rule),), tuple(drawn))]
    if len(candidates) > 1:
        changes = differences(found, shown, masks, inputs.groups, inputs.test)
        unit = "patient" if inputs.groups.patient else "case"
        forest = picture("differences", f"Mean paired differences of {shown[0]}", plots.forest(changes, shown[0]))
        sections.append(
            Section("Paired differences", (tables.differences(changes, inputs.test, unit, found),), (forest,))
        )
    of_cohort = inputs.groups.cohorts(inputs.cases)
    if of_cohort:
        sections.append(Section("Cohorts", (tables.cohorts(found, of_cohort, shown, primary),)))
    if all(c.folds for c in candidates):
        sections.append(Section("Folds", (tables.folds(found, candidates, shown[0], primary),)))
        sections.append(_training(candidates, inputs.energy))
    caption = "Predicted against true volume: line, mean difference; dots, 95% limits of agreement"
    agreement = picture("volumes", caption, plots.volume_agreement(found, list(asked.masks)))
    sections.append(Section("Volumes", (), (agreement,)))
    sections.append(Section("Worst cases", (tables.worst_cases(found, candidates, inputs.groups, shown[0], primary),)))
    chosen = _shown_cases(tables.from_best_to_worst(found, shown[0], primary))
    encoded, overlays, without_image, names = [], {}, [], value_names(asked.masks)
    for title, case in chosen.items():
        image, reason = _image_of(inputs, case)
        without_image += [reason] if reason else []
        files = ViewedCase(case, image, inputs.references[case], {c.name: c.predictions[case] for c in candidates})
        encoded.append({**encode(files), "title": f"{title}: {case}"})
        if files.image is not None:
            for number, c in enumerate(candidates):
                target = out / "pictures" / f"{title}_{number}.png"
                draw_overlay(files.image, files.truth, c.predictions[case], target, names=names)
                overlays[f"{title}: {case}, {c.name}"] = f"pictures/{target.name}"
    definitions = (
        *((m.name + (f" ({m.unit})" if m.unit else ""), m.definition) for m in metrics.find(shown)),
        *([(primary, "mean of a case's scores over the masks")] if len(masks) > 1 else []),
        ("empty masks", str(asked.rule)),
        *((c.name, c.source) for c in candidates),
    )
    number = f"{_count(len(candidates), 'model')} on {_count(len(inputs.cases), 'case')}"
    note = f"Chosen by {shown[0]} of {primary}, averaged over the models."
    about = (*_about(inputs), *_unknown_values(results), *_contradicting(results), *without_image)
    return Report(
        f"{inputs.dataset}: {number}", about, tuple(sections), definitions, tuple(encoded),
        _labels(asked, encoded), note, overlays,
    )  # fmt: skip


def _image_of(inputs: Inputs, case: str) -> tuple[Path | None, str]:
    """A case's image, or why it has none that can be shown: "" where none was given"""
    path = inputs.images.get(case)
    if path is None:
        return None, ""
    try:
        check_image(path, inputs.references[case])
    except ValueError as error:
        return None, f"Without its image: {case}: {error}."
    return path, ""


def _about(inputs: Inputs) -> tuple[str, ...]:
    crossed = all(c.folds for c in inputs.candidates)
    how = (
        "Every case is predicted by the fold that was not trained on it. Choosing the best of several models by these "
        "numbers makes the chosen one look better than it is; unseen cases tell."
        if crossed
        else "Predictions of cases that are not part of the training set, if the folders hold what they should."
    )
    seeds = (
        "One training per fold and model: differences include the luck of the initialisation and of the augmentation."
    )
    return (f"nnunet-mamba {__version__}, {platform.platform()}", how, *((seeds,) if crossed else ()))


def _training(candidates: Sequence[Candidate], energy: Path | None) -> Section:
    records = {}
    for c in candidates:
        assert c.model is not None
        records[c.name] = [read_fold(c.model.fold(n)) for n in sorted(set(c.folds.values()))]
    used = {
        c.name: energy_kwh(energy, c.model.name, sorted(set(c.folds.values())))
        for c in candidates
        if energy is not None and c.model is not None
    }
    drawn = picture("curves", "Losses and Dice on patches during training", plots.curves(records))
    return Section("Training", (tables.cost(records, used),), (drawn,))


def _all_must_be_scored(results: Mapping[str, Evaluation]) -> None:
    """Raises ValueError naming the files that could not be; the others' scores are kept for the next time"""
    reasons = list(dict.fromkeys(reason for result in results.values() for reason in result.not_scored.values()))
    if reasons:
        more = [f"and {len(reasons) - MOST_SHOWN} more"] if len(reasons) > MOST_SHOWN else []
        lines = "\n  ".join([*reasons[:MOST_SHOWN], *more])
        raise ValueError(f"{len(reasons)} pairs could not be scored; the others' scores are kept:\n  {lines}")


def _unknown_values(results: Mapping[str, Evaluation]) -> list[str]:
    notes = list(dict.fromkeys(n for result in results.values() for of in result.notes.values() for n in of))
    if not notes:
        return []
    more = [f"and {len(notes) - MOST_SHOWN} more"] if len(notes) > MOST_SHOWN else []
    return [f"Values that dataset.json does not have: {'; '.join([*notes[:MOST_SHOWN], *more])}."]


def _contradicting(results: Mapping[str, Evaluation]) -> list[str]:
    files = {p: why for result in results.values() for of in result.contradicting.values() for p, why in of.items()}
    named = [f"{path} ({reasons[0]})" for path, reasons in files.items()]
    if not named:
        return []
    more = [f"and {len(named) - MOST_SHOWN} more"] if len(named) > MOST_SHOWN else []
    return [f"Scored as nnU-Net reads them, though their headers contradict themselves: "
            f"{'; '.join([*named[:MOST_SHOWN], *more])}."]  # fmt: skip


def _shown_cases(ordered: Sequence[str]) -> dict[str, str]:
    """Title -> case; fewer where there are fewer cases. ordered: from the best to the worst"""
    chosen: dict[str, str] = {}
    for title, place in SHOWN.items():
        case = ordered[round(place * (len(ordered) - 1))] if ordered else ""
        if case and case not in chosen.values():
            chosen[title] = case
    return chosen


def _labels(asked: Question, encoded: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, str], ...]:
    """Names of label values, and of those that no label has but a shown case.

    A region shares its values, so they are named after all regions they belong to.
    """
    names = value_names(asked.masks)
    seen = {v for case in encoded for v in case["values"]} - {0}
    others = {v: "ignore" if v == asked.ignore else f"{v}, not in dataset.json" for v in seen - set(names)}
    return tuple(sorted({**names, **others}.items()))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _write_scores(found: tables.Tables, target: Path) -> None:
    write_csv(target, pd.concat(dict(found), names=["model"]))
