"""Grids become configurations and trainers that nnU-Net finds; finished trainings are not repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.cli.main import main
from nnunet_mamba.names.locate import locate
from nnunet_mamba.planning.configurations import DatasetPlans
from nnunet_mamba.planning.estimate import card_gigabytes
from nnunet_mamba.planning.grid import EXAMPLE, KEYS, load_grid
from nnunet_mamba.planning.sweep import derive
from nnunet_mamba.study.crossval import commands as stock_commands
from tests.planning.test_configurations import DATASET, plans

__all__ = ["plans"]  # the fixture

GRID = {
    "plans": "nnUNetPlans", "configuration": "3d_fullres", "trainer": "nnUNetTrainerSegMamba_5epochs",
    "patch_size": [[16, 16, 16], [32, 32, 16]], "batch_size": [2, 3], "foreground_oversampling": [0.33, 0.66],
}  # fmt: skip


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(GRID))
    return path


def test_every_combination_is_a_variant_with_a_name(plans: DatasetPlans) -> None:
    sweep = derive(GRID, plans)
    assert len(sweep.variants) == 8
    assert set(sweep.configurations) == {
        f"3d_fullres_p{patch}_b{batch}" for patch in ("16x16x16", "32x32x16") for batch in (2, 3)
    }
    assert {v.trainer for v in sweep.variants} == {f"nnUNetTrainerSegMamba_fg{p}_5epochs" for p in (33, 66)}
    assert all(locate(v.trainer) for v in sweep.variants)
    plans.add(sweep.configurations)
    chosen = PlansManager(str(plans.path)).get_configuration("3d_fullres_p32x32x16_b3")
    assert chosen.patch_size == [32, 16, 32], "x y z in the grid, y z x in this plan"
    assert chosen.batch_size == 3
    memory = {v.configuration: v.memory for v in sweep.variants}
    assert memory["3d_fullres_p16x16x16_b2"] < memory["3d_fullres_p32x32x16_b2"] < memory["3d_fullres_p32x32x16_b3"]


def test_the_plan_itself_can_be_part_of_it(plans: DatasetPlans) -> None:
    sweep = derive({"configuration": "3d_fullres", "trainer": "nnUNetTrainer", "initial_lr": [0.01, 0.001]}, plans)
    assert sweep.configurations == {}
    assert [(v.configuration, v.trainer) for v in sweep.variants] == [
        ("3d_fullres", "nnUNetTrainer_lr1e-2"), ("3d_fullres", "nnUNetTrainer_lr1e-3"),
    ]  # fmt: skip


def test_what_the_trainer_says_already_stays(plans: DatasetPlans) -> None:
    given = "nnUNetTrainerSegMamba_lr1e-3_fg66_lossCE_5epochs"
    sweep = derive({"configuration": "3d_fullres", "trainer": given, "batch_size": [2]}, plans)
    assert [v.trainer for v in sweep.variants] == [given]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_sizes": []}, "unknown patch_sizes; allowed: purpose, plans"),
        ({"trainer": None}, "trainer is missing, for example 'nnUNetTrainerSegMamba_50epochs'"),
        ({"batch_size": 2}, "batch_size: 2; expected a list of values"),
        ({"batch_size": [0]}, "batch_size 0; expected whole numbers > 0"),
        ({"patch_size": [[16, 16]]}, "expected 3 whole numbers, voxels along x y z"),
        ({"patch_size": [[17, 33, 33]]}, "use "),
        ({"loss": ["Focal"]}, "loss 'Focal'; expected one of Dice, CE, TopK10"),
        ({"foreground_oversampling": [66]}, "expected a share between 0 and 1"),
        ({"trainer": "nnUNetTrainerAdam"}, "'nnUNetTrainerAdam_fg33' is not ours"),
        ({"configuration": "4d"}, "configuration 4d: nnUNetPlans has 2d, 3d_fullres"),
    ],
)
def test_grids_that_cannot_be(
    change: dict[str, Any], message: str, grid: Path, plans: DatasetPlans, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plans.path.read_text(encoding="utf-8")
    grid.write_text(json.dumps({**GRID, **change}), encoding="utf-8")
    assert main(["sweep", "-d", "999", str(grid)]) == 2
    assert message in capsys.readouterr().err
    assert plans.path.read_text(encoding="utf-8") == before, "nothing written"


def test_losses_for_exclusive_labels_are_refused_for_regions(plans: DatasetPlans) -> None:
    plans.dataset_json["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
    with pytest.raises(ValueError, match="TopK10: nnU-Net has it for exclusive labels only"):
        derive({**GRID, "loss": ["Dice", "TopK10"]}, plans)


def test_the_example_in_the_help_is_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    shown = capsys.readouterr().out
    text = shown[shown.index("{\n") : shown.index("\n}\n") + 2]
    assert json.loads(text) == EXAMPLE
    assert set(EXAMPLE) == set(KEYS) - {"purpose"}
    path = tmp_path / "g.json"
    path.write_text(text)
    assert load_grid(path)


def test_commands_results_and_resumption(
    grid: Path, plans: DatasetPlans, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["sweep", "-d", "999", str(grid), "-f", "0", "1", "-device", "cpu"]
    assert main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nnUNetv2_train ")]
    assert len(lines) == 16
    assert lines[0] == (
        f"nnUNetv2_train {DATASET} 3d_fullres_p16x16x16_b2 0 -tr nnUNetTrainerSegMamba_fg33_5epochs -p nnUNetPlans "
        "-device cpu"
    )

    trained: list[str] = []

    def train(self: Any, step: str, line: list[str], title: str) -> None:
        """As nnU-Net would; the third one fails"""
        name, fold, trainer = line[2], line[3], line[line.index("-tr") + 1]
        folder = tmp_path / "results" / DATASET / f"{trainer}__nnUNetPlans__{name}" / f"fold_{fold}"
        folder.mkdir(parents=True, exist_ok=True)
        trained.append(" ".join(line))
        if len(trained) == 3:
            (folder / "checkpoint_latest.pth").write_bytes(b"")
            raise stock_commands.CommandFailedError("killed")
        (folder / "validation").mkdir()
        score = {"foreground_mean": {"Dice": 0.5 + 0.01 * len(trained)}}
        (folder / "validation" / "summary.json").write_text(json.dumps(score))

    monkeypatch.setattr(stock_commands.StockCommands, "run", train)
    assert main([*command, "--run"]) == 1
    shown = capsys.readouterr().out
    assert "failed, going on: killed" in shown
    assert len(trained) == 16
    table = [line for line in shown.splitlines() if line.startswith("| ")]
    assert table[0].startswith("| patch_size | batch_size | foreground_oversampling | memory | fold 0 | fold 1 | mean")
    means = [float(line.split("|")[-2]) for line in table[2:]]
    assert means == sorted(means, reverse=True)

    trained.clear()
    trained.extend(["", "", ""])  # no further failure
    assert main([*command, "--run"]) == 0
    assert len(trained) == 4, "only the one that failed"
    assert trained[-1].endswith("--c"), "continued"
    assert "15 of 16 trainings finished" in capsys.readouterr().out


def test_a_budget_leaves_variants_out(grid: Path, plans: DatasetPlans, capsys: pytest.CaptureFixture[str]) -> None:
    memory = sorted({v.memory for v in derive(GRID, plans).variants})
    assert main(["sweep", "-d", "999", str(grid), "-gpu_memory_target", str(card_gigabytes(memory[0] + 1))]) == 0
    shown = capsys.readouterr().out
    assert "2 variants" in shown
    assert shown.count("left out: over -gpu_memory_target") == 6
    assert main(["sweep", "-d", "999", str(grid), "-gpu_memory_target", "0.000001"]) == 2
    assert "no variant fits; the smallest takes about" in capsys.readouterr().err
