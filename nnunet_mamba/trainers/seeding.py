"""One number that decides everything random in a training: `nnUNet_mamba_seed=N`.

Batches are numbered, and the random numbers of each come from the seed and its number: whichever worker makes it, and
in a training that was interrupted, batch 1000 is the same.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

VARIABLE = "nnUNet_mamba_seed"
LARGEST = 2**32 - 1


def wanted_seed() -> int | None:
    """The environment variable's. Raises ValueError for what is not a seed."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) > LARGEST:
        raise ValueError(f"{VARIABLE}={text}; expected a whole number between 0 and {LARGEST}")
    return int(text)


def of_fold(seed: int, fold: int | str) -> int:
    """What a fold's training is seeded with, so that a cross-validation of one seed is several draws of luck, not one.

    fold: a number from 0, or "all".
    """
    number = 0 if isinstance(fold, str) else 1 + fold
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch on all devices, and the deterministic kind of torch's operations where there are two."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)


def random_state() -> dict[str, Any]:
    """Of all generators, as plain data for a checkpoint."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(),
            "cuda": devices}  # fmt: skip


def set_random_state(state: dict[str, Any]) -> None:
    """The other way: everything goes on as if it had not been interrupted"""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


@contextmanager
def seeded_by(*numbers: int) -> Iterator[None]:
    """Random numbers that depend on these numbers only, and the generators afterwards as if nothing had happened.

    For code on the CPU: batches are made there.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = (int(n) for n in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
