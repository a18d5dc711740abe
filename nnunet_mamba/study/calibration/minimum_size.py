"""The minimum component sizes of a model: chosen on its cross-validation, kept next to it, applied to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_mamba.study.calibration import UNITS
from nnunet_mamba.study.calibration.components import SIZES, fills, outermost_last, over_sizes, remove_small_components
from nnunet_mamba.study.calibration.gain import Gain, best_values, gain, groups_of, held_out
from nnunet_mamba.study.calibration.scores import METRICS, overlap
from nnunet_mamba.study.calibration.validated_model import ModelFiles, ValidatedModel, ValidationCase
from nnunet_mamba.study.evaluation.description import masks_of
from nnunet_mamba.study.evaluation.masks import files_by_case
from nnunet_mamba.study.evaluation.output import writable_folder
from nnunet_mamba.whole_files import read_object, write_json

STORED = "minimum_size.json"


@dataclass(frozen=True)
class MinimumSize:
    """One size per mask, in removal order."""

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    sizes: tuple[float, ...]
    fill: tuple[int, ...]
    unit: str

    def __str__(self) -> str:
        return ", ".join(f"{n} {s:g} {self.unit}" for n, s in zip(self.names, self.sizes, strict=True))

    @classmethod
    def load(cls, model: ModelFiles) -> MinimumSize:
        """Raises ValueError if none were chosen."""
        path = model.folder.path / STORED
        if not path.is_file():
            raise ValueError(f"{path}: no such file; choose sizes first: the same command without -i and -o")
        content = read_object(path)
        lists = [content.get(key) for key in ("names", "values", "sizes", "fill")]
        if (
            content.get("unit") not in UNITS
            or not all(isinstance(of, list) and len(of) == len(lists[0] or ()) for of in lists)
            or not all(isinstance(v, list) and all(type(n) is int for n in v) for v in content["values"])
            or not all(type(s) in (int, float) and 0 <= s < float("inf") for s in content["sizes"])
            or not all(type(f) is int for f in content["fill"])
            or not all(isinstance(name, str) for name in content["names"])
        ):
            raise ValueError(f"{path}: no sizes as postprocess stores them; choose them again")
        values = tuple(tuple(v) for v in content["values"])
        masks = masks_of(model.dataset_json["labels"])
        known = {0, *(v for of_mask in masks.values() for v in of_mask)}
        if dict(zip(content["names"], values, strict=True)) != masks or not set(content["fill"]) <= known:
            raise ValueError(f"{path}: sizes of other labels than this model's, {', '.join(masks)}; choose them again")
        return cls(tuple(content["names"]), values, tuple(content["sizes"]), tuple(content["fill"]), content["unit"])

    def store(self, model: ValidatedModel, report: dict[str, Any]) -> Path:
        """And, for voxels, what nnU-Net's own command applies"""
        content = {
            "names": self.names, "values": self.values, "sizes": self.sizes, "fill": self.fill, "unit": self.unit,
        }  # fmt: skip
        write_json(model.folder.path / STORED, {**content, **report})
        if self.unit == "voxels":
            arguments = {"values": self.values, "sizes": self.sizes, "fill": self.fill}
            save_pickle(([remove_small_components], [arguments]), str(self.pickle(model)))
        return model.folder.path / STORED

    def pickle(self, model: ValidatedModel) -> Path:
        return model.folder.path / "minimum_size_postprocessing.pkl"

    def on(self, labels: np.ndarray, spacing: Sequence[float], sizes: Sequence[float] | None = None) -> np.ndarray:
        """spacing: mm; sizes: others than these, in the same order"""
        chosen = self.sizes if sizes is None else sizes
        return remove_small_components(labels, self.values, chosen, self.fill, voxel_size(self.unit, spacing))

    def apply(self, model: ValidatedModel, source: Path, target: Path) -> int:
        """Write the label maps of `source` without small components; how many.

        Raises ValueError for none, and, after all others are written, for files that are not label maps.
        """
        ending = model.dataset_json["file_ending"]
        files = list(files_by_case(source, ending).values())
        if not files:
            raise ValueError(f"-i {source}: no *{ending} files there")
        if target.resolve() == source.resolve():
            raise ValueError(f"-o {target}: is the folder of -i; the predictions would be overwritten")
        writable_folder(target)
        reader = PlansManager(model.plans).image_reader_writer_class()
        wrong = []
        for path in tqdm(files, desc="removing"):
            try:
                labels, properties = model.read_labels(path)
            except ValueError as error:
                wrong.append(str(error))
                continue
            cleaned = self.on(labels, properties["spacing"])
            (target / path.name).unlink(missing_ok=True)  # it may be a link to the prediction
            reader.write_seg(cleaned.astype(np.uint16), str(target / path.name), properties)
        if wrong:
            told = "\n  ".join(wrong)
            raise ValueError(f"{len(wrong)} of {len(files)} files are not written, all others are:\n  {told}")
        return len(files)


