"""What is returned is nnU-Net's own prediction to the bit, and what is kept is what went into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mamba.trust.members import MemberPredictor, mean_prediction
from tests.trust import small_validation as small

IMAGE = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 16, 16, 18)).astype(np.float32))


def _predictor(kind: type[Any], model: Path, folds: tuple[int, ...] = (0, 1), **options: Any) -> Any:
    found = kind(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, **options)
    found.initialize_from_trained_model_folder(str(model), folds)
    return found


@pytest.mark.parametrize(
    ("labels", "mirroring"),
    [(small.LABELS, (0, 1, 2)), (small.REGIONS, (0, 2)), (small.LABELS, None)],
    ids=["labels, three axes", "regions, two axes", "labels, no mirroring"],
)
def test_the_mean_is_what_nnunet_predicts(root: Path, labels: dict[str, Any], mirroring: Any) -> None:
    model = small.write_model(root / "nnUNet_results", labels=labels, mirroring=mirroring)
    ours, stock = (_predictor(kind, model) for kind in (MemberPredictor, nnUNetPredictor))
    found, expected = (p.predict_logits_from_preprocessed_data(IMAGE) for p in (ours, stock))
    assert torch.equal(found, expected)
    assert [len(n.passes) for n in ours.networks] == [1 if mirroring is None else 2 ** len(mirroring)] * 2

    # each network, alone, as nnU-Net predicts it with that fold
    for fold, network in enumerate(ours.networks):
        alone = _predictor(nnUNetPredictor, model, (fold,)).predict_logits_from_preprocessed_data(IMAGE)
        manager = stock.label_manager
        assert np.array_equal(network.labels, manager.convert_logits_to_segmentation(alone).numpy())
        assert np.allclose(network.probabilities, manager.apply_inference_nonlin(alone), atol=1e-3)


def test_each_pass_is_nnunets_prediction_of_the_mirrored_image(model: Path) -> None:
    ours = _predictor(MemberPredictor, model, (0,))
    ours.predict_logits_from_preprocessed_data(IMAGE)
    without = _predictor(nnUNetPredictor, model, (0,), use_mirroring=False)
    for kept, axes in zip(ours.networks[0].passes, [(), (1,), (3,), (1, 3)], strict=True):
        logits = torch.flip(without.predict_logits_from_preprocessed_data(torch.flip(IMAGE, axes)), axes)
        expected = ours.label_manager.convert_logits_to_segmentation(logits).numpy()
        # windows of 16 lie symmetrically in 16, 16 and 18 voxels; half precision rounds them in another order, and an
        # untrained network hardly prefers any label
        assert (kept == expected).mean() > 0.97


def test_passes_are_left_together_on_request(model: Path) -> None:
    ours, stock = _predictor(MemberPredictor, model, keep_passes=False), _predictor(nnUNetPredictor, model)
    assert torch.equal(*(p.predict_logits_from_preprocessed_data(IMAGE) for p in (ours, stock)))
    assert [len(n.passes) for n in ours.networks] == [1, 1]
    without = _predictor(MemberPredictor, model, use_mirroring=False)
    without.predict_logits_from_preprocessed_data(IMAGE)
    assert [len(n.passes) for n in without.networks] == [1, 1]


def test_a_second_case_forgets_the_first_and_a_failure_leaves_the_predictor_whole(model: Path) -> None:
    ours = _predictor(MemberPredictor, model, use_mirroring=False)
    for _ in range(2):
        ours.predict_logits_from_preprocessed_data(IMAGE)
    assert len(ours.networks) == 2
    before = ours.label_manager
    with pytest.raises(Exception, match=r".+"):
        ours.predict_logits_from_preprocessed_data(IMAGE[:, 0])
    assert ours.label_manager is before
    ours.predict_logits_from_preprocessed_data(IMAGE)
    assert len(ours.networks) == 2


def test_two_dimensions(root: Path) -> None:
    """A 2d network predicts slice by slice; passes are kept apart all the same."""
    from tests.export.small_model import plans, write_model

    model = write_model(root / "model", plans(2, patch_size=[16, 16]), mirroring=(0, 1))
    ours, stock = _predictor(MemberPredictor, model, (0,)), _predictor(nnUNetPredictor, model, (0,))
    assert torch.equal(*(p.predict_logits_from_preprocessed_data(IMAGE[:, :3]) for p in (ours, stock)))
    assert [p.shape for p in ours.networks[0].passes] == [(3, 16, 18)] * 4


def test_the_mean_of_networks_is_that_of_their_probabilities(model: Path) -> None:
    ours = _predictor(MemberPredictor, model)
    ours.predict_logits_from_preprocessed_data(IMAGE)
    labels, mean = mean_prediction(ours.networks, ours.label_manager)
    expected = np.mean([n.probabilities.astype(float) for n in ours.networks], 0)
    assert mean == pytest.approx(expected, abs=1e-3)
    assert (labels == expected.argmax(0)).mean() > 0.999
    assert labels.dtype == np.uint8
    assert json.loads((model / "plans.json").read_text(encoding="utf-8"))["label_manager"] == "LabelManager"
