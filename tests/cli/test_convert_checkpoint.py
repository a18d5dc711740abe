"""A published checkpoint becomes what nnU-Net's predictor and its loader of pretrained weights read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mamba import released
from nnunet_mamba.cli.main import main
from tests.stock_plans import DATASET_JSON, stock_plans
from tests.test_checkpoints import nnunet_checkpoint

CONFIG = {"depths": (1, 1, 1, 1), "feat_size": (4, 8, 8, 8), "hidden_size": 8, "nslices": "auto"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Weights of a small released SegMamba (1 channel, 3 classes), plans with a patch of 32^3, and a dataset.json."""
    plans: dict[str, Any] = stock_plans()
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
    paths = {"weights": tmp_path / "w.pt", "plans": tmp_path / "plans.json", "dataset": tmp_path / "dataset.json"}
    paths["plans"].write_text(json.dumps(plans))
    paths["dataset"].write_text(json.dumps(DATASET_JSON))
    torch.save(released.build("segmamba", in_chans=1, out_chans=3, **CONFIG).state_dict(), paths["weights"])
    return {**paths, "out": tmp_path / "model"}


def _arguments(files: dict[str, Path], *more: str) -> list[str]:
    return ["convert-checkpoint", str(files["weights"]), "--plans", str(files["plans"]), "--dataset-json",
            str(files["dataset"]), *more]  # fmt: skip


def test_nnunets_predictor_reads_the_folder_and_computes_the_same(files: dict[str, Path]) -> None:
    assert main(_arguments(files, "-o", str(files["out"]))) == 0
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(files["out"]), use_folds=("all",))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    network = released.load_released(files["weights"])
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(predictor.network.eval()(x), network(x))


def test_u_mamba2_as_its_authors_save_it(files: dict[str, Path]) -> None:
    """Strides come from the plan; nnU-Net's predictor computes the same, the trainer follows the written plan"""
    strides = [[1] * 3, [2] * 3, [2] * 3]
    sizes: dict[str, Any] = {"features_per_stage": [4, 8, 40], "kernel_sizes": [[3] * 3] * 3, "strides": strides}
    network = released.build("umamba2", input_channels=1, num_classes=3, n_blocks_per_stage=[1, 2, 1], **sizes)
    torch.save({"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer"}, files["weights"])
    assert main(_arguments(files, "-o", str(files["out"]))) == 0
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(files["out"]), use_folds=("all",))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    written = json.loads((files["out"] / "plans.json").read_text(encoding="utf-8"))["configurations"]["3d_fullres"][
        "architecture"
    ]
    assert written["arch_kwargs"]["headdim"] == 80
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(predictor.network.eval()(x), network.eval()(x))


def test_pretrained_weights_go_through_nnunets_loader(files: dict[str, Path], tmp_path: Path) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    target = tmp_path / "pretrained.pth"
    assert main(_arguments(files, "--pretrained", str(target))) == 0
    network = released.load_released(files["weights"])
    inputs, _, kwargs = network._published.plan_keywords(**network.config)
    other = type(network.network)(inputs, 5, **{**kwargs, "conv_op": torch.nn.Conv3d, "deep_supervision": True})
    load_pretrained_weights(other, str(target))
    for key, value in network.network.state_dict().items():
        if ".seg_layers." not in key:
            assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["weights"].unlink(), "w.pt: no such file"),
        (lambda f: f["out"].mkdir(), "model: exists already"),
        (lambda f: torch.save({"a.weight": torch.ones(2)}, f["weights"]), "no published network has these keys"),
        (
            lambda f: f["dataset"].write_text(json.dumps({**DATASET_JSON, "labels": {"background": 0, "a": 1}})),
            "has 3 outputs, the labels of dataset.json need 2",
        ),
        (
            lambda f: f["dataset"].write_text(json.dumps({**DATASET_JSON, "channel_names": {"0": "a", "1": "b"}})),
            "takes 1 channels, dataset.json names 2",
        ),
        (
            lambda f: f["plans"].write_text(json.dumps(stock_plans()).replace("16, 16, 16", "24, 24, 24")),
            "does not fit",
        ),
        (lambda f: f["weights"].write_text("<!DOCTYPE html>"), "w.pt is a web page, not a checkpoint"),
        (lambda f: f["weights"].write_text("version https://git-lfs.github.com/spec/v1"), "is a pointer of Git LFS"),
        (lambda f: f["plans"].write_text("<html>"), "plans.json: not JSON"),
        (lambda f: f["plans"].write_text('{"a": 1}'), "plans.json is not nnU-Net plans"),
        (lambda f: f["plans"].write_text("[1]"), "plans.json: holds [1]; expected an object"),
        (lambda f: f["dataset"].write_text('{"name": "x"}'), "dataset.json is not a dataset.json of nnU-Net"),
        (
            lambda f: torch.save(
                {"network_weights": torch.load(f["weights"]), "inference_allowed_mirroring_axes": (0, 3)}, f["weights"]
            ),
            "inference_allowed_mirroring_axes is (0, 3); expected numbers of axes from 0 to 2",
        ),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_written(
    files: dict[str, Path], change, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(files)
    before = sorted(files["weights"].parent.iterdir())
    assert main(_arguments(files, "-o", str(files["out"]))) == 2
    assert message in capsys.readouterr().err
    assert sorted(files["weights"].parent.iterdir()) == before


def test_nothing_asked_for_is_an_error(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(files)) == 2
    assert "give -o FOLDER, --pretrained FILE, or both" in capsys.readouterr().err


@pytest.mark.parametrize("axes", [(0, 1, 2), (2,), None, "absent"])
def test_mirroring_of_a_checkpoint_of_nnunet_is_kept(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], axes: tuple[int, ...] | str | None
) -> None:
    more = {} if axes == "absent" else {"inference_allowed_mirroring_axes": axes}
    nnunet_checkpoint(files["weights"], torch.load(files["weights"]))
    content = torch.load(files["weights"], weights_only=False)
    del content["inference_allowed_mirroring_axes"]
    torch.save({**content, **more}, files["weights"])
    assert main(_arguments(files, "-o", str(files["out"]))) == 0
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(files["out"]), use_folds=("all",))
    assert predictor.allowed_mirroring_axes == (None if axes == "absent" else axes)
    said = "nothing; the checkpoint names no axes" if axes in (None, "absent") else f"axes {', '.join(map(str, axes))}"
    assert f"mirrored in prediction: {said}" in capsys.readouterr().out
