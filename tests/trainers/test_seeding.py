"""One seed, one training: repeated, with other workers, and continued after a kill, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mamba.trainers import seeding
from nnunet_mamba.trainers.loading import Numbering
from tests.trainers.tiny import make, without_pictures

SHORT = "nnUNetTrainerSegMamba_4epochs_2its"


def _train(name: str = SHORT, stop_before: int | None = None) -> Any:
    trainer = without_pictures(make(name))
    plain = trainer.on_epoch_start

    def start() -> None:
        if trainer.current_epoch == stop_before:
            raise KeyboardInterrupt
        plain()

    trainer.on_epoch_start = start
    try:
        trainer.run_training()
    except KeyboardInterrupt:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            getattr(loader, "_finish", lambda: None)()
    return trainer


def _continued(name: str = SHORT) -> Any:
    trainer = without_pictures(make(name))
    trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
    trainer.run_training()
    return trainer


def _same(a: Any, b: Any) -> bool:
    weights = all(torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))
    curves = (t.logger.get_value("train_losses", None) + t.logger.get_value("val_losses", None) for t in (a, b))
    return weights and len({tuple(map(float, c)) for c in curves}) == 1


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_two_runs_are_the_same_bit_for_bit(dataset: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("nnUNet_mamba_seed", "7")
    monkeypatch.setenv("nnUNet_n_proc_DA", workers)
    first = _train()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert _same(first, _train())
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert _same(first, _train())  # and the number of workers does not matter
    monkeypatch.setenv("nnUNet_mamba_seed", "8")
    assert not _same(first, _train())


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("name", [SHORT, "nnUNetTrainerSegMamba_AdamW_fp16_accum2_4epochs_2its"])
def test_a_continued_training_is_the_uninterrupted_one(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, workers: str, name: str
) -> None:
    monkeypatch.setenv("nnUNet_mamba_seed", "7")
    monkeypatch.setenv("nnUNet_n_proc_DA", workers)
    whole = _train(name)
    assert _train(name, stop_before=2).current_epoch == 2
    assert _same(whole, _continued(name))


def test_workers_do_not_wait_for_threads_of_their_parent(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_mamba_seed", "7")
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as nnUNetv2_train does on a CPU
    try:
        torch.randn(300, 300) @ torch.randn(300, 300)  # and its threads exist
        assert _train("nnUNetTrainerSegMamba_1epoch_8its").current_epoch == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("fold", [1, "all"])
def test_folds_of_one_seed_start_from_other_weights(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, fold: int | str
) -> None:
    monkeypatch.setenv("nnUNet_mamba_seed", "7")
    first, other, again = make(SHORT), make(SHORT, fold=fold), make(SHORT, fold=fold)
    for trainer in (first, other, again):
        trainer.initialize()
    weights = [next(t.network.parameters()) for t in (first, other, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_without_a_seed_runs_differ(dataset: Path) -> None:
    assert not _same(_train(), _train())


def test_generators_are_as_if_nothing_had_happened() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    seeding.seed_everything(3)
    expected = [draw(), draw()]
    seeding.seed_everything(3)
    first = draw()
    with seeding.seeded_by(1, 2):
        inner = draw()
    assert [first, draw()] == expected
    with seeding.seeded_by(1, 2):
        assert draw() == inner
    with seeding.seeded_by(1, 3):
        assert draw() != inner


def test_states_survive_a_file(tmp_path: Path) -> None:
    torch.save(seeding.random_state(), tmp_path / "state.pth")
    expected = [random.random(), np.random.rand(), torch.rand(1).item()]
    seeding.set_random_state(torch.load(tmp_path / "state.pth", weights_only=False))
    assert [random.random(), np.random.rand(), torch.rand(1).item()] == expected


@pytest.mark.parametrize("text", ["-1", "1.5", "seven", str(2**32)])
def test_what_is_no_seed_is_refused(folders: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("nnUNet_mamba_seed", text)
    with pytest.raises(ValueError, match=f"nnUNet_mamba_seed={text}; expected a whole number between 0 and 4294967295"):
        make(SHORT)
    assert not list(folders.iterdir())


def test_every_batch_has_its_own_number() -> None:
    """Whatever the number of workers, batch n of a stream is made once."""
    for workers in (1, 2, 5):
        stream = Numbering(0, 0, (10, 3), (workers, 1)).next_stream()
        made = {stream.of_batch(worker, n) for worker in range(workers) for n in range(4)}
        assert {numbers[-1] for numbers in made} == set(range(10, 10 + 4 * workers))
    streams = Numbering(0, 0, (0, 0), (1, 1))
    assert streams.next_stream().of_batch(0, 0) != streams.next_stream().of_batch(0, 0)
    assert Numbering(0, 1, (0, 0), (1, 1)).next_stream().of_batch(0, 0) != (0, 0, 0, 0)
