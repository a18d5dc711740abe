"""How far to trust the prediction of a new case, by what the cross-validation of its model showed.

    predictor = MemberPredictor(device=device)  # in the place of nnU-Net's nnUNetPredictor
    predictor.initialize_from_trained_model_folder(folder, None)
    logits = predictor.predict_logits_from_preprocessed_data(image)  # nnU-Net's own
    print(case_trust(folder, predictor.networks))

A case of the cross-validation was seen by one network of each model, a new one is seen by all folds. So that the
numbers mean the same, each fold is measured by itself and the mean over folds is compared with the stored limit. How
far the folds agree is told as well; it has no limit, since no case of the cross-validation has several folds that did
not train on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.study.evaluation.description import masks_of
from nnunet_mamba.trust.measures import TITLES, Masks, Measures, doubt, entropy_map, mean_of, measure, pairwise_dice
from nnunet_mamba.trust.members import NetworkPrediction, mean_prediction
from nnunet_mamba.trust.outcome import PASSES, Stored
from nnunet_mamba.trust.validation import together
from nnunet_mamba.whole_files import read_object


@dataclass(frozen=True)
class CaseTrust:
    """Of one case.

    measure, value: the measure that ranked best on the cross-validation. doubted_more_than: share of the validation
    cases that were surer. look: whether it is beyond the limit; None where there is no limit that helps, and why_not
    says why. values: every measure. between_folds: Dice between folds; None with one fold.
    """

    measure: str
    value: float
    doubted_more_than: float
    look: bool | None
    values: Mapping[str, float]
    between_folds: float | None
    why_not: str = ""

    def __str__(self) -> str:
        advice = {True: "; look at this case", False: "", None: f"; no advice: {self.why_not}"}[self.look]
        rank = f"in more doubt than {self.doubted_more_than:.0%} of the validation cases"
        return f"{TITLES[self.measure]} {self.value:.3f}, {rank}{advice}"

    def as_json(self) -> dict[str, Any]:
        """For a file of one case"""
        return {
            "measure": self.measure, "value": self.value, "in_more_doubt_than": self.doubted_more_than,
            "look": self.look, **self.values, "pairwise_dice_between_folds": self.between_folds,
        }  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """Reads a model's files once, for many cases."""

    stored: Stored
    masks: Masks
    manager: Any

    @classmethod
    def load(cls, folder: str | Path, models: int = 1) -> Judge:
        """folder: of the model, the first of several. Raises ValueError where `nnunet-mamba trust` has not run."""
        model = ModelFolder(Path(folder))
        stored = Stored.load(model, models)
        dataset_json = read_object(model.dataset_json)
        manager = PlansManager(read_object(model.plans)).get_label_manager(dataset_json)
        return cls(stored, masks_of(dataset_json["labels"]), manager)

    def case(self, *of_models: Sequence[NetworkPrediction]) -> CaseTrust:
        """The networks of each model, in the order of folds. Raises ValueError for other members than were judged."""
        if len(of_models) != len(self.stored.models) or len({len(n) for n in of_models}) != 1 or not of_models[0]:
            given = ", ".join(str(len(n)) for n in of_models)
            raise ValueError(
                f"networks per model: {given}; expected as many of each of {len(self.stored.models)} models, in the "
                f"order {', '.join(self.stored.models)}"
            )
        passes = {len(n.passes) for networks in of_models for n in networks}
        if self.stored.members == PASSES and passes != {self.stored.members_per_case}:
            raise ValueError(
                f"{max(passes)} mirrored passes; the limits are for {self.stored.members_per_case}: predict with "
                "mirroring as in the cross-validation"
            )
        found = mean_of([self._measured(fold) for fold in zip(*of_models, strict=True)])
        name = self.stored.chosen
        value, limit = found.values()[name], self.stored.limits[name]
        surer = np.mean([doubt(name, v) < doubt(name, value) for v in self.stored.validation[name]])
        why_not = "" if self.stored.evidence else "on the cross-validation this ranked no better than chance"
        if limit is None:
            why_not = "no validation case failed"
        look = None if limit is None or why_not else doubt(name, value) >= doubt(name, limit)
        return CaseTrust(name, value, float(surer), look, found.values(), self._between_folds(of_models), why_not)

    def uncertainty(self, *of_models: Sequence[NetworkPrediction]) -> np.ndarray:
        """(*space) normalised entropy of all networks together, from 0 to 1, of the preprocessed image"""
        _, mean = mean_prediction([n for networks in of_models for n in networks], self.manager)
        return entropy_map(mean, self.manager.has_regions)

    def _measured(self, networks: Sequence[NetworkPrediction]) -> Measures:
        return measure(*together(networks, self.manager), self.masks, self.manager.has_regions)

    def _between_folds(self, of_models: Sequence[Sequence[NetworkPrediction]]) -> float | None:
        folds = [together(fold, self.manager)[1] for fold in zip(*of_models, strict=True)]
        return fmean(pairwise_dice(folds, self.masks).values()) if len(folds) > 1 else None


def case_trust(folder: str | Path, *of_models: Sequence[NetworkPrediction]) -> CaseTrust:
    """folder: of the model, with the trust.json that `nnunet-mamba trust` made; of several models of the first one.

    of_models: `MemberPredictor.networks` of each model after its prediction. Raises ValueError where there is no
    trust.json, or for other members than it was made of.
    """
    return Judge.load(folder, len(of_models)).case(*of_models)
