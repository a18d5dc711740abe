"""For nnU-Net's own `nnUNet_extTrainer`: a folder whose one file offers all our trainers, should the hook not work."""

from typing import Any

from nnunet_mamba.discovery.resolve import load
from nnunet_mamba.names.locate import locate


def __getattr__(name: str) -> Any:
    place = locate(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load(place)
