"""nnU-Net's commands for a study, in the order in which they can run, each with what shows that it is done.

Two halves: up to nnU-Net's choice of the best model or ensemble, and what follows from that choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from nnunet_mamba.nnunet_folders import Model
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.evidence import BestFound, Fresh, Preprocessed, Probabilities, Trained
from nnunet_mamba.study.crossval.models import planner_of
from nnunet_mamba.whole_files import read_object


@dataclass(frozen=True)
class Step:
    """One command. `after`: names of steps that must have succeeded; `trains`: it wants a GPU for itself."""

    name: str
    title: str
    command: tuple[str, ...]
    done: Callable[[], bool]
    after: tuple[str, ...] = ()
    trains: bool = False
    only_repairs: bool = False
    """Whether the step before usually does it already."""


# ------------------------------------------------------------------------------------------------ first half


def preparation(study: Study) -> list[Step]:
    """Fingerprint, plans and preprocessed data of all models."""
    fingerprint = study.folders.fingerprint
    np = ("-np", str(study.processes))
    steps = [
        Step("fingerprint", "Take the dataset's fingerprint",
             ("nnUNetv2_extract_fingerprint", "-d", study.number, "--verify_dataset_integrity", *np),
             Fresh((fingerprint,)))
    ]  # fmt: skip
    for plans in dict.fromkeys(m.plans for m in study.models):
        made = study.folders.plans(plans)
        if not made.is_file():
            command = ("nnUNetv2_plan_experiment", "-d", study.number, "-pl", planner_of(plans))
            steps.append(Step(f"plan_{plans}", f"Plan {plans}", command, Fresh((made,)), ("fingerprint",)))
    before = tuple(s.name for s in steps)
    for model in study.models:
        name = f"preprocess_{model.plans}_{model.configuration}"
        if name not in {s.name for s in steps}:
            command = ("nnUNetv2_preprocess", "-d", study.number, "-plans_name", model.plans, "-c", model.configuration)
            title = f"Preprocess {model.configuration} of {model.plans}"
            # one after the other: two plans may share their data
            steps.append(Step(name, title, (*command, *np), Preprocessed(study, model), (*before, steps[-1].name)))
    return steps


def trainings(study: Study, models: tuple[Model, ...], after: tuple[str, ...]) -> list[Step]:
    """Every fold of every model, with probabilities if ensembles shall be made. Cascades wait for their first stage."""
    keep = ("--npz",) if study.ensembling else ()
    steps: list[Step] = []
    for model, fold in product(models, study.folds):
        folder = study.fold(model, fold)
        line = ("nnUNetv2_train", study.number, model.configuration, str(fold), "-tr", model.trainer, "-p", model.plans,
                "-device", study.device)  # fmt: skip
        name = training_name(model, fold)
        waits = (*after, *(training_name(m, f) for m in previous_stage(study, model) for f in study.folds))
        steps.append(
            Step(name, f"Train {model.name}, fold {fold}", (*line, *keep, "--c"), Trained(folder), waits, True)
        )
        if study.ensembling:
            title = f"Write the probabilities of {model.name}, fold {fold}, for ensembling"
            steps.append(Step(f"probabilities_{model.name}_{fold}", title, (*line, "--val", "--npz"),
                              Probabilities(folder, study.ending), (name,), True, only_repairs=True))  # fmt: skip
    return steps


def training_name(model: Model, fold: int) -> str:
    """Of the step that trains this fold"""
    return f"train_{model.name}_{fold}"


def previous_stage(study: Study, model: Model) -> tuple[Model, ...]:
    """The model whose predictions a cascade takes in; none for others and where the plans do not exist yet"""
    if not study.plans_file(model).is_file():
        lowres = model.configuration == "3d_cascade_fullres"
        return (replace(model, configuration="3d_lowres"),) if lowres else ()
    stage = study.configuration(model).previous_stage_name
    return () if stage is None else (replace(model, configuration=stage),)


def with_previous_stages(study: Study) -> Study:
    """The study with what cascades need, which is trained and compared too"""
    models = dict.fromkeys(p for m in study.models for p in (*previous_stage(study, m), m))
    return replace(study, models=tuple(models))


def choice(study: Study, after: tuple[str, ...]) -> Step:
    """nnU-Net's choice; its command where it can say what is considered, otherwise a call of the same function."""
    ensembling = study.ensembling and len(study.models) > 1
    trainers, plans, configurations = (
        tuple(dict.fromkeys(getattr(m, field) for m in study.models)) for field in ("trainer", "plans", "configuration")
    )
    if {Model(*parts) for parts in product(trainers, plans, configurations)} == set(study.models):
        command = ("nnUNetv2_find_best_configuration", study.number, "-c", *configurations, "-tr", *trainers,
                   "-p", *plans, "-f", *map(str, study.folds), "-np", str(study.processes),
                   *(() if ensembling else ("--disable_ensembling",)))  # fmt: skip
    else:
        models = [{"plans": m.plans, "configuration": m.configuration, "trainer": m.trainer} for m in study.models]
        command = ("python", "-c", "from nnunetv2.evaluation.find_best_configuration import find_best_configuration; "
                   f"find_best_configuration({study.number}, {models}, allow_ensembling={ensembling}, "
                   f"num_processes={study.processes}, folds={study.folds})")  # fmt: skip
    return Step("find_best", "Find the best model or ensemble", command, BestFound(study), after)


