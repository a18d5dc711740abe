"""How far to trust a case, by what `nnunet-mamba trust` has stored with the model: told, kept, and shown."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import nnunet_mamba
from nnunet_mamba.cli import main as cli
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.prediction.images import Case, Source
from nnunet_mamba.prediction.model import usable
from nnunet_mamba.prediction.predictor import Predictor
from nnunet_mamba.prediction.run import Run
from nnunet_mamba.trust import outcome
from nnunet_mamba.trust.measures import Measures
from nnunet_mamba.trust.temperature import Voxels
from nnunet_mamba.trust.validation import MeasuredCase
from tests.export.small_model import REGIONS
from tests.prediction.conftest import NAME, UNSEEN, write_small_model, zipped


def _predict(*arguments: str | Path, code: int = 0) -> None:
    assert cli.main(["predict", *map(str, arguments), "-device", "cpu"]) == code


def _store(model: Path, agreement: np.ndarray, dice: np.ndarray, passes: int = 2) -> None:
    """A cross-validation whose pairwise Dice and Dice are these"""
    random = np.random.default_rng(0)
    cases = [
        MeasuredCase(f"case{i:02}", str(i % 2), float(d), Measures(float(a), 0.5, 0.1), passes,
                     Voxels(random.normal(size=(1, 50, 3)).astype(np.float16), random.integers(0, 3, 50)))
        for i, (a, d) in enumerate(zip(agreement, dice, strict=True))
    ]  # fmt: skip
    found = outcome.judge([NAME], ["0", "1"], cases, None, 0.9)
    assert found.chosen == "pairwise_dice"
    assert found.evidence
    outcome.store(found, ModelFolder(model))


RISING = np.linspace(0.3, 0.99, 40)


@pytest.fixture(scope="module")
def judged(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On the cross-validation all passes agreed, which those of a new case will not"""
    folder = tmp_path_factory.mktemp("judged") / NAME
    shutil.copytree(model, folder)
    _store(folder, 0.999 + RISING / 1000, RISING)
    return folder


def test_a_case_in_doubt_is_told_kept_and_shown(
    judged: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _predict(judged, UNSEEN, "-o", tmp_path / "judged", "--uncertainty")
    said = capsys.readouterr().out
    assert "how far to trust a case: by its pairwise Dice, as on the cross-validation" in said
    (line,) = [one for one in said.splitlines() if one.startswith("  trust: ")]
    assert line.endswith("in more doubt than 100% of the validation cases; look at this case")
    kept = json.loads((tmp_path / "judged" / "prediction.json").read_text(encoding="utf-8"))["cases"]
    trust = kept["hippocampus_173"]["trust"]
    assert trust["look"] is True
    assert f"pairwise Dice {trust['pairwise_dice']:.3f}" in line
    rows = list(csv.DictReader((tmp_path / "judged" / "volumes.csv").open(encoding="utf-8")))
    assert [r["look"] for r in rows] == ["yes", "yes"]
    page = (tmp_path / "judged" / "predictions.html").read_text(encoding="utf-8")
    assert "in more doubt than, of the validation cases" in page

    # the labels are those of the model without it, and the numbers those of its passes
    _predict(judged, UNSEEN, "-o", tmp_path / "plain", "--no-trust")
    assert "trust" not in capsys.readouterr().out
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / n / UNSEEN.name))) for n in ("judged", "plain")]
    assert np.array_equal(*labels)
    percent = sitk.ReadImage(str(tmp_path / "judged" / "uncertainty" / UNSEEN.name))
    assert percent.GetSize() == sitk.ReadImage(str(UNSEEN)).GetSize()
    assert 0 < sitk.GetArrayFromImage(percent).max() <= 100
    with pytest.warns(UserWarning, match="look at this case"):
        nnunet_mamba.predict(judged, UNSEEN, device="cpu")


def test_a_case_like_the_others_needs_no_look(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / NAME
    shutil.copytree(model, folder)
    _store(folder, RISING / 1000, RISING)
    packed = zipped(folder, tmp_path / "model.zip")
    _predict(packed, UNSEEN, "-o", tmp_path / "out", "-f", "1")
    said = capsys.readouterr().out
    assert "in more doubt than 0% of the validation cases\n" in said, said
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open(encoding="utf-8")))
    assert {r["look"] for r in rows} == {"no"}


