"""What the suffixes of a trainer's name do to a training, and which do not go together."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from nnunet_mamba.names import networks, suffixes
from nnunet_mamba.names.locate import locate
from nnunet_mamba.trainers.parameter_groups import undecayed
from nnunet_mamba.trainers.schedules import CosineWithWarmUp, SlowedSchedule
from tests.stock_plans import DATASET_JSON, stock_architecture, stock_plans
from tests.trainers.test_losses import REGIONS
from tests.trainers.tiny import log_of, make, without_pictures, write_preprocessed


def _rates(schedule: Any, epochs: int) -> list[float]:
    made = []
    for epoch in range(epochs):
        schedule.step(epoch)
        made.append(schedule.optimizer.param_groups[0]["lr"])
    return made


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)


def test_cosine_with_warm_up() -> None:
    rates = _rates(CosineWithWarmUp(_optimizer(), 1e-4, 1000), 1000)
    assert rates[0] == pytest.approx(1e-5)
    assert rates[9] == max(rates) == pytest.approx(1e-4)
    assert np.allclose(np.diff(rates[:10]), 1e-5)
    assert rates[9 + 495] == pytest.approx((1e-4 + 1e-6) / 2, rel=2e-3)  # the middle of the cosine
    assert rates[-1] == pytest.approx(1e-6, rel=1e-3)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    short = _rates(CosineWithWarmUp(_optimizer(), 1e-4, 4), 4)
    assert short.index(max(short)) == 1
    assert short[-1] > 0.2 * max(short), "the last epoch still learns"
    assert _rates(CosineWithWarmUp(_optimizer(), 1e-4, 1), 1) == [1e-4]


def test_a_slowed_schedule_stays_slow() -> None:
    schedule = SlowedSchedule(CosineWithWarmUp(_optimizer(), 1.0, 10), _optimizer())
    schedule.optimizer = schedule.schedule.optimizer
    plain = _rates(CosineWithWarmUp(_optimizer(), 1.0, 10), 10)
    schedule.step(0)
    schedule.slow_down(0.5, 0)
    assert schedule.optimizer.param_groups[0]["lr"] == plain[0] / 2
    assert _rates(schedule, 10) == [rate / 2 for rate in plain]
    schedule.step(3)
    for slowed in (4, 8):  # again in the same epoch
        schedule.slow_down(0.5, 3)
        assert schedule.optimizer.param_groups[0]["lr"] == plain[3] / slowed
    schedule.optimizer.param_groups[0]["lr"] = plain[3]  # as where a return has brought back an earlier state
    schedule.slow_down(0.25, 3)
    assert schedule.optimizer.param_groups[0]["lr"] == plain[3] / 32


@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
@pytest.mark.parametrize("recipe", ["", "_AdamW"])
def test_scan_parameters_and_norms_do_not_decay(dataset: Path, record: networks.Network, recipe: str) -> None:
    trainer = make(f"{record.trainer}{recipe}_1epoch")
    trainer.initialize()
    decays = {id(p): g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert len(decays) == sum(1 for _ in trainer.network.parameters())  # every one, once
    spared = {name for name, p in trainer.network.named_parameters() if decays[id(p)] == 0}
    scan = {n for n in dict(trainer.network.named_parameters())
            if n.rsplit(".", 1)[-1] in ("A_log", "A_b_log", "A_s_log", "D", "D_b", "D_s")
            or (".dt_proj" in n and n.endswith("bias"))}  # fmt: skip
    assert scan
    assert scan <= spared
    assert all(p.dim() == 1 for n, p in trainer.network.named_parameters() if n in spared - scan)
    assert {d for d in decays.values() if d} == {0.01 if recipe else 3e-5}
    kept = [n for n in dict(trainer.network.named_parameters()) if n not in spared]
    assert any("in_proj.weight" in n for n in kept)


def test_a_layer_norm_in_a_shared_place_is_spared_once() -> None:
    norm = torch.nn.LayerNorm(3)
    network = torch.nn.Sequential(norm, torch.nn.Linear(3, 3), norm)
    assert undecayed(network) == set(norm.parameters())


def test_the_stock_trainer_decays_as_nnunet_does(dataset: Path) -> None:
    trainer = make("nnUNetTrainer_1epoch_1its")
    trainer.initialize()
    assert [g["weight_decay"] for g in trainer.optimizer.param_groups] == [3e-5]


def test_adamw(dataset: Path) -> None:
    trainer = make("nnUNetTrainerSegMamba_AdamW")
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    rates = _rates(trainer.lr_scheduler, 1000)
    assert (max(rates), rates[-1]) == (pytest.approx(1e-4), pytest.approx(1e-6, rel=1e-3))
    faster = make("nnUNetTrainerSegMamba_AdamW_lr1e-3")
    faster.initialize()
    assert max(_rates(faster.lr_scheduler, 1000)) == pytest.approx(1e-3)


def test_segmamba_as_released(dataset: Path) -> None:
    trainer = without_pictures(make("nnUNetTrainerSegMamba_asReleased_1epoch_2its"))
    trainer.run_training()
    assert (trainer.loss.weight_dice, trainer.loss.weight_ce) == (0, 1)
    assert not trainer.network.decoder.deep_supervision
    assert (trainer.initial_lr, type(trainer.optimizer).__name__) == (1e-2, "SGD")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accumulating_two_batches_is_one_batch_of_both(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Dice is nnU-Net's per sample here (batch_dice off), so that the mean of two batches is that of the joined one."""
    monkeypatch.setenv("nnUNet_mamba_seed", "0")
    twice = make(f"nnUNetTrainerSegMamba_{precision}_accum2_1epoch_1its")
    once = make(f"nnUNetTrainerSegMamba_{precision}_1epoch_1its")
    for trainer in (twice, once):
        trainer.on_train_start()
        trainer.on_train_epoch_start()
    same = zip(twice.network.parameters(), once.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    batches = [next(twice.dataloader_train) for _ in range(2)]
    twice.dataloader_train = iter(batches[1:])
    joined = {"data": torch.cat([b["data"] for b in batches]),
              "target": [torch.cat(t) for t in zip(*(b["target"] for b in batches), strict=True)]}  # fmt: skip
    losses = twice.train_step(batches[0])["loss"], once.train_step(joined)["loss"]
    # float32 sums in another order; half precision rounds the scaled gradients of each batch
    tolerance = {"fp32": 1e-5, "fp16": 2e-2}[precision]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=tolerance)
    assert twice._step.norm == pytest.approx(once._step.norm, rel=tolerance)
    for a, b in zip(twice.network.parameters(), once.network.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=tolerance * 0.01)  # a step is 0.01 x a clipped gradient
    assert twice._samples == 4


