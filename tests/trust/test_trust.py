"""`nnunet-mamba trust` on a small cross-validation: what it writes, what it continues, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_mamba.cli.main import main
from nnunet_mamba.trust import outcome
from nnunet_mamba.trust.judgement import Judge, case_trust
from nnunet_mamba.trust.measures import Measures
from nnunet_mamba.trust.members import MemberPredictor
from nnunet_mamba.trust.report import lines
from nnunet_mamba.trust.temperature import Voxels
from nnunet_mamba.trust.validation import MeasuredCase
from tests.trust import small_validation as small

TRUST = [*small.ARGUMENTS, "-tr", small.TRAINER]


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "trust.csv").open(encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def _image(root: Path, case: str) -> tuple[torch.Tensor, dict[str, Any]]:
    folder = root / "nnUNet_preprocessed" / small.DATASET / "nnUNetPlans_3d"
    data, _, _, properties = nnUNetDatasetBlosc2(str(folder), [case]).load_case(case)
    return torch.from_numpy(np.array(data[:])), properties  # type: ignore[index]


def _predictor(kind: type[Any], model: Path, folds: tuple[int, ...], **options: Any) -> Any:
    found = kind(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, **options)
    found.initialize_from_trained_model_folder(str(model), folds)
    return found


def test_one_model(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRUST, "--maps"]) == 0
    shown = capsys.readouterr().out
    assert "6 validation cases" in shown
    assert "members: 4 mirrored passes of the network that did not see the case" in shown
    stored = json.loads((model / "trust.json").read_text(encoding="utf-8"))
    assert stored["members_per_case"] == 4
    assert stored["models"] == [model.name]
    assert set(stored["measures"]) == {"pairwise_dice", "entropy", "volume_spread"}
    assert stored["temperature"] > 0
    rows = _rows(model / "trust")
    assert [r["fold"] for r in rows.values()] == ["0"] * 3 + ["1"] * 3
    assert stored["mean_dice"] == pytest.approx(np.mean([float(r["Dice"]) for r in rows.values()]))
    for name in (
        "trust.html",
        "trust.md",
        *(f"pictures/{n}.svg" for n in ("risk_coverage", "measures", "calibration")),
    ):
        assert (model / "trust" / name).stat().st_size > 0
    assert not list(model.rglob("*.partial*"))

    # a case is judged as nnU-Net predicts it, by the fold that did not see it
    image, properties = _image(root, "case4")
    stock = _predictor(nnUNetPredictor, model, (1,))
    predicted: Any = convert_predicted_logits_to_segmentation_with_correct_shape(
        stock.predict_logits_from_preprocessed_data(image), stock.plans_manager, stock.configuration_manager,
        stock.label_manager, properties, num_threads_torch=1,
    )  # fmt: skip
    truth = sitk.GetArrayFromImage(
        sitk.ReadImage(str(root / "nnUNet_preprocessed" / small.DATASET / "gt_segmentations" / "case4.nii.gz"))
    )
    dice = [2 * ((predicted == v) & (truth == v)).sum() / ((predicted == v).sum() + (truth == v).sum()) for v in (1, 2)]
    assert float(rows["case4"]["Dice"]) == pytest.approx(np.mean(dice))

    percent = sitk.GetArrayFromImage(sitk.ReadImage(str(model / "trust" / "uncertainty" / "case4.nii.gz")))
    assert percent.shape == truth.shape
    assert 0 < percent.max() <= 100
    assert percent[0].max() == 0, "outside of the crop"

    # a new prediction by that fold alone has the same numbers; by two folds their mean
    ours = _predictor(MemberPredictor, model, (1,))
    ours.predict_logits_from_preprocessed_data(image)
    found = case_trust(model, ours.networks)
    for name, value in found.values.items():
        assert float(rows["case4"][name]) == pytest.approx(value)
    assert found.between_folds is None
    assert found.measure == stored["chosen"]
    limit, higher_is_surer = stored["measures"][found.measure]["limit"], found.measure == "pairwise_dice"
    (model / "trust.json").write_text(json.dumps({**stored, "better_than_chance": False}))
    assert case_trust(model, ours.networks).look is None
    assert "no advice: on the cross-validation this ranked no better than chance" in str(
        case_trust(model, ours.networks)
    )
    (model / "trust.json").write_text(json.dumps({**stored, "better_than_chance": True}))
    found = case_trust(model, ours.networks)
    assert found.look == (found.value <= limit if higher_is_surer else found.value >= limit)
    assert ("look at this case" in str(found)) == found.look
    both = _predictor(MemberPredictor, model, (0, 1))
    both.predict_logits_from_preprocessed_data(image)
    judge = Judge.load(model)
    found_by = [judge.case([n]).values["entropy"] for n in both.networks]
    assert judge.case(both.networks).values["entropy"] == pytest.approx(np.mean(found_by))
    assert 0 <= (judge.case(both.networks).between_folds or -1) <= 1
    assert judge.uncertainty(both.networks).shape == small.SHAPE
    without = _predictor(MemberPredictor, model, (1,), use_mirroring=False)
    without.predict_logits_from_preprocessed_data(image)
    with pytest.raises(ValueError, match="1 mirrored passes; the limits are for 4: predict with mirroring"):
        judge.case(without.networks)
    with pytest.raises(ValueError, match="expected as many of each of 1 models"):
        judge.case([])


def test_what_is_done_is_not_done_again(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its file is damaged, or made of other weights; and an interruption loses one case at most."""
    small.write_cases(root)
    model = small.write_model(root / "nnUNet_results", mirroring=None)
    predicted: list[int] = []
    measured = MemberPredictor.predict_logits_from_preprocessed_data

    def counted(self: MemberPredictor, data: torch.Tensor) -> torch.Tensor:
        predicted.append(1)
        if len(predicted) == 5:
            raise KeyboardInterrupt
        return measured(self, data)

    monkeypatch.setattr(MemberPredictor, "predict_logits_from_preprocessed_data", counted)
    assert main(TRUST) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert main(TRUST) == 0
    assert len(predicted) == 7
    assert "4 cases: done before" in capsys.readouterr().out
    first = (model / "trust.json").read_text(encoding="utf-8")

    cases = model / "trust" / "cases"
    whole = (cases / "case1.npz").read_bytes()
    (cases / "case1.npz").write_bytes(whole[: len(whole) // 2])
    (cases / "case2.npz").write_text("nothing")
    np.savez(cases / "case3.npz", said="{}")
    assert main(TRUST) == 0
    assert len(predicted) == 10
    assert (model / "trust.json").read_text(encoding="utf-8") == first
    assert main([*TRUST, "-catch", "0.5"]) == 0
    assert len(predicted) == 10, "the question may change without a new prediction"
    checkpoint = model / "fold_1" / "checkpoint_final.pth"
    os.utime(checkpoint, (1, 1))
    assert main(TRUST) == 0
    assert len(predicted) == 13


@pytest.mark.slow
def test_several_models(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other trainers and other seeds: their networks are the members, their mean is what is judged"""
    small.write_cases(root)
    model = small.write_model(root / "nnUNet_results", mirroring=None)
    small.write_model(root / "nnUNet_results", small.OTHER, seed=1, mirroring=None)
    for seed, trainer in ((2, small.TRAINER), (3, small.OTHER)):
        small.write_model(root / "seed_2", trainer, seed=seed, mirroring=None)
    arguments = [*TRUST, "-tr", small.OTHER, "-results", str(root / "seed_2")]
    assert main(arguments) == 0
    assert "members: 4 models that did not see the case" in capsys.readouterr().out
    place = model / "trust_of_4_models"
    stored = json.loads((place / "trust.json").read_text(encoding="utf-8"))
    assert (stored["members"], stored["members_per_case"], len(stored["models"])) == ("models", 4, 4)
    assert not (model / "trust.json").exists()
    image, _ = _image(root, "case4")
    networks = []
    for folder in (root / "nnUNet_results", root / "seed_2"):
        for trainer in (small.TRAINER, small.OTHER):
            of = folder / small.DATASET / model.name.replace(small.TRAINER, trainer)
            ours = _predictor(MemberPredictor, of, (1,))
            ours.predict_logits_from_preprocessed_data(image)
            networks.append(ours.networks)
    found = case_trust(model, *networks)
    for name, value in found.values.items():
        assert float(_rows(place)["case4"][name]) == pytest.approx(value)
    with pytest.raises(ValueError, match=r"trust.json: no such file; make it of the model's cross-validation"):
        case_trust(model, networks[0])


@pytest.mark.slow
def test_regions_and_an_ignore_label(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_cases(root, small.REGIONS)
    model = small.write_model(root / "nnUNet_results", labels=small.REGIONS, mirroring=None)
    assert main(TRUST) == 0
    assert "one network without mirroring, so that only its entropy can be had" in capsys.readouterr().out
    assert set(json.loads((model / "trust.json").read_text(encoding="utf-8"))["measures"]) == {"entropy"}
    with np.load(model / "trust" / "cases" / "case0.npz") as kept:
        assert kept["truth"].shape == (kept["logits"].shape[1], 2)
        assert kept["truth"].dtype == bool


def _no_fold(model: Path) -> None:
    (model / "fold_1" / "checkpoint_final.pth").unlink()


def _damaged(model: Path) -> None:
    path = model / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:2000])


def _not_preprocessed(model: Path) -> None:
    shutil.rmtree(Path(os.environ["nnUNet_preprocessed"]) / small.DATASET / "nnUNetPlans_3d")


def _damaged_case(model: Path) -> None:
    (Path(os.environ["nnUNet_preprocessed"]) / small.DATASET / "nnUNetPlans_3d" / "case1.b2nd").write_bytes(b"b2nd")


def _unfinished(model: Path) -> None:
    for path in model.glob("fold_*/validation/summary.json"):
        path.unlink()


def _half_trained(model: Path) -> None:
    other = small.write_model(model.parents[1], small.OTHER, seed=1)
    _unfinished(other)


def _copy(model: Path) -> None:
    shutil.copytree(model.parents[1], model.parents[2] / "seed_2")


def _other_split(model: Path) -> None:
    _copy(model)
    (path,) = (model.parents[2] / "seed_2").rglob("fold_0/validation/case0.nii.gz")
    path.rename(path.with_name("case5.nii.gz"))


def _cascade(model: Path) -> None:
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    plans["configurations"][small.CONFIGURATION]["previous_stage"] = "3d_lowres"
    (model / "plans.json").write_text(json.dumps(plans))


def _nothing(model: Path) -> None:
    return None


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (_nothing, ["-catch", "0"], "-catch 0; expected a share above 0 and up to 1"),
        (_nothing, ["-catch", "nan"], "-catch nan; expected a share"),
        (_nothing, ["-below", "80"], "-below 80; expected a Dice above 0 and up to 1"),
        (_nothing, ["-tr", small.TRAINER], "a trainer is given twice; seeds are given by -results"),
        (_nothing, ["-tr", "nnUNetTrainerSegMamba"], "no trained model there. In Dataset004_Hippocampus:"),
        (_nothing, ["-results", "nowhere"], "-results nowhere: no nowhere/Dataset004_Hippocampus/"),
        (_nothing, ["-f", "7"], "fold_7/validation: no predictions. Write them: nnUNetv2_train Dataset004_Hippocampus"),
        (_nothing, ["-f", "all"], "-f all: it is validated on the cases it was trained on"),
        (_half_trained, ["-tr", small.OTHER], "no fold has finished its validation in all models. .*: 0 1; .*: none"),
        (_no_fold, [], "fold_1/checkpoint_final.pth: no such file; train fold 1 to its end"),
        (_damaged, [], "fold_0/checkpoint_final.pth is"),
        (_not_preprocessed, [], "preprocess again: nnUNetv2_preprocess -d 4 -plans_name nnUNetPlans -c 3d_fullres"),
        (_damaged_case, [], "case case1 cannot be read"),
        (_unfinished, [], "no fold has finished its validation"),
        (_copy, ["-results", "{root}/seed_2"], "fold 0 has the weights of .*: a copy, or trained with its seed"),
        (_other_split, ["-results", "{root}/seed_2"], "fold 0 has other validation cases than in"),
        (_cascade, [], "second stage of a cascade, which is not judged"),
        (_nothing, ["-f", "0", "-results", "{root}/nnUNet_results"], "the same folder as"),
    ],
)  # fmt: skip
def test_refusals(
    root: Path, model: Path, capsys: pytest.CaptureFixture[str], spoil: Any, arguments: list[str], message: str
) -> None:
    spoil(model)
    assert main([*TRUST, *(a.format(root=root) for a in arguments)]) == 2
    said = capsys.readouterr().err
    assert len(said.split("nnunet-mamba trust: ")[1].strip().splitlines()) <= 2, "one sentence, and where to read more"
    assert re.search(message, said), said


def _invented(dice: list[float], folds: int = 2, sure: bool = True) -> list[MeasuredCase]:
    """Cases whose entropy is 1 - Dice where `sure`, else the same for all"""
    random, found = np.random.default_rng(0), []
    for i, value in enumerate(dice):
        voxels = Voxels(random.normal(size=(1, 50, 3)).astype(np.float16), random.integers(0, 3, 50))
        measures = Measures(0.9, 1 - value if sure else 0.5, 0.1)
        found.append(MeasuredCase(f"case{i:02}", str(i % folds), value, measures, 8, voxels))
    return found


@pytest.mark.parametrize("folds", [1, 5])
def test_a_measure_that_knows_is_chosen_and_catches(folds: int) -> None:
    cases = _invented([float(d) for d in np.linspace(0.3, 0.95, 50)], folds)
    found = outcome.judge(["m"], ["0"], cases, None, 1.0)
    assert found.chosen == "entropy"
    assert found.catch.failures == 10
    assert found.catch.caught >= 9
    assert found.catch.in_vain <= 1
    said = "\n".join(lines(found))
    assert "entropy at least" in said
    assert said.count("no evidence that it ranks better than chance") == 2


def test_perfect_cases() -> None:
    """Nothing to rank, nothing to look at, and all of it said"""
    found = outcome.judge(["m"], ["0"], _invented([1.0] * 6), None, 0.9)
    assert all(m.limit is None for m in found.measures.values())
    said = "\n".join(lines(found))
    assert "no limit, since no case failed" in said
    assert "no failure among 6 cases" in said.splitlines()
    assert "nan" not in said
    assert not found.evidence
    json.dumps(found.as_json(), allow_nan=False)


def test_one_case() -> None:
    with pytest.raises(ValueError, match="1 validation case: nothing can be ranked; train more folds"):
        outcome.judge(["m"], ["0"], _invented([0.8]), None, 0.9)


def test_cases_without_any_foreground_have_no_temperature(tmp_path: Path) -> None:
    empty = Voxels(np.zeros((1, 0, 3), np.float16), np.zeros(0, np.int16))
    cases = [MeasuredCase(c.name, c.fold, c.dice, c.measures, 8, empty) for c in _invented([0.5, 0.6, 0.9])]
    found = outcome.judge(["m"], ["0"], cases, 0.55, 0.9)
    assert found.calibration is None
    assert "no voxel of foreground, no temperature" in lines(found)
    cases[0].save(tmp_path / "case00.npz", "key")
    assert MeasuredCase.load(tmp_path / "case00.npz", "other") is None
    again = MeasuredCase.load(tmp_path / "case00.npz", "key")
    assert again is not None
    assert (again.name, again.dice, again.measures) == (cases[0].name, cases[0].dice, cases[0].measures)


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": "luck"}, {"chosen": None}, {"measures": {}}, {"measures": []}, {"members": "crowd"},
        {"failure_below_dice": "low"}, {"models": ["a", "b"]}, {"temperature": True}, {"better_than_chance": 1},
        {"measures": {"entropy": {"limit": "x", "validated": [0.1]}}, "chosen": "entropy"},
        {"measures": {"entropy": {"limit": 0.1, "validated": []}}, "chosen": "entropy"},
    ],
)  # fmt: skip
def test_a_trust_json_of_something_else_is_refused(model: Path, change: dict[str, Any]) -> None:
    content = outcome.judge(["m"], ["0"], _invented([0.2, 0.8, 0.9]), None, 0.9).as_json()
    (model / "trust.json").write_text(json.dumps(content))
    Judge.load(model)
    (model / "trust.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=r"trust\.json: not as `nnunet-mamba trust` writes it .*; run it again"):
        Judge.load(model)
    (model / "trust.json").write_text("{")
    with pytest.raises(ValueError, match=r"trust\.json: not JSON"):
        Judge.load(model)
