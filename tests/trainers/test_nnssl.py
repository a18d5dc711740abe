"""An encoder that nnssl has pretrained: the recorded tensors and features, and what is refused."""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.run import run_training
from torch import nn

from nnunet_mamba.architectures.umamba2 import UMamba2ResidualEncoderUNet
from nnunet_mamba.trainers import nnssl
from nnunet_mamba.trainers.nnssl import Planned, adapted, check_plan
from tests.stock_plans import DATASET_JSON, stock_plans
from tests.trainers.tiny import log_of, make

GOLDEN = Path(__file__).parents[1] / "data" / "nnssl"
FILE = GOLDEN / "nnssl_tiny.pth"
INFO = json.loads((GOLDEN / "nnssl_tiny.json").read_text(encoding="utf-8"))
TARGETS = INFO["config"]["targets"]
TOLERANCE = 2e-6  # of the largest value, as in tests/golden; the recorded features are float32's
ISO = Planned((1.0, 1.0, 1.0), ["ZScoreNormalization"])


def _checkpoint() -> dict[str, Any]:
    return torch.load(FILE, weights_only=True)


def _keywords(target: dict[str, Any]) -> dict[str, Any]:
    stages = len(target["features_per_stage"])
    return {
        "n_stages": stages, "conv_op": nn.Conv3d, "n_conv_per_stage_decoder": [1] * (stages - 1), "conv_bias": True,
        "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True}, "deep_supervision": False,
        **{k: target[k] for k in ("features_per_stage", "kernel_sizes", "strides", "n_blocks_per_stage")},
    }  # fmt: skip


def _network(name: str) -> ResidualEncoderUNet:
    target = TARGETS[name]
    return ResidualEncoderUNet(target["input_channels"], num_classes=target["num_classes"], **_keywords(target)).eval()


def _unique(name: str) -> bool:
    return "all_modules" not in name


@pytest.mark.parametrize("target", TARGETS)
def test_the_recorded_tensors_and_features(target: str) -> None:
    network = _network(target)
    before = copy.deepcopy(network.state_dict())
    found = adapted(_checkpoint(), network, "FILE")
    expected = INFO["expected"][target]
    assert {n for n in found.weights if _unique(n)} == set(expected["loaded"])
    sums = [w.double() for n, w in found.weights.items() if _unique(n)]
    assert sum(float(w.sum()) for w in sums) == pytest.approx(expected["loaded_sum"], abs=1e-4)
    assert sum(float(w.abs().sum()) for w in sums) == pytest.approx(expected["loaded_abs_sum"], rel=1e-6)
    network.load_state_dict(found.weights, strict=False)
    state = network.state_dict()
    arrays = np.load(GOLDEN / "nnssl_tiny.npz")
    for key in [k for k in arrays if k.startswith(f"{target}:encoder")]:
        got = state[key.split(":")[1]].numpy()
        assert np.abs(got - arrays[key]).max() <= TOLERANCE * np.abs(arrays[key]).max(), key
    # the decoder names the encoder's tensors again
    untouched = [n for n in state if n not in found.weights and not n.startswith("decoder.encoder.")]
    assert untouched
    assert all(torch.equal(state[n], before[n]) for n in untouched)
    assert all(n in untouched for n in expected["not_loaded"])
    seed = zlib.crc32(f"input:nnssl_tiny:{target}".encode())
    image = np.random.RandomState(seed).standard_normal(TARGETS[target]["input_shape"]).astype(np.float32)
    with torch.inference_mode():
        features = network.encoder(torch.from_numpy(image))[2].numpy()
    wanted = arrays[f"{target}:features"]
    assert np.abs(features - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_names_that_wrappers_have_left_are_understood() -> None:
    checkpoint = _checkpoint()
    plain = adapted(checkpoint, _network("in1"), "FILE").weights
    checkpoint["network_weights"] = {f"module._orig_mod.{n}": w for n, w in checkpoint["network_weights"].items()}
    wrapped = adapted(checkpoint, _network("in1"), "FILE").weights
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[n], wrapped[n]) for n in plain)


def test_a_decoder_is_never_taken_for_the_encoder() -> None:
    checkpoint = _checkpoint()
    weights = checkpoint["network_weights"]
    checkpoint["network_weights"] = {
        **{f"decoder.{n}": torch.full_like(w, 7.0) for n, w in weights.items()},
        **weights,
    }
    found = adapted(checkpoint, _network("in1"), "FILE").weights
    assert not any((w == 7.0).all() for w in found.values())


