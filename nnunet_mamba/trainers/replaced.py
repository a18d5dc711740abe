"""Change attributes for the length of a `with` block: how nnU-Net's own methods are guided without a copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = object()


@contextmanager
def replaced(target: Any, **attributes: Any) -> Iterator[None]:
    """Set attributes of an object or module, and put back what was there, nothing included."""
    before = {name: vars(target).get(name, _MISSING) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                delattr(target, name)
            else:
                setattr(target, name, value)
