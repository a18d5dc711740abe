"""Which of nnU-Net's commands a study needs, in which order, and what counts as done."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_mamba.cli import main as cli
from nnunet_mamba.names import networks
from nnunet_mamba.nnunet_folders import FoldFolder, Model
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.evidence import Probabilities, is_fresh
from nnunet_mamba.study.crossval.models import pair_models, planner_of
from nnunet_mamba.study.crossval.steps import (
    Step,
    choice,
    first_half,
    previous_stage,
    second_half,
    trainings,
    with_previous_stages,
)
from tests.study.crossval.conftest import CASES, choose, finish_fold, write_plans


def _by_name(steps: list[Step]) -> dict[str, Step]:
    assert len({s.name for s in steps}) == len(steps)
    for place, step in enumerate(steps):
        earlier = {s.name for s in steps[:place]}
        assert set(step.after) <= earlier, f"{step.name} waits for something later"
    return {s.name: s for s in steps}


def test_everything_from_a_raw_dataset(study: Study) -> None:
    steps = _by_name(first_half(study))
    assert list(steps)[:3] == ["fingerprint", "plan_nnUNetPlans", "preprocess_nnUNetPlans_3d_fullres"]
    train = steps["train_nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres_1"]
    expected = "nnUNetv2_train 7 3d_fullres 1 -tr nnUNetTrainerSegMamba -p nnUNetPlans -device cpu --npz --c"
    assert " ".join(train.command) == expected
    assert set(train.after) == {"fingerprint", "plan_nnUNetPlans", "preprocess_nnUNetPlans_3d_fullres"}
    best = steps["find_best"]
    assert " ".join(best.command) == (
        "nnUNetv2_find_best_configuration 7 -c 3d_fullres -tr nnUNetTrainerSegMamba nnUNetTrainer -p nnUNetPlans "
        "-f 0 1 -np 1"
    )
    assert not any(s.done() for s in steps.values())


def test_what_is_there_is_done(study: Study) -> None:
    write_plans(study)
    folder = study.folders.preprocessed / "nnUNetPlans_3d_fullres"
    folder.mkdir()
    steps = _by_name(first_half(study))
    assert "plan_nnUNetPlans" not in steps, "a plan is never made again: it would undo what somebody changed"
    preprocess = steps["preprocess_nnUNetPlans_3d_fullres"]
    for case in CASES[1:]:
        (folder / f"{case}.pkl").touch()
    assert not preprocess.done(), "one case is missing"
    (folder / f"{CASES[0]}.pkl").touch()
    assert preprocess.done()
    first = study.models[0]
    finish_fold(study, first, 0, npz=False)
    assert steps[f"train_{first.name}_0"].done()
    assert not steps[f"probabilities_{first.name}_0"].done(), "an ensemble could not be made"
    assert steps[f"probabilities_{first.name}_0"].command[-2:] == ("--val", "--npz")
    finish_fold(study, first, 0)
    assert steps[f"probabilities_{first.name}_0"].done()
    study.fold(first, 0).summary.unlink()
    assert not steps[f"train_{first.name}_0"].done(), "killed in its validation"


def test_the_choice_is_that_of_these_models_and_of_these_trainings(study: Study) -> None:
    write_plans(study)
    for model in study.models:
        for fold in study.folds:
            finish_fold(study, model, fold)
    best = choice(study, ())
    assert not best.done()
    choose(study, study.models[0])
    assert best.done()
    assert not choice(replace(study, folds=(0,)), ()).done()
    assert not choice(replace(study, models=study.models[:1]), ()).done()
    assert not choice(replace(study, ensembling=False), ()).done()
    later = study.folders.choice.stat().st_mtime + 5
    os.utime(study.fold(study.models[1], 1).summary, (later, later))
    assert not best.done(), "a fold was validated after the choice"


def test_pairs_that_are_no_product_call_the_function(study: Study) -> None:
    models = pair_models(["nnUNetTrainerSegMamba", "nnUNetTrainer"], ["nnUNetSegMambaPlans", "nnUNetPlans"], ["2d"])
    command = choice(replace(study, models=models), ()).command
    assert command[:2] == ("python", "-c")
    compile(command[2], "command", "exec")
    assert "'plans': 'nnUNetSegMambaPlans', 'configuration': '2d', 'trainer': 'nnUNetTrainerSegMamba'" in command[2]


def test_one_model_makes_no_ensembles(study: Study) -> None:
    assert "--disable_ensembling" in choice(replace(study, models=study.models[:1]), ()).command
    without = _by_name(first_half(replace(study, ensembling=False)))
    assert not any("--npz" in s.command for s in without.values())


def test_cascades_bring_and_await_their_first_stage(study: Study) -> None:
    cascade = Model("nnUNetTrainer", "nnUNetPlans", "3d_cascade_fullres")
    for planned in (False, True):
        if planned:
            write_plans(study)
        whole = with_previous_stages(replace(study, models=(cascade,)))
        assert [m.configuration for m in whole.models] == ["3d_lowres", "3d_cascade_fullres"]
        steps = {s.name: s for s in trainings(whole, whole.models, ())}
        waits = steps["train_nnUNetTrainer__nnUNetPlans__3d_cascade_fullres_0"].after
        assert set(waits) == {f"train_nnUNetTrainer__nnUNetPlans__3d_lowres_{f}" for f in study.folds}
    assert previous_stage(study, replace(cascade, configuration="3d_fullres")) == ()
    choose(whole, cascade)
    predict = _by_name(second_half(whole))[f"predict_{cascade.name}"].command
    at = predict.index("-prev_stage_predictions")
    assert predict[at + 1].endswith("nnUNetTrainer__nnUNetPlans__3d_lowres")


def test_after_the_choice_of_an_ensemble(study: Study) -> None:
    choose(study, *study.models)
    steps = _by_name(second_half(study))
    assert all("--save_probabilities" in steps[f"predict_{m.name}"].command for m in study.models)
    assert steps["postprocess"].after == ("ensemble",)
    assert steps["compare_unseen"].command[:6] == (
        "nnunet-mamba", "compare", "-d", "7", "-ref", str(study.folders.unseen_labels),
    )  # fmt: skip
    assert set(steps["compare_unseen"].after) == {"postprocess", *(f"predict_{m.name}" for m in study.models)}


def test_without_labels_only_the_chosen_one_predicts(study: Study) -> None:
    for path in study.folders.unseen_labels.iterdir():
        path.unlink()
    choose(study, study.models[1])
    steps = _by_name(second_half(study))
    assert list(steps) == [f"predict_{study.models[1].name}", "postprocess", "compare"]
    assert "--save_probabilities" not in steps[f"predict_{study.models[1].name}"].command


def test_without_unseen_cases_there_is_only_the_comparison(study: Study) -> None:
    for path in study.folders.unseen_images.iterdir():
        path.unlink()
    choose(study, study.models[0])
    assert [s.name for s in second_half(replace(study, ensembling=False)) if s.name != "compare_unseen"] == ["compare"]


@pytest.mark.parametrize("plans", ["nnUNetPlans", "nnUNetResEncUNetMPlans", "nnUNetSegMambaPlans"])
def test_every_known_plan_has_its_planner(plans: str) -> None:
    assert "lanner" in planner_of(plans)


def test_all_of_our_plans_are_known() -> None:
    for network in networks.NETWORKS:
        assert planner_of(network.plans) == network.planner
        assert planner_of(network.twin.plans) == network.twin.planner
    with pytest.raises(ValueError, match="-p myPlans: no such plans yet, and no planner known that writes them"):
        planner_of("myPlans")


def test_split_is_nnunets_own(study: Study) -> None:
    study.write_split()
    folds = json.loads(study.folders.split.read_text(encoding="utf-8"))
    assert len(folds) == 5
    assert sorted(c for f in folds for c in f["val"]) == CASES
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    assert folds[0]["val"] == list(generate_crossval_split(CASES, seed=12345, n_splits=5)[0]["val"])
    study.folders.split.write_text("[1, 2]")
    study.write_split()
    assert study.folders.split.read_text(encoding="utf-8") == "[1, 2]"


def test_freshness(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path, time in ((old, 100), (new, 200)):
        path.touch()
        os.utime(path, (time, time))
    assert is_fresh([new], [old])
    assert not is_fresh([old], [new])
    assert not is_fresh([tmp_path / "missing"])
    assert not is_fresh([])
    assert is_fresh([old], [tmp_path / "missing"])


def _crossval(*arguments: str) -> int:
    return cli.main(["crossval", "-d", "7", "-device", "cpu", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-tr", "nnUNetTrainerSegMama"), "Did you mean nnUNetTrainerSegMamba?"),
        (("-tr", "nnUNetTrainerSegMamba_7epoch_x"), "_x is not a suffix of our trainers"),
        (("-tr", "myTrainer"), "'myTrainer' is not known to nnU-Net or to nnunet_mamba"),
        (("-tr", "nnUNetTrainer", "-f", "0", "5"), "-f 5: the dataset is split into 5 folds; -f 0 1 2 3 4"),
        (("-tr", "nnUNetTrainer", "nnUNetTrainer"), "given twice"),
        (("-tr", "nnUNetTrainer", "-p", "a", "b"), "-p has 2 plans for 1 trainers; give one for all or one for each"),
        (("-tr", "nnUNetTrainer", "-p", "myPlans", "--dry-run"), "no planner known that writes them"),
        (("-tr", "nnUNetTrainer", "--gpus", "0"), "--gpus 0 with -device cpu"),
        (("-tr", "nnUNetTrainer", "-np", "0"), "-np 0; expected a number of processes"),
        (("-tr", "nnUNetTrainer", "--executor", "slurm", "--sbatch", "x"), "--sbatch x; expected OPTION=VALUE"),
        (("-tr", "nnUNetTrainer", "-c", "4d"), "-c 4d: nnUNetPlans has 3d_lowres, 3d_fullres, 3d_cascade_fullres"),
    ],
)
def test_refusals(study: Study, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    if "4d" in arguments:
        write_plans(study)
    assert _crossval(*arguments) == 2
    assert message in capsys.readouterr().err


def test_dry_run_prints_what_is_missing_and_runs_nothing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    write_plans(study)
    finish_fold(study, study.models[0], 0, npz=False)
    arguments = ("-tr", *(m.trainer for m in study.models), "-f", "0", "1", "--dry-run")
    assert _crossval(*arguments) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert [line.split()[0] for line in lines] == [
        "nnUNetv2_extract_fingerprint", "nnUNetv2_preprocess", *["nnUNetv2_train"] * 4,
        "nnUNetv2_find_best_configuration",
    ]  # fmt: skip
    trained = [re.search(r"fullres (\d) -tr (\w+).*?(--val )?--npz", line) for line in lines[2:6]]
    found = [(m[2], m[1], bool(m[3])) for m in trained if m]
    assert found == [("nnUNetTrainerSegMamba", "0", True), ("nnUNetTrainerSegMamba", "1", False),
                     ("nnUNetTrainer", "0", False), ("nnUNetTrainer", "1", False)]  # fmt: skip
    assert not study.out.exists()


def test_one_old_output_is_enough_to_be_stale(tmp_path: Path) -> None:
    """An old checkpoint beside a new summary"""
    times = {"old": 100, "input": 150, "new": 200}
    for name, time in times.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    old, given, new = (tmp_path / name for name in times)
    assert not is_fresh([old, new], [given])
    assert not is_fresh([new, old], [given])
    assert is_fresh([new], [old, given])
    assert not is_fresh([given], [old, new]), "the newest input counts"
    assert is_fresh([given], [given]), "of the same moment"


def test_probabilities_are_needed_for_every_prediction(tmp_path: Path) -> None:
    validation = tmp_path / "validation"
    validation.mkdir()
    asked = Probabilities(FoldFolder(tmp_path), ".nii.gz")
    assert not asked(), "no prediction at all"
    for name in ("a.nii.gz", "b.nii.gz", "a.npz"):
        (validation / name).touch()
    assert not asked(), "b has none"
    (validation / "b.npz").touch()
    assert asked()
