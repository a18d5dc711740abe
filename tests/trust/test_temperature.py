"""A known temperature is found again, and the calibration error is what its definition says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_mamba.trust import temperature
from nnunet_mamba.trust.temperature import Voxels


def _cases(true: float, regions: bool = False, models: int = 1, cases: int = 6, voxels: int = 3000) -> list[Voxels]:
    """Truths drawn from the probabilities at the true temperature"""
    random, found = np.random.default_rng(0), []
    for _ in range(cases):
        logits = np.repeat(random.normal(0, 3, (1, voxels, 3)), models, 0).astype(np.float16)
        p = temperature.probabilities(Voxels(logits, np.zeros((voxels, 3) if regions else voxels)), true)
        if regions:
            truth = random.uniform(size=p.shape) < p
        else:
            truth = (random.uniform(size=(voxels, 1)) > p.cumsum(1)).sum(1).clip(max=2)
        found.append(Voxels(logits, truth))
    return found


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(true: float, regions: bool) -> None:
    cases = _cases(true, regions)
    assert temperature.fit(cases) == pytest.approx(true, rel=0.05)
    found = temperature.calibrate(cases, ["0"] * 3 + ["1"] * 3)
    assert found.temperature == pytest.approx(true, rel=0.05)
    assert found.after < 0.02
    assert found.is_certain == (true != 1.0)
    if true != 1.0:
        assert found.before > 5 * found.after
        assert found.low <= found.gain <= found.high


def test_models_that_agree_are_one_model() -> None:
    assert temperature.fit(_cases(2.0, models=3)) == pytest.approx(temperature.fit(_cases(2.0)), rel=1e-3)


def test_error_by_hand() -> None:
    """Three voxels sure at 0.9 of which one is right; one at 0.6 that is right."""
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])[None]
    bins = temperature.in_bins(Voxels(logits, np.array([0, 1, 0, 0])), 1.0)
    assert bins[0].sum() == 4
    assert temperature.error(bins) == pytest.approx(3 / 4 * abs(0.9 - 1 / 3) + 1 / 4 * abs(0.6 - 1))


def test_each_region_counts() -> None:
    logits = np.array([[[0.0, math.log(9)]]])
    bins = temperature.in_bins(Voxels(logits, np.array([[False, True]])), 1.0)
    assert bins.sum(1) == pytest.approx([2, 0.5 + 0.9, 2])


def test_nothing_to_fit() -> None:
    empty = Voxels(np.zeros((1, 0, 3), np.float16), np.zeros(0, np.int16))
    with pytest.raises(ValueError, match="no voxel of foreground"):
        temperature.fit([empty, empty])
    with pytest.raises(ValueError, match="1 case: a temperature is judged on cases"):
        temperature.calibrate(_cases(1.0, cases=1), ["part 0"])
    found = temperature.calibrate([*_cases(2.0, cases=3), empty], ["0", "0", "1", "1"])
    assert np.isfinite([found.before, found.after, found.low, found.high]).all()
