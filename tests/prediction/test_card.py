"""The model card: what the files say, what was asked for, in the folder and in the zip, and shown."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnunet_mamba.cli import main as cli
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.prediction import card as cards
from tests.prediction.conftest import NAME, zipped


@pytest.fixture
def trained(model: Path, tmp_path: Path) -> Path:
    """With what a training and its validation leave"""
    folder = Path(shutil.copytree(model, tmp_path / NAME))
    for fold, dice in (("0", (0.8, 0.9, float("nan"))), ("1", (0.6, 0.7))):
        (folder / f"fold_{fold}" / "validation").mkdir()
        cases = [{"metrics": {"1": {"Dice": d}, "2": {"Dice": d / 2}}} for d in dice]
        (folder / f"fold_{fold}" / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
        noted = {"num_epochs": "1000", "seed": "42", "precision": "None", "torch_version": "2.14.1"}
        (folder / f"fold_{fold}" / "debug.json").write_text(json.dumps(noted))
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    content |= {"licence": "CC BY-SA 4.0", "reference": "Whoever converted this dataset was lazy and didn't pass it!"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_what_the_files_say(trained: Path) -> None:
    card = cards.describe(TrainedModel.read(ModelFolder(trained)))
    assert card["licence"] == "CC BY-SA 4.0"
    assert card["source"] == card["intended_use"] == cards.NOT_STATED
    assert card["training"] == {"num_epochs": "1000", "seed": "42", "torch_version": "2.14.1"}
    scores = {(s["fold"], s["label"]): s for s in card["scores"]}
    assert len(scores) == 6
    assert scores["all", "anterior"]["mean"] == pytest.approx(np.mean([0.8, 0.9, 0.6, 0.7]))
    assert scores["all", "anterior"]["cases"] == 4
    assert scores["0", "posterior"]["mean"] == pytest.approx(0.425)
    low, high = scores["all", "anterior"]["interval"]
    assert 0.6 <= low < 0.75 < high <= 0.9
    text = cards.as_markdown(card)
    assert "| all | anterior | 4 | 0.7500 |" in text
    assert (
        "nnUNetv2_train Dataset004_Hippocampus 3d_fullres FOLD -tr nnUNetTrainerUMambaBotNoMamba -p nnUNetPlans" in text
    )


def test_it_is_written_kept_and_shown(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = zipped(trained, tmp_path / "model.zip")
    (trained / "minimum_size.json").write_text("{}")
    catch = {"failures": 4, "caught": 3, "looked": 7, "cases": 20}
    trust = {
        "chosen": "entropy",
        "better_than_chance": True,
        "failure_below_dice": 0.7,
        "catch_of_held_out_cases": catch,
    }
    (trained / "trust.json").write_text(json.dumps(trust))
    untouched = archive.read_bytes()
    assert cli.main(["card", str(trained), "-zip", str(archive)]) == 2, "whoever gets it could not predict"
    assert "trust.json: not as `nnunet-mamba trust` writes it ('measures')" in capsys.readouterr().err
    assert archive.read_bytes() == untouched
    measures = {"entropy": {"limit": 0.2, "validated": [0.1, 0.2]}}
    (trained / "minimum_size.json").write_text("[")
    assert cli.main(["card", str(trained), "-zip", str(archive)]) == 2, "nor with other damaged files"
    assert "minimum_size.json" in capsys.readouterr().err
    (trained / "minimum_size.json").write_text("{}")
    trust |= {"models": [NAME], "members": "one", "members_per_case": 1, "measures": measures, "temperature": None}
    (trained / "trust.json").write_text(json.dumps(trust))
    before = {n: zipfile.ZipFile(archive).read(n) for n in zipfile.ZipFile(archive).namelist()}
    assert cli.main(["card", str(trained), "-use", "research | only", "-zip", str(archive)]) == 0
    said = capsys.readouterr().out
    assert "not stated: where the training data come from" in said
    assert "research \\| only" in (trained / "MODEL_CARD.md").read_text(encoding="utf-8")
    names = zipfile.ZipFile(archive).namelist()
    place = f"Dataset004_Hippocampus/{NAME}/"
    added = {place + n for n in ("MODEL_CARD.md", "model_card.json", "minimum_size.json", "trust.json")}
    assert set(names) == {*before, *added}
    assert len(names) == len(set(names))
    assert all(zipfile.ZipFile(archive).read(n) == content for n, content in before.items())
    # what was stated before stays; a zip takes its card too
    assert cli.main(["card", str(archive), "-source", "the decathlon"]) == 0
    assert cli.main(["list", str(archive)]) == 0
    said = capsys.readouterr().out
    assert "| intended use | research \\| only |" in said
    assert "| source of the data | the decathlon |" in said
    assert "of 4 failures (Dice below 0.700) among 20 validation cases, 3 are among the 7 to look at" in said
    assert len(zipfile.ZipFile(archive).namelist()) == len(names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.zip", NAME]


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    for arguments, told in (
        (("card", tmp_path / "a.zip"), "cut off"),
        (("card", tmp_path), "no model of nnU-Net"),
        (("list", tmp_path / "nowhere"), "no such folder or file"),
        (("card", tmp_path / "a.zip", "-zip", tmp_path / "a.zip"), "-zip ZIP goes with the folder"),
    ):
        assert cli.main(list(map(str, arguments))) == 2
        assert told in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
