"""NaN and Inf put into data, loss, gradients and weights of real trainings: skipped, healed, or stopped in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mamba.trainers import record, sentinel
from nnunet_mamba.trainers.sentinel import GoodState, Sentinel, TrainingBrokenError, all_finite
from tests.trainers.tiny import log_of, make, poison, without_pictures

PRECISIONS = ("fp32", "bf16", "fp16")
ACCUMULATED = ("", "_accum2")
"""Every fault also in the second of two batches whose gradients are added up: a step is taken or it is not."""
every_step = pytest.mark.parametrize(
    "steps", [precision + accumulated for precision in PRECISIONS for accumulated in ACCUMULATED]
)


def _batches(steps: str) -> int:
    return 2 if steps.endswith("_accum2") else 1


def _trained(name: str, prepare: Callable[[Any], None] = lambda trainer: None) -> Any:
    trainer = without_pictures(make(name))
    trainer.initialize()
    if trainer.grad_scaler is not None:  # one that fits from the start: what is skipped is a fault, not its search
        trainer.grad_scaler = torch.GradScaler("cpu", init_scale=2.0**8)
    prepare(trainer)
    trainer.run_training()
    return trainer


def _finite_weights(trainer: Any) -> bool:
    return all_finite(trainer.network.state_dict().values())


def _logged(trainer: Any, key: str) -> list[Any]:
    return trainer.logger.get_value(key, step=None)


class Injected:
    """Breaks the loss of chosen training batches, counted from 0."""

    def __init__(self, trainer: Any, batches: set[int], value: float = math.nan):
        self.count, self.batches, self.value = -1, batches, value
        trainer.loss.register_forward_hook(self, prepend=True)

    def __call__(self, _module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.count += 1
            if self.count in self.batches:
                return output * self.value
        return output


@every_step
@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_step_with_a_broken_loss_is_skipped_and_named(dataset: Path, steps: str, value: float, which: str) -> None:
    if _batches(steps) == 1 and which == "first":
        return  # its only batch is the last
    kept: list[dict[str, torch.Tensor]] = []

    def prepare(trainer: Any) -> None:
        third = 2 * _batches(steps)
        Injected(trainer, {third if which == "first" else third + _batches(steps) - 1}, value)
        plain = trainer.train_step

        def watched(batch: dict) -> dict:
            kept.append({k: v.clone() for k, v in trainer.network.state_dict().items()})
            return plain(batch)

        trainer.train_step = watched

    trainer = _trained(f"nnUNetTrainerSegMamba_{steps}_1epoch_4its", prepare)
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in itertools.pairwise(kept)]
    assert same == [False, False, True]  # only the broken third step changed nothing
    assert _logged(trainer, record.SKIPPED) == [1]
    assert np.isfinite(_logged(trainer, "train_losses")).all()
    assert _finite_weights(trainer)
    log = log_of(trainer)
    assert "Step skipped, not finite: loss" in log
    assert "case" in log.split("Trained on")[1]
    assert "from voxel (" in log.split("Trained on")[1]


@every_step
def test_a_broken_gradient_is_skipped_too(dataset: Path, steps: str) -> None:
    before: list[dict[str, torch.Tensor]] = []

    def prepare(trainer: Any) -> None:
        weight = next(trainer.network.parameters())
        weight.register_hook(lambda g: torch.full_like(g, math.inf) if len(trainer._norms) == 1 else g)
        original, plain = trainer._after_step, trainer.train_step

        def watched(batch: dict) -> dict:
            if len(trainer._norms) == 1 and not trainer.sentinel.skipped:
                before.append({k: v.clone() for k, v in trainer.network.state_dict().items()})
            return plain(batch)

        def once() -> None:
            original()
            if trainer.sentinel.skipped and weight._backward_hooks:
                assert all(torch.equal(v, before[0][k]) for k, v in trainer.network.state_dict().items())
                weight._backward_hooks.clear()

        trainer._after_step, trainer.train_step = once, watched

    trainer = _trained(f"nnUNetTrainerSegMamba_{steps}_1epoch_4its", prepare)
    assert _logged(trainer, record.SKIPPED) == [1]
    assert len(before) == 1
    assert _finite_weights(trainer)


@pytest.mark.parametrize("recipe", ["", "_AdamW"])
@pytest.mark.parametrize("accumulated", ACCUMULATED)
def test_a_skipped_step_leaves_the_optimizer_as_it_was(dataset: Path, recipe: str, accumulated: str) -> None:
    trainer = without_pictures(make(f"nnUNetTrainerSegMamba{recipe}{accumulated}_1epoch"))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batches = trainer.accumulated_batches
    Injected(trainer, {batches})  # the first batch of the second step

    def state() -> list[torch.Tensor]:
        moments = [v for s in trainer.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
        return [t.detach().clone() for t in (*trainer.network.state_dict().values(), *moments)]

    trainer.train_step(next(trainer.dataloader_train))
    before = state()
    trainer.train_step(next(trainer.dataloader_train))
    assert not trainer._step.taken
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    trainer.train_step(next(trainer.dataloader_train))
    assert trainer._step.taken
    assert not all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))


def test_cases_that_are_not_numbers_are_skipped_one_by_one(dataset: Path) -> None:
    poison(dataset, "case1", math.nan)
    trainer = _trained("nnUNetTrainerSegMamba_2epochs_12its")
    assert sum(_logged(trainer, record.SKIPPED)) > 0
    assert _finite_weights(trainer)
    skipped = [line for line in log_of(trainer).splitlines() if "Step skipped" in line]
    assert skipped
    assert all("case1 from voxel" in line for line in skipped)


@every_step
def test_broken_weights_come_back_from_the_last_good_ones(dataset: Path, steps: str) -> None:
    def prepare(trainer: Any) -> None:
        plain = trainer.train_step

        def break_weights(batch: dict) -> dict:
            if len(trainer._norms) == 1 and trainer.sentinel.heals == 0:
                with torch.no_grad():
                    next(trainer.network.parameters()).fill_(math.nan)
            return plain(batch)

        trainer.train_step = break_weights

    trainer = _trained(f"nnUNetTrainerSegMamba_{steps}_2epochs_8its", prepare)
    assert _finite_weights(trainer)
    assert trainer.sentinel.heals == 1
    assert _logged(trainer, record.SKIPPED)[0] == sentinel.IN_A_ROW
    assert "Back to the last good weights, with half the learning rate" in log_of(trainer)
    plain = make("nnUNetTrainerSegMamba_2epochs_8its")
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * plain.initial_lr * 0.5**0.9)


def test_weights_broken_by_the_last_step_of_an_epoch_are_never_saved(dataset: Path) -> None:
    def prepare(trainer: Any) -> None:
        plain = trainer.on_train_epoch_end

        def break_first(outputs: list[dict]) -> None:
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    next(trainer.network.parameters()).fill_(math.inf)
            plain(outputs)

        trainer.on_train_epoch_end = break_first

    trainer = _trained("nnUNetTrainerSegMamba_2epochs_3its", prepare)
    saved = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    assert all_finite(saved["network_weights"].values())
    assert "weights were not finite at the end of an epoch" in log_of(trainer)


@every_step
def test_nothing_but_broken_data_stops_in_words(dataset: Path, steps: str) -> None:
    for case in ("case0", "case1", "case2"):
        poison(dataset, case, math.nan)
    trainer = without_pictures(make(f"nnUNetTrainerSegMamba_{steps}_2epochs_30its"))
    with pytest.raises(TrainingBrokenError) as error:
        trainer.run_training()
    message = str(error.value)
    assert "not finite 3 times in a row, after 5 returns to good weights" in message
    assert "case0 from voxel" in message or "case1 from voxel" in message or "case2 from voxel" in message
    assert "nnUNet_mamba_precision=fp32" in message
    assert _finite_weights(trainer)


@pytest.mark.parametrize("recipe", ["", "_AdamW"])
def test_every_return_halves_the_rate_at_once(dataset: Path, recipe: str) -> None:
    """Several returns in one epoch: the second trains slower than the first, and the next epoch goes on from there."""
    trainer = without_pictures(make(f"nnUNetTrainerSegMamba{recipe}_10epochs_1its"))
    trainer.on_train_start()
    trainer.on_train_epoch_start()

    def rate() -> float:
        (common,) = {group["lr"] for group in trainer.optimizer.param_groups}
        return common

    whole = rate()
    for count in (1, 2, 3):
        trainer._heal("a reason")
        assert rate() == pytest.approx(whole * 0.5**count)
    trainer.lr_scheduler.schedule.step(1)
    unslowed = rate()
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    assert rate() == pytest.approx(unslowed / 8)


def test_weights_that_were_never_good_are_said_so(dataset: Path) -> None:
    def prepare(trainer: Any) -> None:
        with torch.no_grad():
            next(trainer.network.parameters()).fill_(math.nan)

    with pytest.raises(TrainingBrokenError, match="not finite from the start"):
        _trained("nnUNetTrainerSegMamba_1epoch_3its", prepare)


def test_faults_far_apart_never_heal() -> None:
    counts = Sentinel()
    for _ in range(50):
        assert not counts.fault("a")
        assert not counts.fault("b")
        counts.good()
    assert counts.skipped == 100
    assert counts.heals == 0
    counts.new_epoch()
    assert counts.skipped == 0


def test_the_search_for_a_scale_is_no_fault(dataset: Path) -> None:
    """fp16 starts with a scale that may overflow gradients; halving it is not a broken training."""

    def prepare(trainer: Any) -> None:
        trainer.grad_scaler = torch.GradScaler("cpu", init_scale=2.0**127)

    trainer = _trained("nnUNetTrainerSegMamba_fp16_1epoch_8its", prepare)
    assert _logged(trainer, record.SKIPPED)[0] >= 3
    assert trainer.sentinel.heals == 0


def test_good_state_keeps_optimizer_and_weights_together() -> None:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    state = GoodState(network, optimizer)

    def step() -> None:
        optimizer.zero_grad()
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    step()
    assert state.take()
    weights, moments = network.weight.detach().clone(), optimizer.state[network.weight]["exp_avg"].clone()
    for _ in range(2):  # a second return finds the same
        step()
        optimizer.state[network.weight]["exp_avg"][0] = math.nan
        assert not state.take()
        state.restore()
        assert torch.equal(network.weight, weights)
        assert torch.equal(optimizer.state[network.weight]["exp_avg"], moments)