def test_early_stopping_keeps_the_best_weights(dataset: Path) -> None:
    def trained(name: str) -> Any:
        trainer = without_pictures(make(name))
        plain = trainer.on_validation_epoch_end
        best: list[dict[str, Any]] = []

        def scripted(outputs: Any) -> None:
            plain(outputs)
            if trainer.current_epoch == 2:
                best.append(copy.deepcopy(trainer.network.state_dict()))
            trainer.logger.local_logger.my_fantastic_logging["ema_fg_dice"][-1] = [0.1, 0.2, 0.5, 0.4, 0.3, 0.2][
                trainer.current_epoch
            ]

        trainer.on_validation_epoch_end = scripted
        trainer.run_training()
        return trainer, best[0]

    trainer, best = trained("nnUNetTrainerSegMamba_stop2_6epochs_1its")
    assert trainer.current_epoch == 5
    assert "No better pseudo Dice for 2 epochs: stopping after 5, with the best weights" in log_of(trainer)
    saved = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    assert all(torch.equal(saved["network_weights"][k], v) for k, v in best.items())

    again = without_pictures(make("nnUNetTrainerSegMamba_stop2_6epochs_1its"))  # --c after the end trains no more
    again.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    again.run_training()
    assert len(again.logger.get_value("train_losses", step=None)) == 5