@dataclass(frozen=True)
class ChosenSize:
    """What was chosen, and what it gains on held-out cases."""

    size: MinimumSize
    metric: str
    before: float
    gain: Gain
    group: str
    folds: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        interval = [self.gain.low, self.gain.high] if self.gain.varies else None
        return {"metric": self.metric, "mean_before": self.before, "gain": self.gain.mean, "interval": interval,
                "folds": self.folds}  # fmt: skip


def voxel_size(unit: str, spacing: Sequence[float]) -> float:
    """1 where sizes are voxels, else mm3 of one. spacing: mm"""
    return 1.0 if unit == "voxels" else float(np.prod(spacing))


def choose(model: ValidatedModel, folds: Sequence[str], metric: str, unit: str) -> ChosenSize:
    """The sizes with the best mean over all validation cases, mask by mask, and what they gain on held-out cases."""
    if metric not in METRICS:
        raise ValueError(f"-metric {metric}; expected one of {', '.join(METRICS)}")
    if not folds:
        raise ValueError(f"{model.folder.path}: no fold has finished its validation")
    masks = masks_of(model.dataset_json["labels"])
    names = outermost_last(masks)
    fill = dict(zip(masks, fills(masks, model.dataset_json.get("regions_class_order")), strict=True))
    none = MinimumSize(
        tuple(names), tuple(masks[n] for n in names), (0.0,) * len(names), tuple(fill[n] for n in names), unit
    )
    cases = model.predictions(folds)
    scores = {c.name: _scores(model, c, none, metric) for c in tqdm(cases, desc="scores at all sizes")}
    groups = groups_of({c.name: c.fold for c in cases})
    honest = held_out(scores, groups, SIZES, 0.0)
    changes = [_before_and_after(model, c, none, honest[c.name], metric) for c in tqdm(cases, desc="gain")]
    before, after = zip(*changes, strict=True)
    sizes = best_values(list(scores.values()), SIZES, 0.0)
    size = MinimumSize(none.names, none.values, sizes, none.fill, unit)
    group = "fold" if len(folds) > 1 else "part"
    return ChosenSize(size, metric, float(np.mean(before)), gain(before, after), group, tuple(folds))


def _scores(model: ValidatedModel, case: ValidationCase, size: MinimumSize, metric: str) -> np.ndarray:
    """(masks, sizes); each mask alone"""
    predicted, truth, counted, spacing = model.label_maps(case)
    voxel = voxel_size(size.unit, spacing)
    masks = [(np.isin(predicted, v) & counted, np.isin(truth, v) & counted) for v in size.values]
    return np.stack([over_sizes(metric, p, t, voxel) for p, t in masks])


def _before_and_after(
    model: ValidatedModel, case: ValidationCase, size: MinimumSize, sizes: Sequence[float], metric: str
) -> list[float]:
    """Mean over the masks of the label map, as predicted and without its small components"""
    predicted, truth, counted, spacing = model.label_maps(case)
    means = []
    for labels in (predicted, size.on(predicted, spacing, sizes)):
        values = []
        for of_mask in size.values:
            p, t = np.isin(labels, of_mask) & counted, np.isin(truth, of_mask) & counted
            values.append(float(overlap(metric, np.asarray((p & t).sum()), np.asarray(p.sum()), int(t.sum()))))
        means.append(float(np.mean(values)))
    return means