def test_a_map_needs_no_cross_validation(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is made later for what was predicted without"""
    out = tmp_path / "out"
    _predict(model, UNSEEN, "-o", out)
    before = (out / UNSEEN.name).read_bytes()
    _predict(model, UNSEEN, "-o", out, "--uncertainty")
    assert "kept" not in capsys.readouterr().out
    assert (out / UNSEEN.name).read_bytes() == before
    assert (out / "uncertainty" / UNSEEN.name).is_file()
    assert not list(out.rglob("*partial*"))
    _predict(model, UNSEEN, "-o", out, "--uncertainty")
    assert "1 of 1 cases were predicted before" in capsys.readouterr().out


def test_a_case_that_fails_late_leaves_no_map(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the next try would refuse to overwrite"""

    def fails(*_: object) -> None:
        raise RuntimeError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "write", fails)
        _predict(model, UNSEEN, "-o", tmp_path / "out", "--uncertainty", code=1)
    assert "no space" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    _predict(model, UNSEEN, "-o", tmp_path / "out", "--uncertainty")
    assert (tmp_path / "out" / "uncertainty" / UNSEEN.name).is_file()


def test_other_members_than_were_judged(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / NAME
    shutil.copytree(model, folder)
    _store(folder, RISING, RISING, passes=8)
    _predict(folder, UNSEEN, "-o", tmp_path / "out")
    said = capsys.readouterr().out
    assert "no case is judged: trust.json is of 8 mirrored passes, not of 2" in said
    assert "  trust: " not in said
    (folder / "trust.json").write_text('{"models": []}')
    _predict(folder, UNSEEN, "-o", tmp_path / "refused", code=2)
    said = capsys.readouterr().err
    assert "run it again, or leave it out with --no-trust" in said
    assert not (tmp_path / "refused").exists()


def test_thresholds_leave_the_judgement_as_it_was(tmp_path: Path) -> None:
    """Members become labels as on the cross-validation, also where calibrate's thresholds make the result"""
    folder = write_small_model(tmp_path / NAME, REGIONS)
    _store(folder, RISING, RISING)
    read = TrainedModel.read(ModelFolder(folder))
    values = []
    for thresholds in ("LabelManager", "LabelManagerThresholds_950_010"):
        changed = replace(read, plans={**read.plans, "label_manager": thresholds})
        run = Run(usable(changed), torch.device("cpu"))
        scan = run.check(Case("case", (Source(UNSEEN),)))
        made = run.predict(scan, [UNSEEN], tmp_path / f"{thresholds}.nii.gz")
        assert made.trust is not None
        values.append((made.trust.values, np.bincount(sitk.GetArrayFromImage(made.labels).ravel()).tolist()))
    assert values[0][0] == values[1][0]
    assert values[0][1] != values[1][1], "the thresholds change nothing: the test is void"


def test_a_cross_validation_of_something_else_judges_nothing(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(judged, tmp_path / NAME))
    content = json.loads((folder / "trust.json").read_text(encoding="utf-8"))

    def told(**changed: object) -> tuple[str, ...]:
        (folder / "trust.json").write_text(json.dumps({**content, **changed}), encoding="utf-8")
        return usable(TrainedModel.read(ModelFolder(folder))).told

    assert told() == ("how far to trust a case: by its pairwise Dice, as on the cross-validation",)
    with pytest.raises(ValueError, match=f"trust.json: of another__nnUNetPlans__2d, not of {NAME}; run"):
        told(models=["another__nnUNetPlans__2d"])
    assert told(members="one", members_per_case=1) == ("no case is judged: trust.json is of one pass, not of 2",)
    with pytest.raises(ValueError, match="not as `nnunet-mamba trust` writes it"):
        told(members_per_case=float("inf"))
    told()
    for fold in ("0", "1"):
        shutil.copy(folder / f"fold_{fold}" / "checkpoint_final.pth", folder / f"fold_{fold}" / "checkpoint_best.pth")
    best = usable(TrainedModel.read(ModelFolder(folder), None, "checkpoint_best.pth"))
    assert best.judge is None
    assert best.told == ("no case is judged: trust.json is of checkpoint_final.pth, not of checkpoint_best.pth",)
    # what is broken is told of, and can be left out
    (folder / "trust.json").write_text("[", encoding="utf-8")
    _predict(folder, UNSEEN, "-o", tmp_path / "out", code=2)
    assert "or leave it out with --no-trust" in capsys.readouterr().err
    _predict(folder, UNSEEN, "-o", tmp_path / "out", "--no-trust")
