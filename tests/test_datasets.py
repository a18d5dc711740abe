"""What a user names is looked up: what is there is listed, what to type is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_mamba.datasets import (
    check_configuration_name,
    check_folds,
    dataset_name,
    find_model,
    number_of_folds,
    plans_file,
    read_dataset_json,
)
from nnunet_mamba.nnunet_folders import VARIABLES, ModelFolder, roots


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Datasets 4, 5 and 6, each in another of nnU-Net's folders."""
    for variable, name in zip(
        VARIABLES, ("Dataset004_Hippocampus", "Dataset005_Prostate", "Dataset006_Lung"), strict=True
    ):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("given", ["4", 4, "Dataset004_Hippocampus", "Dataset004_Hippocampus/", " 4 ", "004"])
def test_a_dataset_by_number_and_by_name(folders: Path, given: str | int) -> None:
    assert dataset_name(given) == "Dataset004_Hippocampus"


@pytest.mark.parametrize("given", ["5", "6"])
def test_a_dataset_may_be_in_any_of_the_folders(folders: Path, given: str) -> None:
    assert dataset_name(given).startswith(f"Dataset00{given}_")


THERE = r"there are: 4 \(Hippocampus\), 5 \(Prostate\), 6 \(Lung\)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("66", rf"-d 66: no Dataset066_\* in \S+nnUNet_raw, .*nnUNet_results; {THERE}$"),
        ("Dataset066_Liver", rf"-d Dataset066_Liver: no Dataset066_Liver in .*; {THERE}$"),
        ("Hippocampus", rf"expected a number from 1 to 999, or a name such as .*; .*{THERE}\. Did you mean -d 4\?"),
        ("Dataset004_Hipocampus", r"Did you mean -d 4\?"),
        ("", "expected a number from 1 to 999"),
        ("0", "expected a number from 1 to 999"),
        ("-4", "expected a number from 1 to 999"),
        ("4.0", "expected a number from 1 to 999"),
        ("1000", "expected a number from 1 to 999"),
        ("²", "expected a number from 1 to 999"),
        ("../nnUNet_raw/Dataset004_Hippocampus", "expected a number from 1 to 999"),
    ],
)
def test_a_dataset_that_is_not_there(folders: Path, given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset_name(given)


def test_numbers_begin_at_one(folders: Path) -> None:
    (folders / "nnUNet_raw" / "Dataset000_Zero").mkdir()
    (folders / "nnUNet_raw" / "Dataset1000_Many").mkdir()
    for given in ("0", "1000"):
        with pytest.raises(ValueError, match="expected a number from 1 to 999"):
            dataset_name(given)


def test_two_datasets_of_one_number(folders: Path) -> None:
    (folders / "nnUNet_raw" / "Dataset005_Other").mkdir()
    with pytest.raises(ValueError, match="Dataset005_Other and Dataset005_Prostate have the same number"):
        dataset_name("5")


def test_no_dataset_at_all_and_many(folders: Path) -> None:
    for variable in VARIABLES:
        for path in (folders / variable).iterdir():
            path.rmdir()
    with pytest.raises(ValueError, match=r"no Dataset004_.*; there is none$"):
        dataset_name("4")
    for number in range(1, 41):
        (folders / "nnUNet_raw" / f"Dataset{number:03d}_A").mkdir()
    with pytest.raises(ValueError, match=r"1 \(A\), 2 \(A\), .* and 25 more$"):
        dataset_name("66")


def test_what_is_not_set_is_told_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match="variable nnUNet_raw is not set, nor is nnUNet_preprocessed or nnUNet_res"):
        dataset_name("4")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    with pytest.raises(ValueError, match=r"nnUNet_results is not set; .* export nnUNet_results=\$HOME/nnunet/results$"):
        roots("nnUNet_raw", "nnUNet_results")
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"nnUNet_results=.*file is a file, not a folder"):
        roots("nnUNet_results")


