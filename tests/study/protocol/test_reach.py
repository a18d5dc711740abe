"""A study of reach: what it trains in which order, its plans, its table and its picture."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from nnunet_mamba.cli.main import main
from nnunet_mamba.planning.recipe_format import check_reach
from nnunet_mamba.planning.recipes import load_recipe
from nnunet_mamba.study.protocol import reach, reach_picture, reach_scores
from nnunet_mamba.trainers import seeding
from nnunet_mamba.whole_files import read_object, write_json
from tests.stock_plans import stock_plans
from tests.test_readme import ROOT

RECIPE: dict[str, Any] = {
    "name": "small",
    "source": "a test",
    "differs": ["everything"],
    "probes": [{"task": "far-marker", "axis": 0, "distance": 8, "width": 16}, {"task": "thin-tree", "length": 32}],
    "cases": 10,
    "configuration": {
        "configuration": "3d_small",
        "inherits_from": "3d_fullres",
        "batch_size": 3,
        "coarsen": 2,
        "topology": {"features_per_stage": [2, 4, 6, 8], "kernel_sizes": [3, 3, 3, 1], "strides": [1, 2, 2, 1]},
    },
    "training": "AdamW_1epoch_2its",
    "seeds": [7, 8],
    "networks": [
        {"name": "nnU-Net", "trainer": "nnUNetTrainer"},
        {"name": "forward", "trainer": "nnUNetTrainerMambaEncoder", "keywords": {"scan": "forward"}},
    ],
    "solved": 0.8,
    "guessed": 0.67,
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reach.Reach:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in (seeding.VARIABLE, reach.AUGMENTERS):
        monkeypatch.setenv(name, "1")
    return reach.Reach(tmp_path / "out", "cpu", RECIPE)


def test_the_study_that_comes_with_the_package() -> None:
    recipe = load_recipe("reach_study")
    check_reach(recipe)
    study = reach.Reach(Path("out"), "cpu", recipe)
    assert len({p.dataset for p in study.probes}) == len(study.probes)
    assert len({study.model(k).name for k in study.kinds}) == len(study.kinds)
    assert len(recipe["seeds"]) >= 3


def test_every_dataset_is_made_once_and_trained_with_every_seed(
    study: reach.Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(reach.Reach, "prepare", lambda self, made: asked.append(made.dataset))
    monkeypatch.setattr(reach.Reach, "train", lambda self, made, seed: asked.append(seed) or seed != 8)
    monkeypatch.setattr(reach.Reach, "report", lambda self: asked.append("report"))
    assert study.run([7, 8]) == 1, "a failure stops no other training, and is told"
    first, second = "Dataset601_FarMarkerD8Axis0", "Dataset602_ThinTreeL32Gap3"
    assert asked == [first, 7, 8, "report", second, 7, 8, "report"]
    assert [(p.axis, p.far) for p in study.probes] == [(0, 8), (-1, 32)]
    assert study.probes[0].command(10) == [
        "nnunet-mamba", "convert", "probe", "--task", "far-marker", "--axis", "0", "--distance", "8", "--width", "16",
        "--cases", "10", "--unseen", "0", "-d", "601",
    ]  # fmt: skip


def test_every_seed_has_results_of_its_own(study: reach.Reach) -> None:
    made = study.study(study.probes[0], 8)
    assert made.folds == (0,)
    assert made.folders.results.is_relative_to(study.out / "seed_8")
    assert os.environ[seeding.VARIABLE] == "8"
    names = [m.name for m in made.models]
    assert names == [
        "nnUNetTrainer_AdamW_1epoch_2its__nnUNetPlans__3d_small",
        "nnUNetTrainerMambaEncoder_AdamW_1epoch_2its__nnUNetPlans__3d_small_forward",
    ]


def test_all_networks_have_the_recipes_stages_and_one_its_keywords(
    study: reach.Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plans.json"
    write_json(file, stock_plans())
    monkeypatch.setattr(reach, "planned", lambda *_: file)
    study.prepare(study.probes[0])
    made = read_object(file)["configurations"]
    plain, forward = made["3d_small"], made["3d_small_forward"]
    assert plain["patch_size"] == forward["patch_size"] == [48, 8, 8], "the whole volume, 96 x 16 x 16, at 2 mm"
    assert plain["spacing"] == [2, 2, 2]
    assert plain["data_identifier"] == forward["data_identifier"] == "nnUNetPlans_3d_coarsened_2"
    kwargs = plain["architecture"]["arch_kwargs"]
    assert kwargs["n_conv_per_stage"] == [2, 2, 2, 2]
    assert kwargs["n_conv_per_stage_decoder"] == [2, 2, 2]
    for architecture in (plain["architecture"], forward["architecture"]):
        assert architecture["arch_kwargs"]["features_per_stage"] == [2, 4, 6, 8]
        assert architecture["arch_kwargs"]["strides"] == [[n] * 3 for n in (1, 2, 2, 1)]
    assert forward["architecture"]["arch_kwargs"]["scan"] == "forward"
    assert "scan" not in kwargs
    assert "patch [48, 8, 8], batch 3" in capsys.readouterr().out
    monkeypatch.setattr(reach, "planned", lambda *_: file)
    study.prepare(study.probes[0])
    assert read_object(file)["configurations"] == made, "twice is once"
    assert _reaches(study, file, monkeypatch) == {"nnU-Net": 56, "forward": 70}, "28 and 35 voxels of 2 mm"


def _reaches(study: reach.Reach, plans: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    monkeypatch.setattr(reach.Study, "plans_file", lambda self, model: plans)
    probe = study.probes[0]
    made = study.study(probe, 7)
    trainings = [reach_scores.Training(probe, k.name, 7, made, study.model(k)) for k in study.kinds]
    return {training.network: reach_scores.reach_of(training) for training in trainings}


def _trainings(*rows: tuple[int, str, int, float]) -> pd.DataFrame:
    """far, network, seed, Dice"""
    return pd.DataFrame(
        [
            {"task": "far-marker", "axis": 2, "far": far, "network": name, "reach": 20, "seed": seed, "Dice": dice,
             "clDice": dice}
            for far, name, seed, dice in rows
        ]
    )  # fmt: skip


def test_a_row_per_dataset_and_network() -> None:
    found = _trainings((8, "a", 1, 0.9), (8, "a", 2, 0.7), (8, "a", 3, 0.8), (16, "a", 1, 0.6), (8, "b", 1, 1.0))
    table = reach_scores.of_seeds(found, 0.8)
    assert list(zip(table["far"], table["network"], table["seeds"], table["solved"], strict=True)) == [
        (8, "a", 3, 2), (16, "a", 1, 0), (8, "b", 1, 1),
    ]  # fmt: skip
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert table.loc[0, "Dice"] == pytest.approx(0.8)
    assert table.loc[0, "low"] == pytest.approx(0.8 - half)
    assert table.loc[0, "high"] == 1.0, "no Dice is larger"
    assert math.isnan(table.loc[1, "low"]), "one seed says nothing about others"
    text = reach_scores.as_markdown(table)
    assert "| far-marker | 2 | 8 | a | 20 | 2 of 3 | 0.800 | 0.552 to 1.000 | 0.900 0.700 0.800 |" in text
    assert "| 1 of 1 | 1.000 |  | 1.000 |" in text


def test_the_picture_shows_every_network(tmp_path: Path) -> None:
    found = _trainings((8, "a", 1, 0.9), (16, "a", 1, 0.6), (8, "b", 1, 1.0), (16, "b", 1, 0.95))
    tree = found.assign(task="thin-tree", axis=-1)
    both = pd.concat([found, tree])
    sizes = []
    for trainings in (found, both):
        reach_picture.draw(reach_scores.of_seeds(trainings, 0.8), trainings, 0.67, tmp_path / "reach.png")
        picture = imread(tmp_path / "reach.png")
        colors = {tuple(c) for c in np.unique((picture[..., :3] * 255).round().reshape(-1, 3), axis=0)}
        assert {(31, 119, 180), (255, 127, 14)} <= colors, "one colour each"
        sizes.append(picture.shape[1])
    assert sizes[1] == 2 * sizes[0], "a panel per task"


def test_without_trainings_there_is_no_table(study: reach.Reach) -> None:
    study.report()
    assert not study.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probes": []}, "small: probes .*; expected a list of objects"),
        ({"cases": 9}, "small: cases 9; expected a whole number from 10"),
        ({"networks": [{"trainer": "nnUNetTrainer"}]}, "small: networks: name missing"),
        ({"networks": [{"name": "a__b", "trainer": "nnUNetTrainer"}]}, "small: networks: name .*; expected letters"),
        ({"networks": [{"name": "a", "trainer": "nnUNetTrainerSegMmaba"}]}, "did you mean|SegMamba"),
        ({"networks": [{"name": "a", "trainer": "nnUNetTrainer", "keywords": {"scan": "forward"}}]}, "leave them out"),
        ({"networks": [{"name": "a", "trainer": "nnUNetTrainer"}] * 2}, "a, a: names of two networks are"),
        ({"probes": [{"task": "far-marker", "size": 24}]}, "unknown size in .*; allowed: task, distance, axis"),
        ({"probes": [{"task": "far-marker", "distance": "8"}]}, "expected whole numbers besides the task"),
        ({"probes": [{"task": "far-marker", "length": 24}]}, "--length belongs to --task thin-tree"),
        ({"probes": [{"task": "far-marker", "distance": 7}]}, "--distance 7: expected 8 to 240"),
        ({"probes": [{"task": "near"}]}, "--task near: unknown"),
        ({"probes": [{"distance": 8}]}, "--task is missing"),
        ({"solved": 1.5}, "small: solved 1.5; expected a number from 0 to 1"),
        ({"prob": 1}, "Did you mean probes?"),
        ({"configuration": RECIPE["configuration"] | {"topology": {"strides": [1, 2]}}}, "topology: .* missing"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    recipe = copy.deepcopy(RECIPE) | change

    def made() -> reach.Reach:
        check_reach(recipe)
        return reach.Reach(tmp_path, "cpu", recipe)

    with pytest.raises(ValueError, match=message):
        made()


def test_data_are_asked_for_where_they_are_needed_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.json"
    recipe.write_text(json.dumps(RECIPE))
    out = ["--out", str(tmp_path / "out"), "-device", "cpu"]
    assert main(["study", str(recipe), "--data", str(tmp_path), *out]) == 2
    assert "small makes its own data; leave --data out" in capsys.readouterr().err
    assert main(["study", "hippocampus_study", *out]) == 2
    assert "--data MSD_FOLDER is missing" in capsys.readouterr().err
    assert main(["study", str(recipe), "--seeds", "9", *out]) == 2
    assert "--seeds 9: not of this study; it announces 7 8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_trial_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trial = runpy.run_path(str(ROOT / "docs" / "case-studies" / "reach" / "trial.py"))
    trial["main"].__globals__.update(CASES=4, UNSEEN=2)
    arguments = ["MambaEncoder", "8", "--scan", "forward", "--iterations", "1", "--warm-up", "1"]
    monkeypatch.setattr("sys.argv", ["trial.py", *arguments])
    trial["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert all(re.fullmatch(r" +\d  Dice [01]\.\d{3}  right [0-2] of 2", line) for line in lines)


def test_the_table_of_trials_is_that_of_their_file() -> None:
    found = pd.read_csv(ROOT / "docs" / "case-studies" / "reach" / "trials.csv")
    page = (ROOT / "docs" / "case-studies" / "reach.md").read_text(encoding="utf-8")
    table = reach_scores.of_seeds(found.assign(clDice=math.nan), 0.8)
    for row in table.to_dict("records"):
        cells = (
            f"| {row['axis']} | {row['far']} | {row['network']} | {row['reach']} | {row['solved']} of {row['seeds']} |"
        )
        assert f"{cells} {row['Dice']:.3f} |" in page
        assert f"| {row['each']} |" in page
