"""A model to predict with, by whatever a user has: a zip, a folder, or a data set with a trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.datasets import dataset_name, find_model
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.export.source import open_model
from nnunet_mamba.names.locate import parse_thresholds, thresholds_name
from nnunet_mamba.nnunet_folders import DATASET_NAME, FINAL, Dataset, Model, ModelFolder, models_in
from nnunet_mamba.prediction.predictor import OVERLAP_AS_NNUNET
from nnunet_mamba.prediction.seen import orientations_of
from nnunet_mamba.study.calibration import minimum_size, thresholds
from nnunet_mamba.study.calibration.minimum_size import MinimumSize
from nnunet_mamba.study.calibration.thresholds import Thresholds
from nnunet_mamba.study.evaluation.description import describe, value_names
from nnunet_mamba.trust import outcome
from nnunet_mamba.trust.judgement import Judge
from nnunet_mamba.trust.measures import TITLES
from nnunet_mamba.whole_files import read_object

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
"""Endings of models that are for volumes"""
WANTED = "give a zip of nnUNetv2_export_model_to_zip, nnU-Net's folder of a model, or a data set's number or name"
SHOWN = 10


@dataclass(frozen=True)
class Named:
    """How a user names a model. given: a zip, a folder, or a data set; trainer, plans, configuration: which of a data
    set's; name: which of a zip's; folds: None for all."""

    given: str
    trainer: str | None = None
    plans: str | None = None
    configuration: str | None = None
    name: str | None = None
    folds: Sequence[str] | None = None
    checkpoint: str = FINAL


@dataclass(frozen=True)
class Use:
    """What is done with a model.

    stored: thresholds and minimum sizes chosen on its cross-validation are used. trust: its cases are judged, if
    `nnunet-mamba trust` has been run on it. mirroring: the mean of mirrored passes predicts, where it was trained for
    that. step: distance of the windows as a share of the patch. bf16: on a CPU in half precision.
    onednn: on a CPU all convolutions through oneDNN.
    """

    stored: bool = True
    trust: bool = True
    mirroring: bool = True
    step: float = OVERLAP_AS_NNUNET
    bf16: bool = False
    onednn: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for windows that would leave gaps, and for options that exclude each other"""
        if self.bf16 and self.onednn:
            raise ValueError("--onednn with --bf16: in bfloat16 convolutions go through oneDNN already; leave one out")
        if not 0 < self.step <= 1:
            raise ValueError(f"-step_size {self.step:g}: expected a number above 0, up to 1, as 0.5")


@dataclass(frozen=True)
class Usable:
    """A model, ready to predict. told: what is done with what was stored beside it.

    masks: label or region -> its values; sizes: minimum sizes of components; fingerprint: of its training data, and
    orientations how they lay, the commonest first.
    judge: by what its cross-validation showed, how far a case is to be trusted; None where that is not known.
    """

    model: TrainedModel
    channels: tuple[str, ...]
    masks: dict[str, tuple[int, ...]]
    sizes: MinimumSize | None
    fingerprint: dict[str, Any] | None
    told: tuple[str, ...]
    orientations: tuple[str, ...] = ()
    judge: Judge | None = None
    use: Use = Use()

    @property
    def ending(self) -> str:
        return self.model.dataset_json["file_ending"]

    @property
    def value_names(self) -> dict[int, str]:
        """Label value -> what it is called; after all regions that it is in"""
        return value_names(self.masks)

    def digests(self) -> dict[str, str]:
        """Of its weights: which model this is, whatever its folder is called"""
        found = {}
        for fold in self.model.folds:
            with (self.model.folder.fold(fold).path / self.model.checkpoint).open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(2**20):
                    digest.update(block)
            found[fold] = digest.hexdigest()
        return found


def check_named(named: Named) -> None:
    """Raises ValueError for what is neither there nor a data set; before torch is imported."""
    path = Path(named.given)
    if path.exists():
        others = [o for o, v in (("-tr", named.trainer), ("-p", named.plans), ("-c", named.configuration)) if v]
        if others:
            raise ValueError(f"{others[0]} goes with a data set; {path} is a model already")
    elif _is_dataset(named.given):
        _folder_of_dataset(named)
    else:
        raise ValueError(f"{named.given}: no such file or folder; {WANTED}")


@contextmanager
def open_usable(named: Named, use: Use = Use()) -> Iterator[Usable]:
    """The model, for as long as the block lasts: what a zip holds is unpacked into a folder that goes with it.

    Raises ValueError in one sentence for what is no model, is damaged or unsafe, or cannot predict volumes alone.
    """
    check_named(named)
    path = Path(named.given)
    source = path if path.exists() else _folder_of_dataset(named).path
    with open_model(source, named.name, named.checkpoint) as folder:
        yield usable(TrainedModel.read(folder, named.folds, named.checkpoint), use)


