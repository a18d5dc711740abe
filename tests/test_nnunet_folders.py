"""nnU-Net's folders and files are called what nnU-Net calls them, and in one place."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_mamba import nnunet_folders
from nnunet_mamba.nnunet_folders import Dataset, Model, ModelFolder

PACKAGE = Path(nnunet_folders.__file__).parent
HERE = Path(nnunet_folders.__file__).name
NAMES = {
    "imagesTr", "labelsTr", "imagesTs", "labelsTs", "dataset.json", "plans.json", "splits_final.json",
    "dataset_fingerprint.json", "gt_segmentations", "inference_information.json", "validation", "summary.json",
    "debug.json", "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth", "_0000", "__", "fold_",
    "fold_all",
}  # fmt: skip
"""What no other module writes out: as a text of its own, as a part of a path, or between the values of an f-string."""


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    for variable in nnunet_folders.VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return Dataset("Dataset004_Hippocampus")


def test_a_datasets_name_has_a_number_and_a_title(dataset: Dataset) -> None:
    assert (dataset.number, dataset.title) == (4, "Hippocampus")
    assert Dataset.of(4, "Hippocampus") == dataset


def test_folders_are_those_of_nnunet(dataset: Dataset, tmp_path: Path) -> None:
    """As its own functions compose them, in a process of its own: they read the variables when they are imported."""
    code = """
import json, sys
from nnunetv2.utilities.file_path_utilities import convert_identifier_to_trainer_plans_config, get_output_folder
folder = get_output_folder("Dataset004_Hippocampus", "T_5epochs", "P", "2d", "all")
print(json.dumps([folder, convert_identifier_to_trainer_plans_config("T_5epochs__P__2d")]))
"""
    for variable in nnunet_folders.VARIABLES:
        (tmp_path / variable / dataset.name).mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder, parts = json.loads(done.stdout.splitlines()[-1])
    model = Model("T_5epochs", "P", "2d")
    assert str(dataset.model(model).fold("all").path) == folder
    assert Model(*parts) == model == Model.parse(model.name)
    assert Model.parse("T__2d") is None


def test_finished_folds_are_those_with_a_summary_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    model = ModelFolder(tmp_path)
    for number in ("10", "2", "all", "0"):
        model.fold(number).validation.mkdir(parents=True)
        if number != "0":
            model.fold(number).summary.touch()
    assert model.finished_folds() == ["2", "10"]


def test_a_split_is_looked_for_where_trainings_look_first(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [path.parents[1].name for path in dataset.splits()] == ["nnUNet_preprocessed", "nnUNet_raw"]
    assert dataset.splits()[0] == dataset.split
    monkeypatch.delenv("nnUNet_preprocessed")
    assert [path.parents[1].name for path in dataset.splits()] == ["nnUNet_raw"]


def test_importing_it_imports_neither_torch_nor_nnunet() -> None:
    code = "import sys, nnunet_mamba.nnunet_folders; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _composed(tree: ast.AST) -> Iterator[str]:
    """Texts without a space that have one of `NAMES` in them; docstrings and messages have spaces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            parts = set(node.value.split("/"))
            if parts & NAMES or any(part.startswith(("fold_", "*__")) for part in parts):
                yield f"line {node.lineno}: {node.value!r}"


@pytest.mark.parametrize(
    "path", sorted(p for p in PACKAGE.rglob("*.py") if p.name != HERE), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_other_module_composes_them(path: Path) -> None:
    found = list(_composed(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found, f"{path.name} writes nnU-Net's names out, which nnunet_folders.py has: {'; '.join(found)}"


@pytest.mark.parametrize(
    "text",
    [
        'p / f"fold_{n}"', 'p / f"{a}__{b}"', 'p.glob("*__*__*/plans.json")', 'p / "validation" / "x"',
        'f"{case}_0000{ending}"', 'p.glob("fold_*/validation/summary.json")', 'for f in ("dataset.json",): p / f',
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert list(_composed(ast.parse(text)))
