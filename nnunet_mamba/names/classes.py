"""Classes that follow from their names: nobody writes them down, a module has them as soon as it is asked for one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from nnunet_mamba.names.locate import locate

T = TypeVar("T")


def attribute(module: str, name: str, make: Callable[[str], type[T]]) -> type[T]:
    """What the `__getattr__` of `module` answers: the class of this name, made once and kept there.

    So it pickles by reference, and the name in a checkpoint finds it again. Raises AttributeError for a name that
    `locate` does not place in this module; nothing is made then.
    """
    if locate(name) != f"{module}:{name}":
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    made = make(name)
    made.__module__ = module
    return vars(sys.modules[module]).setdefault(name, made)
