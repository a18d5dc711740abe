"""The released form: which sizes it takes, and that the plan-sized form computes the same on the same plan."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_mamba.architectures.segmamba import SegMamba
from nnunet_mamba.architectures.segmamba_released import ReleasedSegMamba, plan_sized_key, to_plan_sized

TINY = {"depths": (1, 2, 1, 1), "feat_size": (4, 8, 8, 16), "hidden_size": 16}
ACCEPTED = [(32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 128), (16, 32, 64), (16, 64, 64), (128, 128, 64),
            (224, 224, 96), (112, 160, 128), (96, 160, 160)]  # fmt: skip
REFUSED = [(16, 16, 16), (48, 48, 48), (80, 80, 80), (112, 112, 112), (48, 32, 32), (80, 96, 80), (48, 96, 80),
           (80, 160, 160)]  # fmt: skip
NOT_BY_16 = [(40, 224, 192), (32, 32, 40), (8, 16, 16)]


def test_plan_sized_network_computes_the_same_function() -> None:
    released = ReleasedSegMamba(2, 3, nslices="auto", **TINY).double()
    planned = SegMamba(
        2, 3, 5, [4, 8, 8, 16, 16], nn.Conv3d, 3, [1, 2, 2, 2, 2], depths=[1, 2, 1, 1], deep_supervision=True
    ).double()
    result = planned.load_state_dict(to_plan_sized(released.state_dict()), strict=False)
    assert not result.unexpected_keys
    assert {key.rsplit(".", 1)[0] for key in result.missing_keys} == {f"decoder.seg_layers.{i}" for i in range(3)}
    x = torch.randn(1, 2, 32, 48, 16).double()
    assert torch.equal(planned(x)[0], released(x))


def test_every_released_key_has_its_own_place() -> None:
    keys = list(ReleasedSegMamba(1, 1, **TINY).state_dict())
    assert len({plan_sized_key(key) for key in keys}) == len(keys)
    with pytest.raises(ValueError, match="is not a parameter of the released SegMamba"):
        plan_sized_key("vit.unknown.weight")


@pytest.mark.parametrize("size", ACCEPTED, ids=str)
def test_sizes_the_release_takes(size: tuple[int, ...]) -> None:
    ReleasedSegMamba(1, 1, **TINY).check_size(size)


@pytest.mark.parametrize("size", REFUSED, ids=str)
def test_sizes_the_fixed_slices_refuse_run_with_auto(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'not divisible by nslices=.*use nslices="auto"'):
        ReleasedSegMamba(1, 1, **TINY).check_size(size)
    ReleasedSegMamba(1, 1, nslices="auto", **TINY).check_size(size)


@pytest.mark.parametrize("size", NOT_BY_16, ids=str)
def test_sizes_the_topology_refuses(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="every axis must be divisible by 16"):
        ReleasedSegMamba(1, 1, nslices="auto", **TINY).check_size(size)


def test_auto_slices_equal_the_release_at_depth_128() -> None:
    assert [128 // 2 ** (stage + 1) for stage in range(4)] == list(ReleasedSegMamba(1, 1, **TINY).nslices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"nslices": "all"}, "nslices='all'"), ({"nslices": (1, 2)}, r"nslices=\(1, 2\)"), ({"depths": (1,)}, "depths")],
)
def test_wrong_keywords(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReleasedSegMamba(1, 1, **{**TINY, **changes})