def first_half(study: Study) -> list[Step]:
    """From the raw dataset to nnU-Net's choice."""
    prepared = preparation(study)
    trained = trainings(study, study.models, tuple(s.name for s in prepared))
    return [*prepared, *trained, choice(study, tuple(s.name for s in trained))]


# ----------------------------------------------------------------------------------------------- second half


def second_half(study: Study) -> list[Step]:
    """Predictions of unseen cases, as far as the dataset has such, and the comparisons. The choice must be there."""
    predicted = list(_unseen_steps(study)) if study.unseen_images is not None else []
    return [*predicted, *comparisons(study)]


def chosen(study: Study) -> dict[str, Any]:
    """nnU-Net's best model or ensemble"""
    return read_object(study.folders.choice)["best_model_or_ensemble"]


def predictions(study: Study, name: str) -> Path:
    """Folder for the unseen cases of a model, of the ensemble, or of the chosen one"""
    return study.out / "unseen" / name


def _unseen_steps(study: Study) -> Iterator[Step]:
    best = chosen(study)
    members = [Model(m["trainer"], m["plans_identifier"], m["configuration"]) for m in best["selected_model_or_models"]]
    # with labels all models are compared on the unseen cases too; without, only the chosen ones predict
    wanted = study.models if study.unseen_labels is not None else tuple(members)
    wanted = tuple(dict.fromkeys(p for m in wanted for p in (*previous_stage(study, m), m)))
    for model in wanted:
        yield _prediction(study, model, with_probabilities=len(members) > 1 and model in members)
    folders = [predictions(study, m.name) for m in members]
    last = tuple(f"predict_{m.name}" for m in members)
    ending, np = study.ending, ("-np", str(study.processes))
    if len(members) > 1:
        target = predictions(study, "ensemble")
        inputs = tuple(_files(folders[0], study, ending) + _files(folders[1], study, ending))
        yield Step("ensemble", "Ensemble", ("nnUNetv2_ensemble", "-i", *map(str, folders), "-o", str(target), *np),
                   Fresh(tuple(_files(target, study, ending)), inputs), last)  # fmt: skip
        folders, last = [target], ("ensemble",)
    final, rules = predictions(study, "chosen"), Path(best["postprocessing_file"])
    inputs = (*_files(folders[0], study, ending), rules)
    yield Step(
        "postprocess", "Apply the postprocessing that nnU-Net chose",
        ("nnUNetv2_apply_postprocessing", "-i", str(folders[0]), "-o", str(final), "-pp_pkl_file", str(rules), *np,
         "-plans_json", best["some_plans_file"], "-dataset_json", str(study.folders.dataset_json)),
        Fresh(tuple(_files(final, study, ending)), inputs), last,
    )  # fmt: skip


def _prediction(study: Study, model: Model, with_probabilities: bool) -> Step:
    folder = predictions(study, model.name)
    before = previous_stage(study, model)
    first = ("-prev_stage_predictions", str(predictions(study, before[0].name))) if before else ()
    command = ("nnUNetv2_predict", "-d", study.number, "-i", str(study.unseen_images), "-o", str(folder),
               *model.options, "-f", *map(str, study.folds), "-device", study.device, *first,
               *(("--save_probabilities",) if with_probabilities else ()))  # fmt: skip
    outputs = _files(folder, study, study.ending) + (_files(folder, study, ".npz") if with_probabilities else [])
    weights = tuple(study.fold(model, f).final for f in study.folds)
    waits = tuple(f"predict_{m.name}" for m in before)
    title = f"Predict the unseen cases with {model.name}"
    return Step(f"predict_{model.name}", title, command, Fresh(tuple(outputs), weights), waits, True)


def _files(folder: Path, study: Study, ending: str) -> list[Path]:
    return [folder / f"{case}{ending}" for case in study.unseen_cases()]


def comparisons(study: Study) -> list[Step]:
    """The report of the cross-validation and, where the unseen cases have labels, theirs."""
    names = [m.name for m in study.models]
    np = ("-np", str(study.processes))
    summaries = tuple(study.fold(m, f).summary for m in study.models for f in study.folds)
    target = study.out / "comparison"
    command = (
        "nnunet-mamba",
        "compare",
        "-d",
        study.number,
        *names,
        "-f",
        *map(str, study.folds),
        "-o",
        str(target),
        *np,
    )
    steps = [Step("compare", "Compare on the cross-validation", command, Fresh((target / "report.html",), summaries))]
    if study.unseen_labels is not None:
        target = study.out / "comparison_unseen"
        folders = [predictions(study, name) for name in (*names, "chosen")]
        inputs = tuple(file for folder in folders for file in _files(folder, study, study.ending))
        command = ("nnunet-mamba", "compare", "-d", study.number, "-ref", str(study.unseen_labels), *map(str, folders),
                   "-images", str(study.unseen_images), "-o", str(target), *np)  # fmt: skip
        waits = ("postprocess", *(f"predict_{name}" for name in names))
        steps.append(Step("compare_unseen", "Compare on the unseen cases", command,
                          Fresh((target / "report.html",), inputs), waits))  # fmt: skip
    return steps
