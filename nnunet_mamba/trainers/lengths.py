"""Training lengths as name suffixes: `nnUNetTrainerSegMamba_5epochs`, `nnUNetTrainerSegMamba_5epochs_20its`.

Classes are made when asked for, as attributes of this module, so that they pickle by reference and a checkpoint's
trainer name finds them again. `_20its` sets the training iterations per epoch (nnU-Net: 250), validation gets a tenth.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import registry
from nnunet_mamba.trainers import networks

VALIDATION_SHARE = 10
CHECKPOINTS_PER_TRAINING = 20


def __getattr__(name: str) -> Any:
    length = registry.parse_length(name)
    if length is None or registry.locate(name) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = nnUNetTrainer if length.base == registry.STOCK_TRAINER else getattr(networks, length.base)
    made = _make(name, base, length)
    globals()[name] = made
    return made


def _make(name: str, base: type[nnUNetTrainer], length: registry.Length) -> type[nnUNetTrainer]:
    class Timed(base):  # type: ignore[valid-type, misc]
        def __init__(
            self,
            plans: dict,
            configuration: str,
            fold: int,
            dataset_json: dict,
            device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net reads this signature
        ):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs = length.epochs
            # a short training is worth continuing too
            self.save_every = min(self.save_every, max(1, length.epochs // CHECKPOINTS_PER_TRAINING))
            if length.iterations is not None:
                self.num_iterations_per_epoch = length.iterations
                self.num_val_iterations_per_epoch = max(1, length.iterations // VALIDATION_SHARE)

    Timed.__name__ = Timed.__qualname__ = name
    return Timed
