"""`nnunet-mamba compare` on folders as nnU-Net leaves them: tables, records, refusals, what is kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_mamba.cli import main as cli
from nnunet_mamba.nnunet_folders import FoldFolder
from nnunet_mamba.study.comparison import scores as scoring
from nnunet_mamba.study.comparison.candidates import Candidate, common_cases, with_short_names
from nnunet_mamba.study.comparison.cases import read_groups
from nnunet_mamba.study.comparison.training import read_fold, validation_times
from tests.study.comparison.conftest import BAD, CASES, DATASET, GOOD, NETWORK_NUMBERS, Workspace


def _run(*arguments: str | Path) -> int:
    return cli.main(["compare", "-d", "4", *map(str, arguments)])


def _row(text: str, *words: str) -> list[str]:
    """Cells of the first table row with these words as its first cells"""
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("|") and cells[: len(words)] == list(words):
            return cells
    raise AssertionError(f"no row {words} in:\n{text}")


def test_everything_on_real_cases(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    cohorts = pd.DataFrame({"case": CASES, "patient": "", "cohort": ["Normal", "Diseased"] * 4})
    cohorts.to_csv(workspace.raw / "cases.csv", index=False)
    assert _run(GOOD, BAD, "-metrics", "Dice", "HD95") == 0
    out = workspace.results / "comparison"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.split("\n## Definitions")[0].split("\n## Cases")[0] in capsys.readouterr().out

    # against nnU-Net's own definition, computed here
    expected = []
    for case in CASES:
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(workspace.truth / f"{case}.nii.gz")))
        fold = CASES.index(case) % 2
        path = workspace.results / GOOD / f"fold_{fold}" / "validation" / f"{case}.nii.gz"
        guess = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        expected.append(
            [2 * ((truth == v) & (guess == v)).sum() / ((truth == v).sum() + (guess == v).sum()) for v in (1, 2)]
        )
    dice = np.array(expected)
    table = pd.read_csv(out / "scores.csv").set_index(["model", "case", "mask"])["Dice"]
    assert np.allclose(table["nnUNetTrainerSegMamba"].xs("posterior", level="mask"), dice[:, 1])
    assert np.allclose(table["nnUNetTrainerSegMamba"].xs("all masks", level="mask"), dice.mean(1))
    row = _row(text, "all masks", "nnUNetTrainerSegMamba")
    assert row[2].startswith(f"{dice.mean():.4g} ± {dice.mean(1).std(ddof=1):.3g} (")
    assert row[-1] == "8"
    folds = [dice[i::2].mean() for i in (0, 1)]
    assert _row(text.split("## Folds")[1], "nnUNetTrainerSegMamba")[1:3] == [f"{f:.4g}" for f in folds]
    change = _row(text, "all masks", "Dice", "nnUNetTrainer - nnUNetTrainerSegMamba")
    assert float(change[3]) < -0.1
    assert change[5] == "0.008", "8 cases, all worse: 2 of 256 signs"
    assert _row(text, "Normal", "nnUNetTrainer")[-1] == "4"
    cost = _row(text.split("## Training")[1], "nnUNetTrainerSegMamba")
    assert cost[2:8] == ["3", "90 s", "1.50 GB", "2.50 s", "-", "CPU"]
    worst = table.groupby(["case", "mask"]).mean().xs("all masks", level="mask").idxmin()
    listed = [line for line in text.split("## Worst cases")[1].splitlines() if line.startswith("| hippocampus")]
    assert len(listed) == 5
    assert listed[0].startswith(f"| {worst} |")
    for target in re.findall(r"\]\((pictures/[^)]+)\)", text):
        assert (out / target).stat().st_size > 1000


def test_scores_are_computed_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(GOOD, BAD, "-metrics", "Dice") == 0
    first = (workspace.results / "comparison" / "scores.csv").read_text(encoding="utf-8")
    real, asked = scoring.evaluate, []
    monkeypatch.setattr(scoring, "evaluate", lambda *a: asked.append(a) or real(*a))
    assert _run(GOOD, BAD, "-metrics", "Dice") == 0
    assert not asked
    assert (workspace.results / "comparison" / "scores.csv").read_text(encoding="utf-8") == first
    prediction = workspace.results / GOOD / "fold_0" / "validation" / f"{CASES[0]}.nii.gz"
    shutil.copy(workspace.truth / f"{CASES[0]}.nii.gz", prediction)
    assert _run(GOOD, BAD, "-metrics", "Dice") == 0
    assert len(asked) == 1, "the other model's files have not changed"
    table = pd.read_csv(workspace.results / "comparison" / "scores.csv").set_index(["model", "case", "mask"])["Dice"]
    assert table["nnUNetTrainerSegMamba", CASES[0], "all masks"] == 1


def test_folders_of_predictions(workspace: Workspace, tmp_path: Path) -> None:
    reference = tmp_path / "ref"
    shutil.copytree(workspace.truth, reference)
    for name in ("first", "second"):
        shutil.copytree(workspace.truth, tmp_path / name)
    assert _run("-ref", reference, tmp_path / "first", tmp_path / "second", "-o", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert _row(text, "all masks", "first")[2] == "1 ± 0"
    assert _row(text, "all masks", "Dice", "second - first")[3:8] == ["+0", "-", "1.000", "1.000", "1.000"]
    assert "## Training" not in text


def test_one_model_alone(workspace: Workspace) -> None:
    assert _run(workspace.results / GOOD, "-f", "0", "-metrics", "Dice", "-np", "2") == 0
    text = (workspace.results / "comparison" / "report.md").read_text(encoding="utf-8")
    assert "1 model on 4 cases" in text
    assert "## Paired differences" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nnUNetTrainerNo__nnUNetPlans__2d",), f"no trained model there. In {DATASET}: {GOOD}, {BAD}"),
        ((GOOD, "-f", "0", "3"), "fold 3 has not finished its validation; finished: 0 1"),
        ((GOOD, BAD, "-test", "t"), "-test t; expected permutation or wilcoxon"),
        ((GOOD, BAD, "-metrics", "Dicee"), "metric 'Dicee'; expected some of Dice"),
        ((GOOD, "-np", "0"), "-np 0; expected a number of processes"),
        ((GOOD, GOOD), "every candidate needs a name of its own"),
        (("-ref", "nowhere", "nowhere"), "-ref nowhere: no such folder"),
        (("-ref", ".", "."), ": no *.nii.gz files there"),
    ],
)
def test_refusals(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert _run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_other_cases_are_refused_or_left_out(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.results / BAD / "fold_0" / "validation" / f"{CASES[0]}.nii.gz").unlink()
    assert _run(GOOD, BAD) == 2
    assert f"nnUNetTrainer lacks 1 cases, {CASES[0]} for instance" in capsys.readouterr().err
    assert _run(GOOD, BAD, "-metrics", "Dice", "--allow_missing") == 0
    assert "2 models on 7 cases" in capsys.readouterr().out
    moved = workspace.results / BAD / "fold_1" / "validation" / f"{CASES[0]}.nii.gz"
    for source, target in ((CASES[2], workspace.results / BAD / "fold_1" / "validation" / f"{CASES[2]}.nii.gz"),):
        shutil.copy(workspace.truth / f"{source}.nii.gz", target)
    assert not moved.exists()
    assert _run(GOOD, BAD) == 2
    assert f"case {CASES[2]} is validated in folds 0 and 1" in capsys.readouterr().err


def test_records_of_a_fold(workspace: Workspace) -> None:
    folder = workspace.results / GOOD / "fold_0"
    record = read_fold(FoldFolder(folder))
    assert (record.fold, record.epochs, record.seconds, record.peak_gb) == (0, 3, 90.0, 1.5)
    assert record.parameters == NETWORK_NUMBERS
    assert record.prediction_seconds == (2.0, 3.0)
    (folder / "checkpoint_final.pth").unlink()
    assert read_fold(FoldFolder(folder)).epochs == 0
    log = next(folder.glob("training_log*"))
    log.write_text(log.read_text(encoding="utf-8").replace("Validation complete", "killed"))
    assert validation_times(FoldFolder(folder)) == ()


def test_names_are_shortened_only_by_what_is_common() -> None:
    def names(*given: str) -> list[str]:
        return [c.name for c in with_short_names([Candidate(n, {}, {}) for n in given])]

    assert names("A__P__2d", "B__P__2d") == ["A", "B"]
    assert names("A__P__2d", "A__Q__3d") == ["A__P__2d", "A__Q__3d"]
    assert names("A_x_5epochs__P__2d", "B_5epochs__P__2d") == ["A_x", "B"]
    assert names("A_5epochs__P__2d", "A_bf16_5epochs__P__2d") == ["A", "A_bf16"]
    assert names("A__P__2d", "B__Q__2d") == ["A__P", "B__Q"]
    assert names("A__P__2d", "B__P__2d", "chosen") == ["A", "B", "chosen"]
    assert names("A__P__2d", "A") == ["A__P__2d", "A"]
    assert names("A__P__2d") == ["A"]


def test_no_common_case_is_refused() -> None:
    a, b = Candidate("a", {"x": Path("x")}, {}), Candidate("b", {"y": Path("y")}, {})
    with pytest.raises(ValueError, match="a, b have no case in common"):
        common_cases([a, b], {"x": Path(), "y": Path()}, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case,color\na,red\n", "columns case, color; expected case and patient, cohort or both"),
        ("case\na\n", "columns case; expected"),
        ("case,cohort\na,x\na,y\n", "a is there twice"),
        ("case,cohort\nb,x\n", "none of the compared cases is there, a for instance"),
        ("", "cannot be read"),
    ],
)
def test_tables_of_cases_are_checked(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_groups(table, ["a"])


def test_one_cohort_is_none(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,cohort,patient\na,x,1\nb,x,1\nc,,\n")
    groups = read_groups(table, ["a", "b", "c"])
    assert groups.cohorts(["a", "b", "c"]) == {}
    assert groups.patients(["a", "b", "c"]) == ["1", "1", "c"]
    table.write_text("case,cohort\na,x\nb,y\nc,x\n")
    two = read_groups(table, ["a", "b", "c"])
    assert two.cohorts(["a", "b", "c"]) == {"x": ["a", "c"], "y": ["b"]}
    assert two.cohorts(["a", "c"]) == {}


def test_energy_is_summed_or_unknown(workspace: Workspace) -> None:
    folder = workspace.results / "energy"
    folder.mkdir()
    for fold in (0, 1):
        pd.DataFrame({"energy_consumed": [0.25, 0.5]}).to_csv(folder / f"train_{GOOD}_{fold}.csv")
    assert _run(GOOD, BAD, "-metrics", "Dice") == 0
    text = (workspace.results / "comparison" / "report.md").read_text(encoding="utf-8").split("## Training")[1]
    assert _row(text, "nnUNetTrainerSegMamba")[6] == "1.500 kWh"
    assert _row(text, "nnUNetTrainer")[6] == "-"
    assert json.loads((workspace.results / GOOD / "dataset.json").read_text(encoding="utf-8"))
