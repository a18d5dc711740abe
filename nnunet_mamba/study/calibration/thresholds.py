"""The thresholds of a model: chosen on its cross-validation, kept next to it, used in its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunet_mamba.names.locate import thresholds_name
from nnunet_mamba.study.calibration.gain import CONFIDENCE, Gain, best_values, gain, groups_of, held_out
from nnunet_mamba.study.calibration.label_manager import count_thresholds
from nnunet_mamba.study.calibration.scores import DEFAULT, METRICS
from nnunet_mamba.study.calibration.validated_model import ModelFiles, ValidatedModel
from nnunet_mamba.study.evaluation.description import masks_of
from nnunet_mamba.whole_files import read_object, write_json

STORED = "thresholds.json"


@dataclass(frozen=True)
class Thresholds:
    """One per region in the order of the network's outputs, or one for a single foreground label."""

    regions: tuple[str, ...]
    values: tuple[float, ...]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in zip(self.regions, self.values, strict=True))

    @classmethod
    def load(cls, model: ModelFiles) -> Thresholds:
        """Raises ValueError if none were chosen."""
        source = model.folder.path / STORED
        if not source.is_file():
            raise ValueError(f"{source}: no such file; choose thresholds first, without --apply or --remove")
        content = read_object(source)
        values, regions = content.get("thresholds"), content.get("regions")
        if not (isinstance(values, list) and isinstance(regions, list) and len(regions) == len(values)) or not all(
            type(t) is float and 0.001 <= t <= 0.999 for t in values
        ):
            raise ValueError(f"{source}: no thresholds as calibrate stores them; choose them again")
        names = list(masks_of(model.dataset_json["labels"]))
        if regions != names:
            raise ValueError(f"{source}: thresholds of {regions}; this model has {names}; choose them again")
        return cls(tuple(regions), tuple(values))

    def apply(self, model: ValidatedModel) -> str:
        """From now on predictions of the model use them; the name of the label manager that does."""
        if len(self.values) != count_thresholds(model.labels):
            raise ValueError(f"{len(self.values)} thresholds; this model has {count_thresholds(model.labels)}")
        name = thresholds_name(self.values)
        model.set_label_manager(name)
        return name


@dataclass(frozen=True)
class ChosenThresholds:
    """What was chosen, and what it gains on held-out cases. of_held_out: case -> chosen without its group."""

    thresholds: Thresholds
    metric: str
    before: float
    gain: Gain
    group: str
    folds: tuple[str, ...]
    of_held_out: dict[str, tuple[float, ...]]

    def store(self, model: ValidatedModel) -> Path:
        """Keep them next to the model; its predictions are as before."""
        path = model.folder.path / STORED
        write_json(path, {
            "metric": self.metric, "regions": self.thresholds.regions, "thresholds": self.thresholds.values,
            "thresholds_of_held_out_cases": self.of_held_out, "mean_before": self.before, "gain": self.gain.mean,
            "interval": [self.gain.low, self.gain.high] if self.gain.varies else None,
            "confidence": CONFIDENCE, "cases": self.gain.cases, "folds": self.folds,
        })  # fmt: skip
        return path


def choose(model: ValidatedModel, folds: Sequence[str], metric: str) -> ChosenThresholds:
    """Those with the best mean over all validation cases, and what they gain on held-out cases.

    Raises ValueError for an unknown metric, labels that have no thresholds, and folds without probabilities.
    """
    if metric not in METRICS:
        raise ValueError(f"-metric {metric}; expected one of {', '.join(METRICS)}")
    half = (DEFAULT,) * count_thresholds(model.labels)
    if not folds:
        raise ValueError(f"{model.folder.path}: no fold has finished its validation")
    cases = model.cases(folds)
    scores: dict[str, np.ndarray] = {
        c.name: model.scores(c, metric) for c in tqdm(cases, desc="scores at all thresholds")
    }
    honest = held_out(scores, groups_of({c.name: c.fold for c in cases}))
    progress = tqdm(cases, desc="gain on held-out cases")
    compared = [model.compare(case, metric, half, honest[case.name]) for case in progress]
    before, after = zip(*compared, strict=True)
    regions = tuple(masks_of(model.dataset_json["labels"]))
    return ChosenThresholds(
        Thresholds(regions, best_values(list(scores.values()))), metric, sum(before) / len(before),
        gain(before, after), "fold" if len(folds) > 1 else "part", tuple(folds), honest,
    )  # fmt: skip
