"""`nnunet-mamba trust` after nnU-Net's own trainings, on real data: what it judges is nnU-Net's validation."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import SimpleITK as sitk

from tests.e2e.conftest import CASES, Workspace

pytestmark = pytest.mark.slow

TRAINER, PLANS = "nnUNetTrainerUMambaBotNoMamba_1epoch_2its", "nnUNetPlans"


def test_trust_of_a_cross_validation(hippocampus: Workspace) -> None:
    for fold in (0, 1):
        hippocampus.train("3d_fullres", fold, TRAINER, "-p", PLANS)
    model = hippocampus.model(TRAINER, PLANS, "3d_fullres")
    command = ("nnunet-mamba", "trust", "-d", "4", "-c", "3d_fullres", "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    output = hippocampus.run(*command, "--maps")
    assert "members: 8 mirrored passes" in output
    rows = pd.read_csv(model / "trust" / "trust.csv").set_index("case")
    assert len(rows) == CASES
    for fold in (0, 1):
        summary = json.loads((model / f"fold_{fold}" / "validation" / "summary.json").read_text(encoding="utf-8"))
        for case in summary["metric_per_case"]:
            name = case["prediction_file"].split("/")[-1].removesuffix(".nii.gz")
            scores = [s["Dice"] for s in case["metrics"].values()]
            assert rows.loc[name, "Dice"] == pytest.approx(sum(scores) / len(scores), abs=1e-9)
            drawn = sitk.ReadImage(str(model / "trust" / "uncertainty" / f"{name}.nii.gz"))
            truth = sitk.ReadImage(str(hippocampus.raw / "labelsTr" / f"{name}.nii.gz"))
            assert drawn.GetSize() == truth.GetSize()
            assert drawn.GetOrigin() == pytest.approx(truth.GetOrigin())
    assert f"{CASES} cases: done before" in hippocampus.run(*command)
