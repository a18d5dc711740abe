"""Our trainers by name: `from nnunet_mamba.trainers import nnUNetTrainerSegMamba_AdamW_5epochs`.

One for every network, its twin and the stock trainer, with any suffixes; made when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_mamba.names import classes, networks, suffixes
from nnunet_mamba.names.locate import STOCK_TRAINER

if TYPE_CHECKING:
    from nnunet_mamba.trainers.safe import SafeTrainer


def __getattr__(name: str) -> type[SafeTrainer]:
    return classes.attribute(__name__, name, _make)


def __dir__() -> list[str]:
    return sorted({*globals(), *networks.trainers()})


def _make(name: str) -> type[SafeTrainer]:
    from nnunet_mamba.trainers import base, safe, suffixed

    parts = suffixes.parse(name)
    if parts is None:
        record = next(kind for kind in networks.with_twins() if kind.trainer == name)
        return type(name, (base.nnUNetTrainerMamba,), {"mamba_network": record, "__doc__": record.summary})
    unchanged = safe.SafeTrainer if parts.base == STOCK_TRAINER else __getattr__(parts.base)
    return suffixed.with_suffixes(unchanged, parts)
