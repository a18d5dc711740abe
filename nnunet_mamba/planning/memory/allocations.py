"""What a piece of code has allocated, from moment to moment, counted on tensors without memory."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nnunet_mamba.ops.workspace import Workspace, of_call


class Allocations(TorchDispatchMode):
    """Counts the bytes of all living tensors; use inside FakeTensorMode, which makes them cost nothing.

    `totals`: the bytes after every allocation and every release. A tensor is released when nobody holds it any more:
    not the code, and not autograd for the backward pass. `workspaces`: what calls of our own operators held on top
    of the tensors, by the index in `totals` of the bytes at that time.
    """

    def __init__(self, device: str, granularity: int = 1):
        super().__init__()
        self.totals: list[int] = []
        self.workspaces: dict[int, Workspace] = {}
        self._device, self._granularity = device, granularity
        self._live, self._is_over = 0, False
        self._known: dict[int, weakref.ref] = {}

    @property
    def peak(self) -> int:
        with_workspace = (self.totals[i] + w.bytes(w.batch, w.length) for i, w in self.workspaces.items())
        return max((*self.totals, *with_workspace), default=0)

    def restart(self) -> None:
        """Forget the past; what is alive stays counted."""
        self.totals, self.workspaces = [self._live], {}

    def __exit__(self, *raised: Any) -> None:
        self._is_over = True  # what is released later, when the network goes, is not part of it
        super().__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(result)
        workspace = of_call(func._schema.name, args, self._device)
        if workspace is not None:
            self.workspaces[len(self.totals)] = workspace
            self.totals.append(self._live)
        return result

    def count(self, tensors: Any) -> None:
        """Count tensors (in any nesting) that were made elsewhere."""
        for tensor in tree_iter(tensors):
            if isinstance(tensor, Tensor):
                self._count_storage(tensor.untyped_storage())

    def _count_storage(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self._granularity) * self._granularity

        def released(_: object) -> None:
            del self._known[key]
            self._change(-size)

        self._known[key] = weakref.ref(storage, released)
        self._change(size)

    def _change(self, size: int) -> None:
        self._live += size
        if not self._is_over:
            self.totals.append(self._live)