def _worse_from_the_second(trainer: Any) -> Any:
    plain = trainer.logger.log
    dice = [0.5, *[0.1] * 9]
    trainer.logger.log = lambda key, value, step: plain(key, dice[step] if key == "mean_fg_dice" else value, step)
    return without_pictures(trainer)


def test_a_stop_interrupted_before_its_end_ends_with_the_best_weights(dataset: Path) -> None:
    trainer = _worse_from_the_second(make("nnUNetTrainerSegMamba_stop2_6epochs_1its"))

    def killed() -> None:
        raise KeyboardInterrupt

    trainer._load_best_weights = killed
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    folder = Path(trainer.output_folder)
    best = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    assert best["current_epoch"] == 1

    again = without_pictures(make("nnUNetTrainerSegMamba_stop2_6epochs_1its"))
    again.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert again.current_epoch == 3
    again.run_training()
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert len(final["logging"]["train_losses"]) == 3
    assert all(torch.equal(final["network_weights"][k], v) for k, v in best["network_weights"].items())


def test_a_stop_without_checkpoints_takes_none_of_another_training(dataset: Path) -> None:
    trainer = _worse_from_the_second(make("nnUNetTrainerSegMamba_stop2_6epochs_1its"))
    trainer.run_training()
    before = copy.deepcopy(trainer.network.state_dict())
    again = _worse_from_the_second(make("nnUNetTrainerSegMamba_stop2_6epochs_1its"))
    again.disable_checkpointing = True
    again.run_training()
    assert not all(torch.equal(before[k], v) for k, v in again.network.state_dict().items())
    assert "stopping after 3, with the last weights: none were saved" in log_of(again)