def usable(model: TrainedModel, use: Use = Use()) -> Usable:
    """Raises ValueError for a second stage of a cascade, and for models that are not for volumes"""
    path, content = model.folder.dataset_json, model.dataset_json
    previous = model.planned.previous_stage_name
    if previous is not None:
        raise ValueError(
            f"{model.configuration} is the second stage of a cascade and needs the predictions of {previous}; predict "
            "both with nnUNetv2_predict, or choose another configuration"
        )
    if content["file_ending"] not in VOLUMES:
        raise ValueError(f"{path}: a model for {content['file_ending']} files; predict these with nnUNetv2_predict")
    names = content.get("channel_names") or content.get("modality")
    schemes = model.planned.configuration["normalization_schemes"]
    if not isinstance(names, dict) or len(names) != len(schemes):
        raise ValueError(f"{path}: names other channels than the {len(schemes)} of {model.folder.plans}")
    channels = tuple(str(names.get(str(k), k)) for k in range(len(names)))
    fingerprint = model.folder.fingerprint
    masks = dict(describe(content, path).masks)
    found = read_object(fingerprint) if fingerprint.is_file() else None
    told: list[str] = []
    if not use.mirroring and model.mirroring:
        told.append(f"one pass instead of {2 ** len(model.mirroring)} mirrored ones")
        model = replace(model, mirroring=())
    if use.step != OVERLAP_AS_NNUNET:
        told.append(f"windows at a distance of {use.step:g} of their size; nnU-Net: {OVERLAP_AS_NNUNET:g}")
    if use.bf16:
        told.append("convolutions in bfloat16")
    if use.onednn:
        told.append("convolutions through oneDNN, so that labels may differ from nnU-Net's where two are as likely")
    model, sizes = _with_stored(model, told) if use.stored else (model, None)
    judge = _judge(model, told) if use.trust else None
    return Usable(model, channels, masks, sizes, found, tuple(told), orientations_of(model.folder), judge, use)


def _judge(model: TrainedModel, told: list[str]) -> Judge | None:
    """None where `nnunet-mamba trust` has not been run, or on other members than a prediction has"""
    path = outcome.file(model.folder, 1)
    if not path.is_file():
        return None
    try:
        judge = Judge.load(model.folder.path)
    except ValueError as error:
        raise ValueError(f"{error}, or leave it out with --no-trust") from None
    stored, passes = judge.stored, 2 ** len(model.mirroring)
    own = Model(model.trainer, model.plans["plans_name"], model.configuration).name
    if stored.models != (own,):
        of = ", ".join(stored.models)
        raise ValueError(f"{path}: of {of}, not of {own}; run nnunet-mamba trust, or leave it out with --no-trust")
    if model.checkpoint != FINAL:
        told.append(f"no case is judged: {path.name} is of {FINAL}, not of {model.checkpoint}")
        return None
    measured = stored.members_per_case if stored.members == outcome.PASSES else 1
    if measured != passes:
        told.append(f"no case is judged: {path.name} is of {_passes(measured)}, not of {passes}")
        return None
    told.append(f"how far to trust a case: by its {TITLES[stored.chosen]}, as on the cross-validation")
    return judge


def _passes(number: int) -> str:
    return "one pass" if number == 1 else f"{number} mirrored passes"


def _with_stored(model: TrainedModel, told: list[str]) -> tuple[TrainedModel, MinimumSize | None]:
    """With what calibrate and postprocess have stored, if it gains something on held-out cases"""
    applied = parse_thresholds(model.plans.get("label_manager", ""))
    if applied is not None:
        told.append(f"thresholds {', '.join(f'{t:g}' for t in applied)}, applied by calibrate")
    elif (model.folder.path / thresholds.STORED).is_file():
        chosen = Thresholds.load(model)
        if _gains(model.folder.path / thresholds.STORED):
            model = replace(model, plans={**model.plans, "label_manager": thresholds_name(chosen.values)})
            told.append(f"thresholds {chosen}, chosen by calibrate")
        else:
            told.append(f"thresholds of one half: the stored ones ({chosen}) gain nothing for certain")
    path = model.folder.path / minimum_size.STORED
    if not path.is_file():
        return model, None
    sizes = MinimumSize.load(model)
    if _gains(path):
        told.append(f"components below {sizes} removed, chosen by postprocess")
        return model, sizes
    told.append(f"no component removed: the stored sizes ({sizes}) gain nothing for certain")
    return model, None


def _gains(stored: Path) -> bool:
    """Whether the whole interval of the gain on held-out cases is above zero"""
    interval = read_object(stored).get("interval")
    return isinstance(interval, list) and len(interval) == 2 and isinstance(interval[0], float) and interval[0] > 0


def _is_dataset(given: str) -> bool:
    return given.isdecimal() or DATASET_NAME.fullmatch(given) is not None


def _folder_of_dataset(named: Named) -> ModelFolder:
    """Raises ValueError where there is no such data set, or more than one model that fits"""
    dataset = Dataset(dataset_name(named.given))
    if named.trainer and named.plans and named.configuration:
        return find_model(dataset.name, Model(named.trainer, named.plans, named.configuration).name)
    wanted = (named.trainer, named.plans, named.configuration)
    there = models_in(dataset.results)
    fitting = [
        name for name in there
        if (m := Model.parse(name)) is not None
        and all(w is None or w == of for w, of in zip(wanted, (m.trainer, m.plans, m.configuration), strict=True))
    ]  # fmt: skip
    if len(fitting) == 1:
        return ModelFolder(dataset.results / fitting[0])
    shown = fitting or there
    listed = ", ".join(shown[:SHOWN]) or "none"
    how = (
        "several of its models fit; say which with -tr TRAINER, -p PLANS and -c CONFIGURATION"
        if fitting
        else ("no trained model fits" if there else "no trained model")
    )
    raise ValueError(f"{dataset.name}: {how}; there is {listed}")
