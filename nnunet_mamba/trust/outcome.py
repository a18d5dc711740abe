"""What a cross-validation tells about trust, as it is stored next to the model: `trust.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.trust import looking
from nnunet_mamba.trust.looking import Catch
from nnunet_mamba.trust.measures import TITLES, doubt
from nnunet_mamba.trust.ranking import Estimate, Ranking, rank
from nnunet_mamba.trust.temperature import Calibration, calibrate
from nnunet_mamba.trust.validation import MeasuredCase
from nnunet_mamba.whole_files import read_object, write_json

STORED, FOLDER = "trust.json", "trust"
PASSES, MODELS, ONE = "passes", "models", "one"
"""What the members are: mirrored passes of a network, networks of several models, or a single one."""


@dataclass(frozen=True)
class OfMeasure:
    """How well one measure ranks, and its limit; None where no case failed."""

    ranking: Ranking
    limit: float | None
    catch: Catch
    looked: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Of all validation cases. below: Dice of a failure. share: of the failures that the limits are to catch."""

    models: tuple[str, ...]
    folds: tuple[str, ...]
    cases: tuple[MeasuredCase, ...]
    below: float
    share: float
    measures: Mapping[str, OfMeasure]
    chosen: str
    catch: Catch
    looked: np.ndarray
    calibration: Calibration | None

    @property
    def members(self) -> str:
        if len(self.models) > 1:
            return MODELS
        return PASSES if self.cases[0].members > 1 else ONE

    @property
    def evidence(self) -> bool:
        """Whether the chosen measure ranks better than chance: a limit of one that does not is worth nothing"""
        return self.measures[self.chosen].ranking.beats_chance

    @property
    def dice(self) -> np.ndarray:
        return np.array([c.dice for c in self.cases])

    def as_json(self) -> dict[str, Any]:
        """As it is stored; NaN, which JSON has not, as null"""
        calibration = self.calibration
        return {
            "models": self.models, "folds": self.folds, "cases": len(self.cases), "mean_dice": float(self.dice.mean()),
            "members": self.members, "members_per_case": self.cases[0].members,
            "failure_below_dice": self.below, "to_catch": self.share, "chosen": self.chosen,
            "better_than_chance": self.evidence,
            "catch_of_held_out_cases": _catch(self.catch),
            "measures": {
                name: {
                    "limit": m.limit,
                    "validated": sorted(c.measures.values()[name] for c in self.cases),
                    "AURC": _estimate(m.ranking.aurc), "excess_AURC": _estimate(m.ranking.excess),
                    "rank_correlation": _estimate(m.ranking.correlation), "p_of_chance": m.ranking.p,
                    "AURC_best": m.ranking.best, "AURC_chance": m.ranking.chance,
                    "catch_of_held_out_cases": _catch(m.catch),
                }
                for name, m in self.measures.items()
            },
            "temperature": None if calibration is None else calibration.temperature,
            "calibration_error_of_held_out_cases": None if calibration is None else {
                "before": calibration.before, "after": calibration.after, "gain": calibration.gain,
                "interval": [calibration.low, calibration.high],
            },
        }  # fmt: skip


def judge(
    models: Sequence[str], folds: Sequence[str], cases: Sequence[MeasuredCase], below: float | None, share: float
) -> Outcome:
    """below: None for the worst fifth. Raises ValueError for fewer than two cases."""
    if len(cases) < 2:
        raise ValueError(f"{len(cases)} validation case: nothing can be ranked; train more folds")
    dice = np.array([c.dice for c in cases])
    line = looking.failing_below(dice) if below is None else below
    names = [n for n in TITLES if all(n in c.measures.values() for c in cases)]
    doubts = {n: np.array([doubt(n, c.measures.values()[n]) for c in cases]) for n in names}
    groups = looking.groups([c.name for c in cases], [c.fold for c in cases])
    found: dict[str, OfMeasure] = {}
    for name in names:
        honest = looking.held_out({name: doubts[name]}, dice, groups, line, share)
        limit = looking.limit_that_catches(doubts[name], dice < line, share)
        turned = None if limit is None else doubt(name, limit)  # turning twice gives the measure itself
        found[name] = OfMeasure(rank(doubts[name], dice), turned, honest.catch, honest.looked)
    honest = looking.held_out(doubts, dice, groups, line, share)
    voxels = [c.voxels for c in cases]
    fitted = calibrate(voxels, groups) if any(len(v.truth) for v in voxels) else None
    chosen = looking.best_measure(doubts, 1 - dice)
    return Outcome(
        tuple(models), tuple(folds), tuple(cases), line, share, found, chosen, honest.catch, honest.looked, fitted
    )


def place(folder: ModelFolder, models: int) -> Path:
    """Folder of tables, pictures and finished cases of one model, or of several of which it is the first"""
    return folder.path / (FOLDER if models == 1 else f"{FOLDER}_of_{models}_models")


def file(folder: ModelFolder, models: int) -> Path:
    """Where the outcome is stored: next to plans.json, or with several models in their own folder"""
    return (folder.path if models == 1 else place(folder, models)) / STORED


def store(outcome: Outcome, folder: ModelFolder) -> Path:
    """Raises ValueError if it cannot be written."""
    path = file(folder, len(outcome.models))
    write_json(path, outcome.as_json(), allow_nan=False)
    return path


@dataclass(frozen=True)
class Stored:
    """What a new case is judged by. evidence: whether the chosen measure ranked better than chance."""

    models: tuple[str, ...]
    members: str
    members_per_case: int
    below: float
    chosen: str
    limits: Mapping[str, float | None]
    validation: Mapping[str, Sequence[float]]
    evidence: bool
    temperature: float | None

    @classmethod
    def load(cls, folder: ModelFolder, models: int = 1) -> Stored:
        """Raises ValueError where nothing was stored, or something else."""
        path = file(folder, models)
        if not path.is_file():
            raise ValueError(f"{path}: no such file; make it of the model's cross-validation: nnunet-mamba trust")
        content = read_object(path)
        try:
            measures = content["measures"]
            found = cls(
                tuple(map(str, content["models"])), content["members"], int(content["members_per_case"]),
                _number(content["failure_below_dice"]), content["chosen"],
                {n: None if m["limit"] is None else _number(m["limit"]) for n, m in measures.items()},
                {n: [_number(v) for v in m["validated"]] for n, m in measures.items()},
                _flag(content["better_than_chance"]),
                None if content["temperature"] is None else _number(content["temperature"]),
            )  # fmt: skip
            known = found.members in (PASSES, MODELS, ONE) and set(measures) <= set(TITLES)
            if not known or found.chosen not in measures or not all(found.validation.values()):
                raise ValueError("unknown names, or no value")
            if len(found.models) != models:
                raise ValueError(f"of {len(found.models)} models")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}: not as `nnunet-mamba trust` writes it ({error}); run it again") from None
        return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _estimate(e: Estimate) -> dict[str, float | None]:
    return {n: None if math.isnan(v) else v for n, v in (("value", e.value), ("low", e.low), ("high", e.high))}


def _catch(catch: Catch) -> dict[str, int]:
    return {"failures": catch.failures, "caught": catch.caught, "looked": catch.looked, "cases": catch.cases}
