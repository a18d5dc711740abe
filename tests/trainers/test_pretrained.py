"""`-pretrained_weights` through nnU-Net's own command function, between datasets with other channels and classes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run import run_training

from nnunet_mamba.names import networks
from nnunet_mamba.trainers.pretrained import fitted
from tests.stock_plans import DATASET_JSON, stock_plans
from tests.trainers.tiny import make, write_preprocessed


def _dataset(channels: int, classes: int) -> dict[str, Any]:
    return {**DATASET_JSON, "channel_names": {str(i): "MRI" for i in range(channels)},
            "labels": {"background": 0, **{f"l{i}": i for i in range(1, classes)}}}  # fmt: skip


def _plans(channels: int) -> dict[str, Any]:
    plans = copy.deepcopy(stock_plans())
    for chosen in plans["configurations"].values():
        chosen["normalization_schemes"] = ["ZScoreNormalization"] * channels
        chosen["use_mask_for_norm"] = [False] * channels
    return plans


def _saved(name: str, channels: int, classes: int) -> tuple[Any, str]:
    trainer = make(name, _dataset(channels, classes), _plans(channels))
    trainer.initialize()
    path = Path(trainer.output_folder) / "start.pth"
    trainer.save_checkpoint(str(path))
    return trainer, str(path)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 2), (2, 2)])
@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_other_channels_and_classes(dataset: Path, record: networks.Network, before: int, after: int) -> None:
    source, path = _saved(record.trainer, before, 3)
    target = make(record.trainer, _dataset(after, 4), _plans(after))
    heads = {k: v.clone() for k, v in _initialized(target).state_dict().items() if ".seg_layers." in k}
    run_training.maybe_load_checkpoint(target, False, False, path)
    state = target.network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in heads.items())
    assert target.num_input_channels == after

    given = source.network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in given.items() if state[k].shape == v.shape and k not in heads)
    changed = [k for k, v in given.items() if state[k].shape != v.shape and k not in heads]
    assert bool(changed) == (before != after)
    for key in changed:  # an image repeated in all channels gives the same sums
        axis = 0 if state[key].shape[0] != given[key].shape[0] else 1
        sums = [w.mean(0) if axis == 0 else w.sum(1) for w in (state[key], given[key])]
        assert torch.allclose(*sums, rtol=1e-5, atol=1e-6)  # float32 in another order
    target.network.eval()
    assert all(o.isfinite().all() for o in target.network(torch.randn(1, after, 16, 16, 16)))


def _initialized(trainer: Any) -> Any:
    trainer.initialize()
    return trainer.network


def test_a_file_that_is_no_checkpoint(dataset: Path, tmp_path: Path) -> None:
    torch.save({"model": 1}, tmp_path / "published.pt")
    trainer = make("nnUNetTrainerSegMamba")
    with pytest.raises(ValueError, match=r"no network_weights.*nnunet-mamba convert-checkpoint FILE --pretrained"):
        run_training.maybe_load_checkpoint(trainer, False, False, str(tmp_path / "published.pt"))


def test_another_plan_or_network_is_refused_by_name(dataset: Path) -> None:
    _, path = _saved("nnUNetTrainerSegMamba", 1, 3)
    plans = _plans(1)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 16]
    wider = make("nnUNetTrainerSegMamba", DATASET_JSON, plans)
    with pytest.raises(ValueError, match=r"does not fit this network: .* expected .* nnUNetv2_move_plans_between_data"):
        run_training.maybe_load_checkpoint(wider, False, False, path)
    with pytest.raises(ValueError, match="is missing"):
        run_training.maybe_load_checkpoint(make("nnUNetTrainerUMambaBot"), False, False, path)


def test_channels_must_agree_among_themselves() -> None:
    own = {"a.weight": torch.zeros(4, 2, 3, 3), "b.weight": torch.zeros(4, 2, 3, 3)}
    given = {"a.weight": torch.ones(4, 1, 3, 3), "b.weight": torch.ones(4, 3, 3, 3)}
    with pytest.raises(ValueError, match=r"numbers of channels \[\(1, 2\), \(3, 2\)\]"):
        fitted(given, own, "x.pth")


def test_the_stock_network_too(folders: Path) -> None:
    write_preprocessed(folders)
    source, path = _saved("nnUNetTrainer_1epoch_1its", 1, 3)
    target = make("nnUNetTrainer_1epoch_1its", _dataset(3, 2), _plans(3))
    run_training.maybe_load_checkpoint(target, False, False, path)
    first = next(iter(source.network.state_dict()))
    assert torch.allclose(target.network.state_dict()[first].sum(1), source.network.state_dict()[first].sum(1))
