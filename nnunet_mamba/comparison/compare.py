"""From candidates to a report."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nnunet_mamba.comparison import plots, tables
from nnunet_mamba.comparison.candidates import Candidate
from nnunet_mamba.comparison.cases import Groups
from nnunet_mamba.comparison.differences import differences
from nnunet_mamba.comparison.report import Report, Section, picture
from nnunet_mamba.comparison.scores import ALL_MASKS, scores_of, with_mean
from nnunet_mamba.comparison.training import energy_kwh, read_fold
from nnunet_mamba.comparison.viewer import Case, encode
from nnunet_mamba.evaluation import metrics
from nnunet_mamba.evaluation.evaluate import Question
from nnunet_mamba.evaluation.overlay import draw_overlay
from nnunet_mamba.version import __version__

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
    shown = [m for m in asked.metrics if m not in VOLUMES]
    whole = Question(asked.masks, tuple(dict.fromkeys((*asked.metrics, *VOLUMES))), asked.rule, asked.ignore)
    found = {
        c.name: with_mean(scores_of(c, inputs.references, inputs.cases, whole, out / "scores", jobs))
        for c in candidates
    }
    _write_scores(found, out / "scores.csv")
    masks = list(asked.masks) if len(asked.masks) == 1 else [ALL_MASKS, *asked.masks]
    primary = masks[0]
    drawn = [
        picture(f"distribution_{m}", f"{m}: violin, box and every case", plots.distributions(found, m, masks))
        for m in shown
    ]
    sections = [Section("Scores", (tables.summary(found, shown, masks),), tuple(drawn))]
    if len(candidates) > 1:
        changes = differences(found, shown, masks, inputs.groups, inputs.test)
        unit = "patient" if inputs.groups.patient else "case"
        forest = picture("differences", f"Mean paired differences of {shown[0]}", plots.forest(changes, shown[0]))
        sections.append(Section("Paired differences", (tables.differences(changes, inputs.test, unit),), (forest,)))
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
    chosen = _shown_cases(tables.per_case(found, shown[0], primary).mean(axis=1), metrics.find([shown[0]])[0])
    encoded, overlays = [], {}
    for title, case in chosen.items():
        files = Case(
            case, inputs.images.get(case), inputs.references[case], {c.name: c.predictions[case] for c in candidates}
        )
        encoded.append({**encode(files), "title": f"{title}: {case}"})
        if files.image is not None:
            for number, c in enumerate(candidates):
                target = out / "pictures" / f"{title}_{number}.png"
                draw_overlay(files.image, files.truth, c.predictions[case], target)
                overlays[f"{title}: {case}, {c.name}"] = f"pictures/{target.name}"
    definitions = (
        *((m.name + (f" ({m.unit})" if m.unit else ""), m.definition) for m in metrics.find(shown)),
        (ALL_MASKS, "mean of a case's scores over the masks"),
        ("empty masks", f"both: {asked.rule.both}; one, distances: {asked.rule.one}; one, overlaps: 0"),
        *((c.name, c.source) for c in candidates),
    )
    number = f"{_count(len(candidates), 'model')} on {_count(len(inputs.cases), 'case')}"
    note = f"Chosen by {shown[0]} of {primary}, averaged over the models."
    return Report(
        f"{inputs.dataset}: {number}", _about(inputs), tuple(sections), definitions, tuple(encoded),
        _labels(asked.masks), note, overlays,
    )  # fmt: skip


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
        records[c.name] = [read_fold(c.model / f"fold_{n}") for n in sorted(set(c.folds.values()))]
    used = {
        c.name: energy_kwh(energy, c.model.name, sorted(set(c.folds.values())))
        for c in candidates
        if energy is not None and c.model is not None
    }
    drawn = picture("curves", "Losses and Dice on patches during training", plots.curves(records))
    return Section("Training", (tables.cost(records, used),), (drawn,))


def _shown_cases(scores: pd.Series, metric: metrics.Metric) -> dict[str, str]:
    """Title -> case; fewer where there are fewer cases"""
    ordered = scores.dropna().sort_values(ascending=metric.best == 0.0, kind="stable").index
    chosen: dict[str, str] = {}
    for title, place in SHOWN.items():
        case = str(ordered[round(place * (len(ordered) - 1))]) if len(ordered) else ""
        if case and case not in chosen.values():
            chosen[title] = case
    return chosen


def _labels(masks: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, str], ...]:
    """Names of label values; a region shares its values, so they are named after all regions they belong to"""
    values = sorted({v for of_mask in masks.values() for v in of_mask})
    return tuple((v, " + ".join(n for n, of_mask in masks.items() if v in of_mask)) for v in values)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _write_scores(found: tables.Tables, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(dict(found), names=["model"]).to_csv(target)
