"""Our names in nnU-Net's class lookup; everything else goes to nnU-Net unchanged."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from nnunet_mamba.names.locate import locate, refuse_misspelt

FUNCTION = "recursive_find_python_class"
EXPECTED_PARAMETERS = ["folder", "class_name"]
SECOND_WAY = Path(__file__).parent / "ext_trainer"


def load(place: str) -> type:
    """The class at "module:attribute"."""
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def wrap_lookup(module: ModuleType) -> None:
    """Wrap the lookup function of nnU-Net's module, also where other modules of nnU-Net have imported it by name."""
    original = getattr(module, FUNCTION, None)
    if getattr(original, "knows_nnunet_mamba", False):
        return
    if original is None or list(inspect.signature(original).parameters)[:2] != EXPECTED_PARAMETERS:
        warnings.warn(
            f"nnunet_mamba: this nnU-Net has no {FUNCTION}(folder, class_name, ...) in {module.__name__}, so it cannot "
            f"find our trainers by itself. Set nnUNet_extTrainer={SECOND_WAY} instead, or install nnunetv2 2.8",
            stacklevel=2,
        )
        return
    wrapped = _with_our_names(original)
    for other in [module, *(m for name, m in list(sys.modules.items()) if name.startswith("nnunetv2.") and m)]:
        if getattr(other, FUNCTION, None) is original:
            setattr(other, FUNCTION, wrapped)


def _with_our_names(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def recursive_find_python_class(folder: str, class_name: str, *args: Any, **kwargs: Any) -> Any:
        place = locate(class_name)
        if place is not None:
            return load(place)
        refuse_misspelt(folder, class_name)
        return original(folder, class_name, *args, **kwargs)

    recursive_find_python_class.knows_nnunet_mamba = True  # type: ignore[attr-defined]
    return recursive_find_python_class
