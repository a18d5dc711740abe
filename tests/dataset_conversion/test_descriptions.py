"""Descriptions of `convert generic` are checked with nnU-Net's rules before a file of the download is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from dataset_conversion.command import main
from dataset_conversion.labels import check_labels, misleading_order
from tests.dataset_conversion.trees import described, generic_tree

BRAIN = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
WRONG = {
    "negative id": ({"id": -5}, "id -5; expected a whole number from 1 to 999"),
    "id 0": ({"id": 0}, "id 0; expected a whole number from 1 to 999"),
    "id 1000": ({"id": 1000}, "id 1000; expected a whole number from 1 to 999"),
    "huge id": ({"id": 10**30}, "expected a whole number from 1 to 999"),
    "id as text": ({"id": "530"}, "id '530'"),
    "id true": ({"id": True}, "id True"),
    "fractional id": ({"id": 1.5}, "id 1.5"),
    "name with a newline": ({"name": "X\n"}, "name 'X\\n'; expected letters and digits only"),
    "name that is a number": ({"name": 5}, "name 5"),
    "endless name": ({"name": "a" * 240}, "at most 100"),
    "gap in labels": ({"labels": {"background": 0, "a": 1, "b": 5}}, "[0, 1, 5] are not consecutive, [2, 3, 4] miss"),
    "no foreground": ({"labels": {"background": 0}}, "only background"),
    "label without name": ({"labels": {"background": 0, "": 1}}, "labels: '' is not a name"),
    "label beyond uint8": ({"labels": {"background": 0, "a": 300}}, "a is 300; expected a whole number from 0 to 255"),
    "negative label": ({"labels": {"background": 0, "a": -1}}, "a is -1"),
    "fractional label": ({"labels": {"background": 0, "a": 1.5}}, "a is 1.5"),
    "label true": ({"labels": {"background": 0, "a": True}}, "a is True"),
    "label null": ({"labels": {"background": 0, "a": [None]}}, "a is [None]"),
    "empty region": ({"labels": {"background": 0, "a": []}}, "a is []"),
    "nested region": ({"labels": {"background": 0, "a": [[1]]}}, "a is [[1]]"),
    "labels a list": ({"labels": ["background", "a"]}, "expected an object of names and values"),
    "labels null": ({"labels": 0}, "labels 0; expected an object"),
    "background elsewhere": ({"labels": {"background": 1, "a": 0}}, "background must be there and 0"),
    "background a list": ({"labels": {"background": [0], "a": 1}}, "background must be there and 0"),
    "ignore too low": ({"labels": {"background": 0, "a": 2, "ignore": 1}}, "ignore is 1; it must be one number, the"),
    "ignore a region": ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "ignore is [2, 3]"),
    "short order": ({"labels": BRAIN, "regions_class_order": [2, 1]}, "has 2 values; expected 3, one per region"),
    "order of absent values": ({"labels": BRAIN, "regions_class_order": [2, 1, 9]}, "9 is not a value of its region"),
    "order of text": ({"labels": BRAIN, "regions_class_order": "213"}, "regions_class_order '213'; expected a list"),
    "order without regions": ({"regions_class_order": [1]}, "there are no regions"),
    "map to an absent value": ({"label_map": {"0": 0, "3": 7}}, "label_map: 3 -> 7, which labels lack; they"),
    "map beyond uint8": ({"label_map": {"0": 0, "1": 300}}, "1 -> 300"),
    "map of text": ({"label_map": {"one": 1}}, "label_map: 'one' is not a whole number"),
    "map of fractions": ({"label_map": {"1.5": 1}}, "label_map: '1.5' is not a whole number"),
    "map a list": ({"label_map": [[1, 1]]}, 'expected an object like {"255": 1}'),
    "map twice": ({"label_map": {"1": 1, "01": 0}}, "label_map: a value twice"),
    "images a list": ({"images": ["{case}.nii.gz"]}, "images ['{case}.nii.gz']; expected an object"),
    "no images": ({"images": {}}, "images {}; expected an object"),
    "image null": ({"images": {"CT": None}}, "None has no {case}"),
    "channel without name": ({"images": {"": "{case}.nii.gz"}}, "images: '' is not a name"),
    "channels of one file": ({"images": {"a": "{case}.nii", "b": "{case}.nii"}}, "two channels of the same files"),
    "label is an image": ({"label": "images/{case}.nii.gz"}, "label and an image are the same files"),
    "label a number": ({"label": 5}, "label 5; expected text"),
    "path outside": ({"label": "../{case}.nii.gz"}, "expected a path below -i"),
    "test images null": ({"test_images": 3}, "test_images 3; expected an object"),
    "other test channels": ({"test_images": {"MR": "{case}.nii"}}, "expected the same channels as images"),
    "patient a number": ({"patient": 3}, "patient 3; expected text"),
    "lowest text": ({"lowest": "-1024"}, "lowest '-1024'; expected a number"),
    "lowest NaN": ({"lowest": float("nan")}, "lowest nan; expected a number"),
    "lowest infinite": ({"lowest": float("-inf")}, "lowest -inf; expected a number"),
    "lowest true": ({"lowest": True}, "lowest True"),
    "orientation": ({"orientation": "XYZ"}, "orientation 'XYZ'; expected three letters"),
    "orientation twice": ({"orientation": "LRS"}, "orientation 'LRS'"),
    "licence a list": ({"licence": ["x"]}, "licence ['x']; expected text"),
    "unknown key": ({"labelmap": {}}, "unknown labelmap; allowed: name, images"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused_before_anything_is_read(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = WRONG[what]
    root = generic_tree(tmp_path / "d", 2)
    (root / "images" / "c0.nii.gz").write_bytes(b"not opened")
    description = described(tmp_path / "description", **change)
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe", str(description)]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"convert: --describe {description}: ")
    assert message in told
    assert "c0.nii.gz" not in told
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"name": "A", "name": "B"}', "'name' is in it twice"),
        (b"[]", "expected an object with name, images, label, labels"),
        (b"", "not JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_files_that_are_no_description(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "description.json"
    path.write_bytes(content)
    assert main(["generic", "-i", str(tmp_path), "-o", str(tmp_path / "raw"), "--describe", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Windows' editors and PowerShell write it."""
    root = generic_tree(tmp_path / "in")
    description = described(tmp_path)
    description.write_bytes(b"\xef\xbb\xbf" + description.read_bytes())
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe", str(description)]
    assert main([*command, "--dry-run"]) == 0, capsys.readouterr().err


