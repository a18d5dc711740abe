"""What is refused before a training, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_mamba.plan_checks import check_configuration, check_labels, has_regions

GOOD = {"patch_size": [16, 16, 16], "spacing": [1.0, 0.5, 0.5], "batch_size": 2}


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "a": 1}, None),
        ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}, [1, 2, 3]),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2]),
    ],
)
def test_good_labels(labels: dict[str, Any], order: list[int] | None) -> None:
    check_labels(labels, order)


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({"a": 1}, None, 'need "background": 0'),
        ({"background": 1, "a": 0}, None, 'need "background": 0'),
        ({"background": 0}, None, "name no foreground"),
        ({"background": 0, "a": 2}, None, r"\[1\] missing. Renumber .* to 0..1"),
        ({"background": 0, "a": "1"}, None, "label \"a\" is '1'"),
        ({"background": 0, "a": -1}, None, "expected a number >= 0"),
        ({"background": 0, "a": True}, None, "expected a number >= 0"),
        ({"background": 0, "a": []}, None, "expected a number >= 0"),
        ({"background": 0, "ignore": 1, "a": 2}, None, '"ignore" is 1; .*highest value, 2'),
        ({"background": 0, "whole": [1, 2], "core": 2}, [1], "2 entries .*given: \\[1\\]"),
    ],
)
def test_bad_labels(labels: dict[str, Any], order: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels, order)


def test_a_list_of_one_value_is_no_region() -> None:
    assert not has_regions({"background": 0, "a": [1], "b": 2})
    assert has_regions({"background": 0, "a": [1, 2]})


def test_good_configuration() -> None:
    check_configuration("3d_fullres", GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [16, 16]}, "same 2 or 3 entries"),
        ({"patch_size": [16, 16, 0]}, "whole numbers >= 1"),
        ({"patch_size": [16, 16, 8.5]}, "whole numbers >= 1"),
        ({"spacing": [1.0, -1.0, 1.0]}, "numbers > 0"),
        ({"spacing": [1.0, float("nan"), 1.0]}, "numbers > 0"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_bad_configuration(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"configuration 3d_fullres: .*{message}"):
        check_configuration("3d_fullres", {**GOOD, **changes})