def test_a_patience_never_reached_changes_nothing(dataset: Path) -> None:
    trainer = without_pictures(make("nnUNetTrainerSegMamba_stop2_3epochs_1its"))
    trainer._waited_enough = lambda: False
    trainer.run_training()
    assert trainer.current_epoch == 3


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerUMambaBotNoMamba"])
def test_two_stages_have_a_loss(folders: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """nnU-Net's weights of a single output are 0 / 0."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    plans = stock_plans()
    plans["configurations"]["3d_fullres"]["architecture"] = stock_architecture(3, 2)
    write_preprocessed(folders, plans=plans)
    trainer = without_pictures(make(f"{name}_1epoch_2its", plans=plans))
    trainer.run_training()
    assert "not finite" not in log_of(trainer)
    assert np.isfinite(trainer.logger.local_logger.my_fantastic_logging["train_losses"]).all()


def test_without_mirroring(dataset: Path) -> None:
    mirrored, plain = (make(f"nnUNetTrainerSegMamba{s}_1epoch") for s in ("", "_NoMirroring"))
    for trainer in (mirrored, plain):
        trainer.on_train_start()
    assert mirrored.inference_allowed_mirroring_axes == (0, 1, 2)
    assert plain.inference_allowed_mirroring_axes is None
    for trainer, has_it in ((mirrored, True), (plain, False)):
        transforms = _all_transforms(trainer.dataloader_train.data_loader.transforms)
        assert any(isinstance(t, MirrorTransform) for t in transforms) == has_it


def test_without_rotation(dataset: Path) -> None:
    turned, plain = (make(f"nnUNetTrainerSegMamba{s}_1epoch") for s in ("", "_NoRotation"))
    for trainer in (turned, plain):
        trainer.on_train_start()
    for trainer, most in ((turned, math.radians(30)), (plain, 0)):
        transforms = _all_transforms(trainer.dataloader_train.data_loader.transforms)
        (spatial,) = (t for t in transforms if isinstance(t, SpatialTransform))
        assert spatial.rotation == pytest.approx((-most, most))
        assert spatial.p_scaling == pytest.approx(0.2), "scaling is left"
        assert any(isinstance(t, MirrorTransform) for t in transforms), "and mirroring"
    loaded = [trainer.dataloader_train.data_loader.patch_size for trainer in (turned, plain)]
    assert all(a > b for a, b in zip(*loaded, strict=True)), "less is loaded where nothing is turned out of it"
    patch = plain.configuration_manager.patch_size
    assert list(loaded[1]) == [math.floor(n / 0.85) for n in patch], "what the smallest scale needs"


@pytest.mark.parametrize("long", [0, 2])
def test_without_rotation_a_long_patch_loads_what_it_is(dataset: Path, long: int) -> None:
    trainer = make("nnUNetTrainerSegMamba_NoRotation_1epoch")
    size = [16, 16, 16]
    size[long] = 96
    trainer.configuration_manager.configuration["patch_size"] = size
    angles, in_slices, loaded, mirrored = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert angles == (0, 0)
    assert in_slices == (long == 2)
    assert mirrored == (0, 1, 2)
    assert list(loaded) == [n if in_slices and axis == 0 else math.floor(n / 0.85) for axis, n in enumerate(size)]


def _all_transforms(transform: Any) -> list[Any]:
    inner = getattr(transform, "transforms", None) or [t for t in [getattr(transform, "transform", None)] if t]
    return [transform, *(t for i in inner for t in _all_transforms(i))]


def test_every_suffix_is_listed_with_a_name_that_works(folders: Path) -> None:
    forms = [form for s in suffixes.SUFFIXES for form in s.form.split(", ")]
    for form in forms:
        after = "_1epoch" if form == "_20its" else ""
        variant = suffixes.parse(f"nnUNetTrainerSegMamba{after}{form}")
        assert variant is not None, form
        assert locate(variant.name) is not None, form
        assert make(variant.name) is not None
    assert set(forms) >= {f"_loss{loss}" for loss in suffixes.LOSSES}


CONFLICTS = {
    "nnUNetTrainerUMambaBot_asReleased": "_asReleased is the released training of SegMamba",
    "nnUNetTrainerSegMamba_asReleased_lr1e-3": "leave out _lr and _loss",
    "nnUNetTrainerSegMamba_asReleased_lossDice": "leave out _lr and _loss",
    "nnUNetTrainerSegMamba_stop50_20epochs": "never stops a training of 20",
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_suffixes_that_do_not_go_together(name: str) -> None:
    variant = suffixes.parse(name)
    assert variant is not None
    assert CONFLICTS[name] in str(variant.conflict())
    assert locate(name) is None


@pytest.mark.parametrize("name", ["nnUNetTrainer_AdamW_accum2_fg66_lossClDice_2epochs_1its",
                                  "nnUNetTrainer_bf16_stop1_lossSkeletonRecall_NoMirroring_3epochs_1its"])  # fmt: skip
def test_the_stock_network_gets_the_same_recipes(dataset: Path, name: str) -> None:
    trainer = without_pictures(make(name))
    trainer.run_training()
    assert type(trainer.network).__name__ == "PlainConvUNet"
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()


@pytest.mark.parametrize("loss", ["Dice", "ClDice", "SkeletonRecall"])
def test_region_trainings_run(folders: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    write_preprocessed(folders, REGIONS)
    trainer = without_pictures(make(f"nnUNetTrainerSegMamba_loss{loss}_1epoch_2its", REGIONS))
    trainer.run_training()
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))


def test_values_that_names_set_are_nnunets_otherwise(folders: Path) -> None:
    trainer = make("nnUNetTrainerSegMamba", DATASET_JSON, stock_plans())
    assert (trainer.initial_lr, trainer.oversample_foreground_percent, trainer.num_epochs) == (0.01, 0.33, 1000)
    assert (trainer.accumulated_batches, trainer.patience, trainer.wanted_precision) == (1, None, None)
