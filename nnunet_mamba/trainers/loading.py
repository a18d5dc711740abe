"""nnU-Net's data loader that also tells where its patches come from, and can make the same batches again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_mamba.trainers.seeding import seeded_by

PATCHES = "patches"
CACHED_PER_WORKER = 2


class TracedDataLoader(nnUNetDataLoader):
    """Batches have `patches`: for every sample the first voxel of its patch in the preprocessed case, x y z as there.

    With a numbering the batches are repeatable.
    """

    def __init__(self, *args: Any, numbering: Numbering | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._corners: list[list[int]] = []
        self._source = None if numbering is None else numbering.next_stream()
        self._made = 0

    def set_thread_id(self, thread_id: int) -> None:
        """Called in a worker before its first batch. One thread each: a forked process has none of its parent's, and
        torch's matrix product would wait for them."""
        super().set_thread_id(thread_id)
        torch.set_num_threads(1)

    def get_bbox(self, *args: Any, **kwargs: Any) -> Any:
        lower, upper = super().get_bbox(*args, **kwargs)
        self._corners.append([int(v) for v in lower])
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        self._corners = []
        if self._source is None:
            batch = super().generate_train_batch()
        else:
            with seeded_by(*self._source.of_batch(self.thread_id, self._made)):
                batch = super().generate_train_batch()
            self._made += 1
        batch[PATCHES] = self._corners
        return batch


class Numbering:
    """Which batch a worker makes next: worker t of w makes t, t + w, t + 2 w and so on.

    The loaders made first and second are those of training and validation.
    """

    def __init__(self, seed: int, rank: int, starts: Sequence[int], workers: Sequence[int]):
        self.seed, self.rank, self.starts, self.workers = seed, rank, starts, workers
        self._streams = 0

    def next_stream(self) -> Stream:
        self._streams += 1
        return Stream(self, self._streams - 1)


class Stream:
    """The batches of training (0) or validation (1)."""

    def __init__(self, numbering: Numbering, index: int):
        self.numbering, self.index = numbering, index

    def of_batch(self, worker: int, made: int) -> tuple[int, ...]:
        """What decides a batch: seed, stream, rank, number."""
        n = self.numbering
        return n.seed, self.index, n.rank, n.starts[self.index] + worker + made * n.workers[self.index]


def in_order(data_loader: Any, transform: Any, num_processes: int, pin_memory: bool = False, wait_time: float = 0.02,
             **_: Any) -> MultiThreadedAugmenter:  # fmt: skip
    """Called like nnU-Net's NonDetMultiThreadedAugmenter; hands out the workers' batches in turn instead of as they
    come, which is what makes several workers repeatable."""
    return MultiThreadedAugmenter(
        data_loader, transform, num_processes, CACHED_PER_WORKER, None, pin_memory, wait_time=wait_time
    )


def where_from(batch: Mapping[str, Any]) -> str:
    """Case names with the first voxels of their patches, for people."""
    keys = batch.get("keys", [])
    corners = batch.get(PATCHES) or [None] * len(keys)
    named = (str(k) if c is None else f"{k} from voxel {tuple(c)}" for k, c in zip(keys, corners, strict=True))
    return ", ".join(named) or "unknown cases"
