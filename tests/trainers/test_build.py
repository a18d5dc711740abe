"""Trainers build the network their name promises from any plan they can follow, and refuse the rest at once."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_mamba import trainers
from nnunet_mamba.architectures.segmamba import SegMamba
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.same_size import SameSizeConv
from nnunet_mamba.names import networks, suffixes
from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.trainers import nnUNetTrainerSegMamba, nnUNetTrainerSegMambaNoMamba
from tests.stock_plans import DATASET_JSON, stock_architecture, stock_plans

SEGMAMBA = networks.network("SegMamba")
CPU = torch.device("cpu")


def _our_plans(record: networks.Network = SEGMAMBA) -> dict[str, Any]:
    plans = stock_plans()
    for chosen in plans["configurations"].values():
        chosen["architecture"] = architecture_for(record, chosen["architecture"], chosen["patch_size"])
    return plans


def _build(trainer: type[nnUNetTrainer], plans: dict[str, Any], name: str = "3d_fullres") -> nn.Module:
    manager = PlansManager(plans)
    return trainer.build_network_architecture(manager, manager.get_configuration(name), 1, 3, True)


def _has_mamba(network: nn.Module) -> bool:
    return any("A_log" in key for key in network.state_dict())


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_our_trainer_on_a_stock_plan_takes_its_topology(name: str) -> None:
    network = _build(nnUNetTrainerSegMamba, stock_plans(), name)
    assert isinstance(network, SegMamba)
    assert network.topology.features == (4, 8, 8)
    assert network.topology.space.dim == (2 if name == "2d" else 3)
    assert len(network(torch.randn(1, 1, *(16,) * network.topology.space.dim))) == 2
    assert _has_mamba(network)
    assert not _has_mamba(_build(nnUNetTrainerSegMambaNoMamba, stock_plans(), name))


def test_twin_and_stock_trainer_follow_our_plan() -> None:
    assert _has_mamba(_build(nnUNetTrainer, _our_plans()))
    assert not _has_mamba(_build(nnUNetTrainer, _our_plans(SEGMAMBA.twin)))
    assert not _has_mamba(_build(nnUNetTrainerSegMambaNoMamba, _our_plans()))


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_every_network_by_its_trainers_and_by_the_stock_trainer(record: networks.Network, name: str) -> None:
    """Our trainer on a stock plan, its twin, and the stock trainer on our plan: the same parameters."""
    own, twin = getattr(trainers, record.trainer), getattr(trainers, record.twin.trainer)
    built = _build(own, stock_plans(), name)
    assert _has_mamba(built)
    assert not _has_mamba(_build(twin, stock_plans(), name))
    by_stock_trainer = _build(nnUNetTrainer, _our_plans(record), name)
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (built, by_stock_trainer)]
    assert shapes[0] == shapes[1]
    assert len(by_stock_trainer(torch.randn(1, 1, *(16,) * (2 if name == "2d" else 3)))) == 2


def test_a_network_planned_for_another_patch_is_refused() -> None:
    plans = _our_plans(networks.network("UMambaEnc"))
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 32]
    with pytest.raises(ValueError, match=r"UMambaEnc was planned for patches of \(16, 16, 16\).*\(16, 16, 32\)"):
        _build(trainers.nnUNetTrainerUMambaEnc, plans)


def test_our_keywords_survive_in_our_plan() -> None:
    plans = _our_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["depths"] = [1, 3]
    network = _build(nnUNetTrainerSegMamba, plans)
    assert [len(stage.layers) for stage in network.encoder.stages] == [1, 3]


def test_plan_of_the_twin_is_refused_by_the_mamba_trainer() -> None:
    with pytest.raises(ValueError, match=r"made for the no-Mamba twin.*-tr nnUNetTrainerSegMambaNoMamba"):
        _build(nnUNetTrainerSegMamba, _our_plans(SEGMAMBA.twin))


def test_plan_of_another_of_our_networks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = networks.Network("Other", "", "", "", "", "", "nnunet_mamba.architectures.other.Other", "")
    monkeypatch.setattr(networks, "NETWORKS", (*networks.NETWORKS, other))
    plans = stock_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = other.architecture
    with pytest.raises(ValueError, match=r"made for Other, not for SegMamba.*-pl nnUNetPlannerSegMamba"):
        _build(nnUNetTrainerSegMamba, plans)


def test_plan_without_a_topology_is_refused() -> None:
    plans = stock_plans()
    del plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"]
    with pytest.raises(ValueError, match="has no strides among its arch_kwargs"):
        _build(nnUNetTrainerSegMamba, plans)


def _mixers(network: nn.Module) -> set[type]:
    return {type(m) for m in network.modules()} & {Mamba, Mamba2, SameSizeConv}


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_suffixes_change_the_network_of_any_plan(name: str) -> None:
    for plans in (stock_plans(), _our_plans()):
        for suffix, kind in (("_Mamba2", Mamba2), ("_SameSize", SameSizeConv), ("_Mamba2_bf16_5epochs", Mamba2)):
            network = _build(getattr(trainers, f"nnUNetTrainerSegMamba{suffix}"), plans, name)
            assert _mixers(network) == {kind}, suffix
            assert isinstance(network, SegMamba)
        both = _build(trainers.nnUNetTrainerSegMamba_Mamba2_Conv3d, plans, name)
        assert _mixers(both) == {Mamba2}
        assert not [key for key in both.state_dict() if "conv1d" in key]
        assert [key for key in both.state_dict() if key.endswith("mamba.conv3d.weight")]
        assert _mixers(_build(trainers.nnUNetTrainerSegMamba_Conv3d, plans, name)) == {Mamba}


def test_a_trainer_without_such_a_suffix_follows_the_plan() -> None:
    plans = _our_plans(replace(SEGMAMBA, mixer="mamba2", conv3d=True))
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert (kwargs["mixer"], kwargs["conv3d"]) == ("mamba2", True)
    for trainer in (nnUNetTrainer, nnUNetTrainerSegMamba, trainers.nnUNetTrainerSegMamba_Mamba2):
        network = _build(trainer, plans)
        assert _mixers(network) == {Mamba2}
        assert not [key for key in network.state_dict() if "conv1d" in key]
    assert not _mixers(_build(nnUNetTrainerSegMambaNoMamba, plans))
    with pytest.raises(ValueError, match=r'this plan has "mixer": "mamba2" and the trainer asks for "conv"'):
        _build(trainers.nnUNetTrainerSegMamba_SameSize, plans)
    with pytest.raises(ValueError, match=r"made for the no-Mamba twin.*-tr nnUNetTrainerSegMambaNoMamba"):
        _build(trainers.nnUNetTrainerSegMamba_Mamba2, _our_plans(SEGMAMBA.twin))


def test_published_plans_name_no_mixer() -> None:
    for record in networks.NETWORKS:
        kwargs = _our_plans(record)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        assert not {"mixer", "conv3d"} & set(kwargs), record.name


def _changed(path: list[str], value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    plans, dataset = stock_plans(), copy.deepcopy(DATASET_JSON)
    target: Any = {"plans": plans, "dataset": dataset}
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return plans, dataset


IN_3D = ["plans", "configurations", "3d_fullres"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ([*IN_3D, "patch_size"], [16, 18, 16], r"patch \(16, 18, 16\) does not fit.*Use \(16, 16, 16\) or"),
        ([*IN_3D, "patch_size"], [16, 16], "patch_size .* and spacing .* must have the same"),
        ([*IN_3D, "spacing"], [1.0, 0.0, 1.0], "spacing .* expected numbers > 0"),
        ([*IN_3D, "batch_size"], 0, "batch_size 0"),
        (["dataset", "labels"], {"background": 0, "a": 1, "b": 3}, r"not consecutive: \[2\] missing"),
        (["dataset", "labels"], {"background": 0, "a": [1, 2], "b": 2}, "needs regions_class_order with 2 entries"),
    ],
)  # fmt: skip
def test_what_cannot_work_leaves_nothing_behind(folders: Path, path: list[str], value: Any, message: str) -> None:
    plans, dataset = _changed(path, value)
    with pytest.raises(ValueError, match=message):
        nnUNetTrainerSegMamba({**plans, "continue_training": False}, "3d_fullres", 0, dataset, CPU)
    assert not list(folders.iterdir())


def test_unknown_configuration_names_the_known_ones(folders: Path) -> None:
    with pytest.raises(ValueError, match="'3d' is not in plans nnUNetPlans; it has: 2d, 3d_fullres"):
        nnUNetTrainerSegMamba({**stock_plans(), "continue_training": False}, "3d", 0, DATASET_JSON, CPU)
    assert not list(folders.iterdir())


@pytest.mark.parametrize(
    ("name", "epochs", "iterations", "save_every"),
    [
        ("nnUNetTrainerSegMamba_5epochs", 5, 250, 1),
        ("nnUNetTrainerSegMamba_100epochs", 100, 250, 5),
        ("nnUNetTrainerSegMamba_2000epochs", 2000, 250, 50),
        ("nnUNetTrainer_4epochs_20its", 4, 20, 1),
    ],
)
def test_length_suffixes_set_the_length(
    folders: Path, name: str, epochs: int, iterations: int, save_every: int
) -> None:
    trainer = getattr(trainers, name)({**stock_plans(), "continue_training": False}, "3d_fullres", 0, DATASET_JSON, CPU)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.save_every) == (
        epochs,
        iterations,
        save_every,
    )
    assert trainer.num_val_iterations_per_epoch == (50 if iterations == 250 else iterations // 10)
    assert f"{name}__nnUNetPlans__3d_fullres" in trainer.output_folder


def test_other_suffixes_set_their_values(folders: Path) -> None:
    def make(name: str) -> nnUNetTrainer:
        plans = {**stock_plans(), "continue_training": False}
        return getattr(trainers, name)(plans, "3d_fullres", 0, DATASET_JSON, CPU)

    plain, changed = (make(f"nnUNetTrainerSegMamba{suffix}_2epochs") for suffix in ("", "_lr1e-3_fg66_lossDiceTopK10"))
    assert (plain.initial_lr, plain.oversample_foreground_percent) == (0.01, 0.33)
    assert (changed.initial_lr, changed.oversample_foreground_percent) == (0.001, 0.66)
    assert type(plain._build_loss().loss).__name__ == "DC_and_CE_loss"
    assert type(changed._build_loss().loss).__name__ == "DC_and_topk_loss"
    for loss in suffixes.LOSSES:
        logits, labels = torch.randn(2, 3, 8, 8, 8), torch.randint(0, 3, (2, 1, 8, 8, 8)).float()
        value = make(f"nnUNetTrainer_loss{loss}")._build_loss()([logits, logits], [labels, labels])
        assert torch.isfinite(value), loss


@pytest.mark.parametrize("n_stages", [2, 3])
def test_the_loss_is_a_number_for_any_depth(folders: Path, n_stages: int) -> None:
    # nnU-Net gives the coarsest output weight zero; two stages have one output
    plans = stock_plans()
    plans["configurations"]["3d_fullres"]["architecture"] = stock_architecture(3, n_stages)
    plans["continue_training"] = False
    trainer = nnUNetTrainerSegMamba(plans, "3d_fullres", 0, DATASET_JSON, CPU)
    network = trainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 3, trainer.enable_deep_supervision
    )
    output = network(torch.randn(2, 1, 16, 16, 16))
    outputs = output if isinstance(output, list) else [output]
    assert len(outputs) == n_stages - 1
    targets = [torch.zeros(2, 1, *o.shape[2:]) for o in outputs]
    loss = trainer._build_loss()(output, targets if isinstance(output, list) else targets[0])
    assert torch.isfinite(loss)
