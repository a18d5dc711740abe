"""Export mode: while it is on, the operators are written out in torch's own, so that others' runtimes know them all.

    with exporting():
        program = torch.export.export(network, (image,), strict=False)

A custom op would be in the exported program under our name, which nothing but this package can run. Written out, a scan
is matrix products and sums over blocks of its sequence; over the blocks runs torch's own loop, which ONNX has too
(Scan). Results are those of the backends but for rounding. Not safe with several threads: the mode is the process's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_on = False


@contextmanager
def exporting() -> Iterator[None]:
    """The operators that are called inside are written out; `backend` makes no difference to them."""
    global _on
    before, _on = _on, True
    try:
        yield
    finally:
        _on = before


def is_exporting() -> bool:
    """Whether operators write themselves out"""
    return _on


def over_blocks(step: Callable[..., tuple[Tensor, Tensor]], state: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """blocks (c ...) -> results (c ...) of step(state, one block of each) -> the next block's state, result"""
    if len(blocks[0]) > 1 and torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan  # of torch 2.10 and later in this form

        # it wants the next state laid out as the one before
        return scan(lambda carried, block: step(carried, *block), state, tuple(x.contiguous() for x in blocks))[1]
    results = []
    for block in zip(*(x.unbind() for x in blocks), strict=True):
        state, result = step(state, *block)
        results.append(result)
    return torch.stack(results)
