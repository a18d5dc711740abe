"""Folds that keep patients together and strata balanced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dataset_conversion.declare import Case

FOLDS, SEED = 5, 12345


def folds(cases: Sequence[Case], n: int = FOLDS, seed: int = SEED) -> list[dict[str, list[str]]]:
    """nnU-Net's splits: every case once in "val", all cases of a patient in the same fold, strata dealt out evenly.

    With fewer patients than n as many folds as patients; none for a single patient. Independent of the cases' order.
    """
    patients: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        patients[case.patient or case.id].append(case)
    n = min(n, len(patients))
    if n < 2:
        return []
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, own in patients.items():
        strata[min(case.stratum for case in own)].append(patient)
    random = np.random.default_rng(seed)
    fold_of, dealt = {}, 0
    for stratum in sorted(strata):
        members = sorted(strata[stratum])
        for patient in (members[i] for i in random.permutation(len(members))):
            fold_of[patient] = dealt % n
            dealt += 1
    names = sorted((case.id, fold_of[case.patient or case.id]) for case in cases)
    return [
        {"train": [i for i, fold in names if fold != k], "val": [i for i, fold in names if fold == k]} for k in range(n)
    ]


def named(cases: Sequence[Case], validation: Sequence[str]) -> list[dict[str, list[str]]]:
    """One fold with these cases, as far as they are there, for validation."""
    chosen = set(validation)
    ids = sorted(case.id for case in cases)
    return [{"train": [i for i in ids if i not in chosen], "val": [i for i in ids if i in chosen]}]
