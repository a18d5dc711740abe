"""torch.compile, nnU-Net's default on a GPU: no graph breaks, and nothing compiled again from epoch to epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from nnunet_mamba.names import networks
from tests.trainers.tiny import make, without_pictures

TRAINERS = [(record.trainer, "eager") for record in networks.NETWORKS]
TRAINERS += [("nnUNetTrainerSegMamba", "aot_eager"), ("nnUNetTrainerSegMambaNoMamba", "aot_eager")]


@pytest.mark.parametrize(("name", "backend"), TRAINERS)
def test_one_graph_to_train_and_one_to_validate(
    dataset: Any, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    trainer = without_pictures(make(f"{name}_3epochs_2its"))
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: plain(model, backend=backend))
    trainer._do_i_compile = lambda: True  # nnU-Net compiles on GPUs only: the network and its Dice

    torch._dynamo.reset()
    counters.clear()
    graphs: list[int] = []
    finish = trainer.on_epoch_end

    def count() -> None:
        finish()
        graphs.append(counters["stats"]["unique_graphs"])

    trainer.on_epoch_end = count
    trainer.run_training()
    assert counters["graph_break"] == Counter()
    assert graphs == [graphs[0]] * 3, "compiled again after the first epoch"
    assert graphs[0] == 4  # network and Dice, with gradients and without
