"""Every network by nnU-Net's own commands on nnU-Net's own plan, on the CPU, on real data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_mamba.names import networks
from tests.e2e.conftest import BRIEF, Workspace, check_prediction, predict

pytestmark = pytest.mark.slow

PLANS = "nnUNetPlans"


@pytest.mark.parametrize("record", networks.NETWORKS[1:], ids=lambda r: r.name)
def test_every_network_trains_and_predicts(record: networks.Network, hippocampus: Workspace, tmp_path: Path) -> None:
    trainer = record.trainer + BRIEF
    hippocampus.train("3d_fullres", 0, trainer, "-p", PLANS)
    checkpoint = hippocampus.model(trainer, PLANS, "3d_fullres") / "fold_0" / "checkpoint_final.pth"
    weights = torch.load(checkpoint, weights_only=False)["network_weights"]
    assert any(key.endswith("A_log") for key in weights)
    assert all(torch.isfinite(value).all() for value in weights.values())
    predict(hippocampus, tmp_path, "-c", "3d_fullres", "-tr", trainer, "-p", PLANS)
    check_prediction(hippocampus, tmp_path, {0, 1, 2})