def test_configurations(folders: Path) -> None:
    plans = folders / "nnUNetPlans.json"
    check_configuration_name("3d_cascade_fullres", plans)
    with pytest.raises(ValueError, match=r"-c 3d_full: planners make 2d, 3d_lowres, .*\. Did you mean 3d_fullres\?"):
        check_configuration_name("3d_full", plans)
    plans.write_text(json.dumps({"configurations": {"2d": {}, "mine": {}}}))
    check_configuration_name("mine", plans)
    with pytest.raises(ValueError, match=r"-c 3d_fullres: nnUNetPlans has 2d, mine$"):
        check_configuration_name("3d_fullres", plans)


def test_plans_and_models(folders: Path) -> None:
    with pytest.raises(ValueError, match=r"has no A or B; it has no plans at all\. .*plan_and_preprocess -d 5 "):
        plans_file("Dataset005_Prostate", "A", "B")
    made = folders / "nnUNet_preprocessed" / "Dataset005_Prostate" / "B.json"
    made.touch()
    assert plans_file("Dataset005_Prostate", "A", "B") == made
    model = folders / "nnUNet_results" / "Dataset006_Lung" / "nnUNetTrainer__nnUNetPlans__2d"
    with pytest.raises(ValueError, match=r"no trained model there. In Dataset006_Lung: none$"):
        find_model("Dataset006_Lung", model.name)
    model.mkdir()
    (model / "plans.json").touch()
    assert find_model("Dataset006_Lung", model.name) == ModelFolder(model)
    with pytest.raises(ValueError, match=r"In Dataset006_Lung: nnUNetTrainer__nnUNetPlans__2d\. Did you mean nnUNetT"):
        find_model("Dataset006_Lung", "nnUNetTrainer__nnUNetPlans__3d")


def test_folds(folders: Path) -> None:
    assert number_of_folds("Dataset004_Hippocampus") == 5
    (folders / "nnUNet_raw" / "Dataset004_Hippocampus" / "splits_final.json").write_text("[{}, {}]")
    check_folds("Dataset004_Hippocampus", [0, 1])
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"-f {wrong}: the dataset is split into 2 folds; -f 0 1$"):
            check_folds("Dataset004_Hippocampus", [0, wrong])
    (folders / "nnUNet_preprocessed" / "Dataset004_Hippocampus").mkdir()
    (folders / "nnUNet_preprocessed" / "Dataset004_Hippocampus" / "splits_final.json").write_text("[{}, {}, {}]")
    assert number_of_folds("Dataset004_Hippocampus") == 3, "what trainings use comes first"


@pytest.mark.parametrize("content", ["", "[{", "{}", "[]", "3"])
def test_a_damaged_split_is_named(folders: Path, content: str) -> None:
    path = folders / "nnUNet_raw" / "Dataset004_Hippocampus" / "splits_final.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"splits_final\.json: (not JSON: |expected a list of folds)"):
        check_folds("Dataset004_Hippocampus", [0])


@pytest.mark.parametrize("content", ["{}", '{"configurations": null}', '{"configurations": ["2d"]}'])
def test_a_file_that_is_no_plans_is_named(folders: Path, content: str) -> None:
    plans = folders / "nnUNetPlans.json"
    plans.write_text(content)
    with pytest.raises(ValueError, match=r'nnUNetPlans\.json: these are not plans of nnU-Net: "configurations" is'):
        check_configuration_name("2d", plans)


def test_damaged_json_is_named(folders: Path) -> None:
    raw = folders / "nnUNet_raw" / "Dataset004_Hippocampus" / "dataset.json"
    with pytest.raises(ValueError, match=r"dataset.json: no such file"):
        read_dataset_json("Dataset004_Hippocampus")
    for content in (b"{'a': 1}", b"\xff\xfe{", b"", b"[" * 100_000):
        raw.write_bytes(content)
        with pytest.raises(ValueError, match=r"dataset.json: not JSON: "):
            read_dataset_json("Dataset004_Hippocampus")
    raw.write_text("[1]")
    with pytest.raises(ValueError, match=r"dataset\.json: holds \[1\]; expected an object, \{\.\.\.\}"):
        read_dataset_json("Dataset004_Hippocampus")