@pytest.mark.parametrize(
    ("spacing", "schemes", "told"),
    [
        ((2.0, 2.0, 2.0), ["ZScoreNormalization"], "-overwrite_target_spacing 1 1 1 -overwrite_plans_name NAME"),
        ((1.0, 1.0), ["ZScoreNormalization"], "this configuration has 1 x 1 mm"),
        ((1.0, 1.0, 1.0), ["ZScoreNormalization", "CTNormalization"], "this configuration has CTNormalization"),
    ],
)
def test_another_plan_is_refused_but_on_request(
    spacing: tuple[float, ...], schemes: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _checkpoint()[nnssl.PLAN]
    check_plan(plan, ISO, "FILE")
    with pytest.raises(ValueError, match=told):
        check_plan(plan, Planned(spacing, schemes), "FILE")
    monkeypatch.setenv(nnssl.ANY_PLAN, "1")
    check_plan(plan, Planned(spacing, schemes), "FILE")


def test_no_spacing_is_any_spacing() -> None:
    plan = copy.deepcopy(_checkpoint()[nnssl.PLAN])
    plan["pretrain_plan"]["configurations"] = {
        "noresample": {"spacing": None, "normalization_schemes": ISO.normalization}
    }
    check_plan(plan, Planned((3.0, 0.7, 0.7), ISO.normalization), "FILE")


def test_what_does_not_fit_is_refused() -> None:
    checkpoint = _checkpoint()
    three = copy.deepcopy(checkpoint)
    three[nnssl.PLAN]["pretrain_num_input_channels"] = 3
    with pytest.raises(
        ValueError, match="pretrained on 3 channels, this data set has 4: expected as many, or a multiple"
    ):
        adapted(three, _network("in4"), "FILE")
    wide = {**_keywords(TARGETS["in1"]), "features_per_stage": [8, 16, 24]}
    with pytest.raises(ValueError, match=r"0% of the encoder's parameters would be pretrained, expected at least 50%"):
        adapted(checkpoint, ResidualEncoderUNet(1, num_classes=3, **wide), "FILE")
    large = {**_keywords(TARGETS["in1"]), "kernel_sizes": [[5, 5, 5]] * 3}
    with pytest.raises(ValueError, match=r"has a kernel of \(3, 3, 3\) voxels, this plan \(5, 5, 5\)"):
        adapted(checkpoint, ResidualEncoderUNet(1, num_classes=3, **large), "FILE")
    with pytest.raises(ValueError, match=r"Conv3d has none of that kind\. nnUNetTrainerUMamba2 and"):
        adapted(checkpoint, nn.Conv3d(1, 1, 3), "FILE")
    plain = {k: v for k, v in _keywords(TARGETS["in1"]).items() if k != "n_blocks_per_stage"}
    with pytest.raises(ValueError, match="0% of the encoder's parameters"):
        adapted(checkpoint, PlainConvUNet(1, num_classes=3, n_conv_per_stage=[1, 1, 1], **plain), "FILE")


def _trainer(name: str = "nnUNetTrainerUMamba2_1epoch_2its") -> Any:
    """Of a plan that the recorded encoder fits"""
    plans = copy.deepcopy(stock_plans())
    planned = plans["configurations"]["3d_fullres"]
    planned["spacing"] = [1.0, 1.0, 1.0]
    planned["normalization_schemes"] = ["ZScoreNormalization"]
    architecture = planned["architecture"]
    target = TARGETS["in1"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    keywords = architecture["arch_kwargs"]
    keywords.pop("n_conv_per_stage", None)
    keywords |= {k: target[k] for k in ("features_per_stage", "strides", "n_blocks_per_stage")}
    keywords |= {
        "n_stages": 3,
        "kernel_sizes": [[3] * 3] * 3,
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
    }
    return make(name, DATASET_JSON, plans)


def test_through_nnunets_command(dataset: Path, tmp_path: Path) -> None:
    trainer = _trainer()
    trainer.initialize()
    assert isinstance(trainer.network, UMamba2ResidualEncoderUNet)
    run_training.maybe_load_checkpoint(trainer, False, False, str(FILE))
    state, given = trainer.network.state_dict(), _checkpoint()["network_weights"]
    taken = [n for n in state if n.startswith(("encoder.stages.", "encoder.stem."))]
    assert taken
    assert all(torch.equal(state[n], given[n]) for n in taken)
    log = log_of(trainer)
    assert "Pretrained encoder" in log
    assert "100% of the encoder's parameters are pretrained" in log
    assert "encoder.stages.1" in log
    assert "please cite" in log
    damaged = tmp_path / "damaged.pth"
    broken = _checkpoint()
    del broken[nnssl.PLAN]["pretrain_plan"]
    torch.save(broken, damaged)
    before = copy.deepcopy(trainer.network.state_dict())
    with pytest.raises(ValueError, match="its nnssl_adaptation_plan is not as nnssl writes it"):
        run_training.maybe_load_checkpoint(trainer, False, False, str(damaged))
    assert all(torch.equal(before[n], w) for n, w in trainer.network.state_dict().items())


def test_resuming_needs_no_file(dataset: Path, tmp_path: Path) -> None:
    trainer = _trainer()
    trainer.initialize()
    run_training.maybe_load_checkpoint(trainer, False, False, str(FILE))
    path = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    again = _trainer()
    again.load_checkpoint(str(path))
    pairs = zip(trainer.network.parameters(), again.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_other_networks_are_told_which_take_it(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nnssl.ANY_PLAN, "1")
    trainer = make("nnUNetTrainerSegMamba_1epoch_2its")
    trainer.initialize()
    with pytest.raises(ValueError, match=r"SegMamba\w* has none of that kind\. nnUNetTrainerUMamba2"):
        run_training.maybe_load_checkpoint(trainer, False, False, str(FILE))


def test_nnunets_residual_encoder_takes_it(dataset: Path) -> None:
    trainer = _trainer("nnUNetTrainer_AdamW_1epoch_2its")
    trainer.initialize()
    run_training.maybe_load_checkpoint(trainer, False, False, str(FILE))
    assert "100% of the encoder's parameters are pretrained" in log_of(trainer)
