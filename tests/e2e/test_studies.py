"""Studies from the command line, in miniature: from their data to their table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nnunet_mamba.planning.recipes import load_recipe
from tests.e2e.conftest import COMMAND_LIMIT_S, SOURCE

pytestmark = pytest.mark.slow

SHORT = "AdamW_NoRotation_1epoch_1its"
CASES = 5


def _study(recipe: dict[str, Any], folder: Path, *more: str) -> str:
    file = folder / "small.json"
    file.write_text(json.dumps(recipe))
    command = [Path(sys.executable).parent / "nnunet-mamba", "study", file, "--out", folder / "out", "-device", "cpu"]
    done = subprocess.run(
        [*map(str, command), *more], env={**os.environ, "nnUNet_def_n_proc": "1"}, capture_output=True, text=True,
        timeout=COMMAND_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_reach(tmp_path: Path) -> None:
    recipe = load_recipe("reach_study") | {"cases": 10, "seeds": [3], "training": SHORT}
    recipe["probes"] = [{"task": "far-marker", "axis": 2, "distance": 8, "width": 16}]
    recipe["networks"] = [n for n in recipe["networks"] if n["name"] == "nnU-Net"]
    text = _study(recipe, tmp_path)
    assert "1 of 1 announced trainings" in text
    out = tmp_path / "out"
    (row,) = pd.read_csv(out / "trainings.csv").to_dict("records")
    assert {k: row[k] for k in ("task", "axis", "far", "seed", "cases", "reach")} == {
        "task": "far-marker", "axis": 2, "far": 8, "seed": 3, "cases": 2, "reach": 16
    }  # fmt: skip
    assert 0 <= row["Dice"] <= 1
    assert row["seconds"] > 0
    (log,) = out.glob("seed_3/nnUNet_results/Dataset601_FarMarkerD8Axis2/*/fold_0/training_log_*.txt")
    assert "not finite" not in log.read_text(encoding="utf-8")
    assert (out / "reach.png").stat().st_size > 10_000
    (checkpoint,) = out.glob("seed_3/nnUNet_results/Dataset601_FarMarkerD8Axis2/*/fold_0/checkpoint_final.pth")
    before = checkpoint.stat().st_mtime_ns
    again = _study(recipe, tmp_path)
    assert checkpoint.stat().st_mtime_ns == before
    assert "$ nnUNetv2" not in again, "nothing is done twice"
    assert "1 of 1 announced trainings" in again


def test_hippocampus(tmp_path: Path) -> None:
    data = tmp_path / SOURCE.name
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (data / name).mkdir(parents=True)
    description = json.loads((SOURCE / "dataset.json").read_text(encoding="utf-8"))
    description |= {"training": description["training"][:CASES], "numTraining": CASES, "test": [], "numTest": 0}
    (data / "dataset.json").write_text(json.dumps(description))
    for name in sorted(p.name for p in (SOURCE / "imagesTr").glob("*.nii.gz"))[:CASES]:
        for folder in ("imagesTr", "labelsTr"):
            shutil.copy(SOURCE / folder / name, data / folder / name)
    pair = ["nnUNetTrainerUMambaBot", "nnUNetTrainerUMambaBotNoMamba"]
    recipe = load_recipe("hippocampus_study") | {"pairs": [pair], "seeds": [1], "training": SHORT, "folds": [2]}
    recipe = {key: value for key, value in recipe.items() if key not in ("others", "repeated")}
    recipe["configuration"] = recipe["configuration"] | {"base_features": 4, "max_features": 8}
    text = _study(recipe, tmp_path, "--data", str(data))
    assert "none is better than the control, none is worse" in text
    (row,) = pd.read_csv(tmp_path / "out" / "pairs.csv").to_dict("records")
    assert [row["model"], row["control"]] == pair
    assert row["cases"] == 1