VALUES = st.integers(0, 4)
LABELS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "ignore"]),
    VALUES | st.lists(VALUES, min_size=1, max_size=3, unique=True),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(LABELS, st.none() | st.lists(VALUES, max_size=4), st.sampled_from([0, 0, 0, 1, [0]]))
def test_labels_are_accepted_as_by_nnunet(labels: dict[str, Any], order: list[int] | None, background: Any) -> None:
    """What is accepted, nnU-Net's label manager and the rule of its integrity check accept too; what is refused, they
    refuse, or it is one of what they let pass: an order that does not fit, no foreground."""
    labels = {"background": background, **labels}
    try:
        manager = LabelManager(labels, order)
        everything = [*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]
        stock = bool(np.all(np.ediff1d(everything) == 1)) and everything[0] == 0
        trainable = bool(manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    except (AssertionError, RuntimeError):
        stock = trainable = False
    try:
        check_labels(labels, order)
        ours, why = True, ""
    except ValueError as error:
        ours, why = False, str(error)
    assert not (ours and not stock)
    if stock and trainable and not ours:
        assert why.startswith("regions_class_order"), why


@settings(max_examples=200, deadline=None)
@given(st.permutations([1, 2, 3]))
def test_orders_that_mislead_are_those_that_paint_other_regions(order: list[int]) -> None:
    manager = LabelManager(BRAIN, order)
    labels = np.arange(4).reshape(1, 1, 4)
    probabilities = np.stack([np.isin(labels, region) for region in manager.foreground_regions]).astype(np.float32)
    painted = manager.convert_probabilities_to_segmentation(probabilities)
    wrong = [
        v for v in (1, 2, 3)
        if any((v in region) != (int(painted[0, 0, v]) in region) for region in ([1, 2, 3], [1, 3], [3]))
    ]  # fmt: skip
    assert misleading_order(BRAIN, order) == wrong
    assert (not wrong) == (order == [2, 1, 3])


def test_an_order_that_misleads_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d", 2)
    for order, warned in (([1, 3, 3], True), ([2, 1, 3], False)):
        description = described(tmp_path / "description", labels=BRAIN, regions_class_order=order)
        command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--dry-run", "--describe", str(description)]
        assert main([*command, "--jobs", "1"]) == 0
        assert ("becomes one of other regions" in capsys.readouterr().out) == warned


def test_a_label_that_nothing_becomes_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d", 2)
    labels = {"background": 0, "tumour": 1, "node": 2}
    description = described(tmp_path / "description", labels=labels, label_map={"0": 0, "1": 1})
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--dry-run", "--describe", str(description)]
    assert main([*command, "--jobs", "1"]) == 0
    assert "label_map: nothing becomes 2" in capsys.readouterr().out


def test_a_label_without_image_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = generic_tree(tmp_path / "d", 3)
    (root / "images" / "c2.nii.gz").unlink()
    description = described(tmp_path / "description")
    command = ["generic", "-i", str(root), "-o", str(tmp_path / "raw"), "--jobs", "1", "--describe", str(description)]
    assert main(command) == 2
    assert f"c2: {root / 'labels' / 'c2.nii.gz'}: a label without image" in capsys.readouterr().err
    assert main([*command, "--skip-incomplete"]) == 0
    assert (
        json.loads((tmp_path / "raw" / "Dataset530_Trial" / "dataset.json").read_text(encoding="utf-8"))["numTraining"]
        == 2
    )
