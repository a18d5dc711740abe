"""A study does what its recipe announces: which trainers with which seed, and the table of what has ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_mamba.names.locate import check_trainer
from nnunet_mamba.planning.recipe_format import check_study
from nnunet_mamba.planning.recipes import load_recipe
from nnunet_mamba.study.protocol import announced
from tests.study.protocol.test_pairs import _scores

RECIPE: dict[str, Any] = {
    "name": "small",
    "source": "a test",
    "differs": ["everything"],
    "configuration": {"configuration": "3d_fullres"},
    "training": "AdamW_1epoch_2its",
    "seeds": [7, 8],
    "pairs": [["nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaNoMamba"]],
    "others": ["nnUNetTrainerSegMamba_Mamba2"],
    "repeated": ["nnUNetTrainerSegMambaNoMamba"],
}


@pytest.fixture
def study(tmp_path: Path) -> announced.Announced:
    return announced.Announced(tmp_path, "Dataset004_Hippocampus", tmp_path / "out", "cpu", RECIPE)


def test_the_study_that_comes_with_the_package() -> None:
    recipe = load_recipe("hippocampus_study")
    check_study(recipe)
    study = announced.Announced(Path(), "Dataset004_Hippocampus", Path("out"), "cpu", recipe)
    for seed in recipe["seeds"]:
        for name in study.trainers(seed):
            check_trainer(name)
    assert len(study.trainers(1)) == 18
    assert study.trainers(2) == study.trainers(3)
    assert len(study.trainers(2)) == 3


def test_the_first_seed_trains_all_and_the_others_what_is_repeated(study: announced.Announced) -> None:
    ending = "_AdamW_1epoch_2its"
    assert study.trainers(7) == [
        f"nnUNetTrainerSegMamba{ending}",
        f"nnUNetTrainerSegMambaNoMamba{ending}",
        f"nnUNetTrainerSegMamba_Mamba2{ending}",
    ]
    assert study.trainers(8) == [f"nnUNetTrainerSegMambaNoMamba{ending}"]


def test_every_seed_has_a_folder_of_results_and_a_failure_stops_no_other(
    study: announced.Announced, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def crossval(command: list[str], env: dict[str, str], check: bool) -> SimpleNamespace:
        asked.append((env["nnUNet_mamba_seed"], env["nnUNet_results"]))
        assert command[1] == "crossval"
        out = Path(command[command.index("-o") + 1]) / "comparison"
        if env["nnUNet_mamba_seed"] == "7":
            out.mkdir(parents=True)
            names = ("nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaNoMamba", "nnUNetTrainerSegMamba_Mamba2")
            _scores(**dict(zip(names, (0.03, 0.0, 0.01), strict=True))).to_csv(out / "scores.csv", index=False)
        return SimpleNamespace(returncode=0 if env["nnUNet_mamba_seed"] == "7" else 1)

    monkeypatch.setattr(announced.subprocess, "run", crossval)
    monkeypatch.setattr(announced.Preparation, "run", lambda self: None)
    assert study.run([8, 7]) == 1
    assert asked == [(str(s), str(study.out / f"seed_{s}" / "nnUNet_results")) for s in (8, 7)]
    text = capsys.readouterr().out
    assert "1 (nnUNetTrainerSegMamba) is better than the control" in text
    table = (study.out / "pairs.csv").read_text(encoding="utf-8").splitlines()
    assert table[0].startswith("model,control,cases")
    assert len(table) == 2
    assert not (study.out / "seeds.csv").exists(), "one seed says nothing about luck"


def test_some_folds_where_the_recipe_names_them(study: announced.Announced) -> None:
    assert "-f" not in study.command(7)
    some = replace(study, recipe={**RECIPE, "folds": [3, 0]}).command(7)
    assert some[some.index("-f") + 1 : some.index("-device")] == ["3", "0"]


def test_without_scores_there_is_no_table(study: announced.Announced) -> None:
    study.report()
    assert not study.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": "AdamV_1epoch"}, r"small: training AdamV_1epoch; expected suffixes as in"),
        ({"folds": [5]}, r"small: folds \[5\]; expected a list of whole numbers from 0 to 4"),
        ({"folds": [True]}, r"small: folds \[True\]; expected"),
        ({"seeds": []}, r"small: seeds \[\]; expected a list of whole numbers"),
        ({"pairs": [["nnUNetTrainer"]]}, "small: pairs .*; expected a list of pairs of names of trainers"),
        ({"repeated": ["nnUNetTrainer"]}, "small: repeated nnUNetTrainer; expected trainers of pairs or others"),
        (
            {"configuration": {"configuration": "a", "inherits_from": "b"}},
            "configuration: batch_size, .* missing",
        ),
        ({"pair": []}, "Did you mean pairs?"),
    ],
)
def test_what_is_no_study_is_refused(change: dict[str, Any], message: str) -> None:
    check_study(RECIPE)
    with pytest.raises(ValueError, match=message):
        check_study(RECIPE | change)


def test_seeds_that_were_not_announced_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnunet_mamba.cli.main import main

    data = tmp_path / "Task04_Hippocampus"
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (data / name).mkdir(parents=True)
    (data / "dataset.json").write_text("{}")
    for i in range(5):
        (data / "imagesTr" / f"{i}.nii.gz").write_bytes(b"")
    recipe = tmp_path / "small.json"
    recipe.write_text(json.dumps(RECIPE))
    assert main(["study", str(recipe), "--data", str(data), "--out", str(tmp_path / "out"), "--seeds", "9"]) == 2
    assert "--seeds 9: not of this study; it announces 7 8" in capsys.readouterr().err
