"""A mixer in a trainer's name is trained, kept in the checkpoint's name, and found again by nnU-Net's prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.same_size import SameSizeConv
from nnunet_mamba.trainers.parameter_groups import undecayed
from tests.architectures.test_umamba2 import stock_entry
from tests.stock_plans import stock_plans
from tests.trainers.tiny import make, without_pictures

NAMES = {
    "nnUNetTrainerSegMamba_Mamba2_1epoch_2its": {Mamba2},
    "nnUNetTrainerSegMamba_SameSize_1epoch_2its": {SameSizeConv},
    "nnUNetTrainerUMambaEnc_Mamba2_Conv3d_1epoch_2its": {Mamba2},
    "nnUNetTrainerLightMUNet_Conv3d_1epoch_2its": {Mamba},
    "nnUNetTrainerUMamba2_1epoch_2its": {Mamba2},
    "nnUNetTrainerUMamba2NoMamba_1epoch_2its": set(),
}


def _mixers(network: Any) -> set[type]:
    return {type(module) for module in network.modules()} & {Mamba, Mamba2, SameSizeConv}


@pytest.mark.parametrize("name", NAMES)
def test_trained_and_predicted(dataset: Path, name: str) -> None:
    trainer = without_pictures(make(name))
    trainer.run_training()
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    assert _mixers(trainer.network) == NAMES[name]
    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, use_mirroring=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(Path(trainer.output_folder).parent), (0,))
    assert _mixers(predictor.network) == NAMES[name]
    weights = trainer.network.state_dict()
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    assert all(torch.equal(value, weights[key]) for key, value in predictor.network.state_dict().items())


@pytest.mark.parametrize("name", ["nnUNetTrainerUMamba2", "nnUNetTrainerSegMamba_Mamba2"])
def test_what_does_not_decay_of_mamba2(dataset: Path, name: str) -> None:
    trainer = make(name)
    trainer.initialize()
    kept = undecayed(trainer.network)
    names = {key for key, parameter in trainer.network.named_parameters() if parameter in kept}
    scan = {key for key, _ in trainer.network.named_parameters() if "A_" in key or ".D" in key or "dt_bias" in key}
    assert scan
    assert scan <= names
    assert {key for key, _ in trainer.network.named_parameters() if key.endswith("mamba.norm.weight")} <= names


def test_nnunets_own_plans_are_followed_as_they_are(dataset: Path) -> None:
    plans = stock_plans()
    plans["configurations"]["3d_fullres"]["architecture"] = stock_entry(3)
    trainer = make("nnUNetTrainerUMamba2", plans=plans)
    trainer.initialize()
    assert [len(stage.blocks) for stage in trainer.network.encoder.stages] == [1, 2, 1]
    assert trainer.network.mamba_layer.mamba.headdim == 80
