"""Invented datasets: what is near does not tell the answer, what is far does, and nnU-Net takes them."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing.dummy
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning import verify_dataset_integrity as verify
from scipy.ndimage import distance_transform_cdt
from scipy.ndimage import label as components
from sklearn.linear_model import LogisticRegression

from dataset_conversion import probe
from dataset_conversion.command import main
from dataset_conversion.far_marker import DIVISOR, FarMarker
from dataset_conversion.phantom import BACKGROUND, CURVE, LANDMARK, noisy, random_of
from dataset_conversion.thin_tree import ThinTree
from nnunet_mamba.nnunet_folders import Dataset
from tests.dataset_conversion.trees import hashes

SEEDS = st.integers(0, 2**32 - 1)
ALL_AROUND = np.ones((3, 3, 3))
FAR = st.builds(
    FarMarker, st.integers(8, 240), st.integers(0, 2), st.none() | st.integers(0, 60), st.integers(16, 32)
)  # fmt: skip


def _along(task: FarMarker, array: np.ndarray) -> np.ndarray:
    """With the line's axis first"""
    return np.moveaxis(array, task.axis, 0)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run along the first axis that has any voxel"""
    there = np.flatnonzero(np.diff(np.concatenate([[0], mask.any((1, 2)).astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(there[::2], there[1::2], strict=True)]


def _told_by_markers(contrast: np.ndarray, axis: int) -> np.ndarray:
    """The target, from the image alone: of the tubes the one nearer to the marker that is in one piece"""
    volume = np.moveaxis(contrast, axis, 0)
    (whole,) = (run for run in _runs(volume == LANDMARK) if components(volume[run[0]] == LANDMARK)[1] == 1)
    tubes = _runs(volume == CURVE)
    near = min(tubes, key=lambda run: abs(run[0] - whole[0]))
    target = np.zeros(volume.shape, np.uint8)
    target[near[0] : near[1] + 1] = volume[near[0] : near[1] + 1] == CURVE
    return np.moveaxis(target, 0, axis)


# --- far-marker ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(FAR, SEEDS, st.integers(0, 50))
def test_tubes_and_markers_are_where_they_should_be(task: FarMarker, seed: int, number: int) -> None:
    contrast, label = task.shapes(random_of(seed, 0, number), number)
    assert contrast.shape == label.shape == task.shape
    assert task.shape[task.axis] % DIVISOR == 0
    volume, target = _along(task, contrast), _along(task, label)
    (a, b), (c, d) = _runs(volume == LANDMARK)
    (e, f), (g, h) = _runs(volume == CURVE)
    assert e - b - 1 == c - h - 1 == task.distance
    assert d - a + 1 == task.extent
    assert min(a, len(volume) - 1 - d) >= task.beyond
    assert np.array_equal(volume[e : f + 1], volume[g : h + 1]), "equal tubes"
    assert (volume[a] > 0).sum() == (volume[d] > 0).sum() == (volume[e] > 0).sum(), "as many voxels"
    assert {components(volume[n] > 0)[1] for n in (a, d)} == {1, 2}
    assert _runs(target > 0) == ([(e, f)] if number % 2 == 0 else [(g, h)])
    sides = [side for axis in (1, 2) for side in (volume.take(0, axis), volume.take(-1, axis))]
    assert not any(side.any() for side in sides), "nothing is cut off"


@settings(max_examples=30, deadline=None)
@given(FAR, SEEDS, st.integers(0, 1), st.lists(st.sampled_from([0, 1, 2]), unique=True))
def test_markers_tell_the_target_in_every_mirror(task: FarMarker, seed: int, number: int, axes: list[int]) -> None:
    contrast, label = (np.flip(a, axes) for a in task.shapes(random_of(seed, 0, number), number))
    assert np.array_equal(_told_by_markers(contrast, task.axis), label)


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 60), st.integers(0, 2), SEEDS)
def test_all_that_is_shorter_than_the_distance_occurs_in_both_answers_alike(
    distance: int, axis: int, seed: int
) -> None:
    """Windows of whole cross-sections, counted over the volume, and over what lies beyond its borders"""
    task = FarMarker(distance, axis)
    ids: dict[bytes, int] = {}

    def windows(number: int, size: int) -> Counter[tuple[int, ...]]:
        volume = _along(task, task.shapes(random_of(seed, 0, 0), number)[0])
        row = [ids.setdefault(s.tobytes(), len(ids)) for s in volume]
        row = [-1] * size + row + [-1] * size
        return Counter(tuple(row[i : i + size]) for i in range(len(row) - size + 1))

    for size in (1, distance // 2, distance, distance + 1):
        assert windows(0, size) == windows(1, size)
    assert windows(0, distance + 2) != windows(1, distance + 2), "a tube and its marker are in one window"


@given(st.integers(1, 15))
def test_strides_tell_no_side_at_multiples_of_16(times: int) -> None:
    task = FarMarker(16 * times)
    (a, _), (c, _) = _runs(task.shapes(random_of(0, 0, 0), 0)[0] == LANDMARK)
    assert (c - a) % 32 == 0


def test_a_tube_does_not_tell_whether_it_is_the_target() -> None:
    """300 cases: nothing that can be measured on a tube or on the volume helps, the marker on its side does."""
    task = FarMarker(8)
    local, kinds, truths = [], [], []
    for number in range(300):
        image, label = task.draw(random_of(5, 0, number), number)
        (a, _), _ = _runs(task.shapes(random_of(5, 0, number), number)[0] == LANDMARK)
        disc = np.argwhere(task.shapes(random_of(5, 0, number), number)[0][a + 6 + task.distance] > 0)
        for first, marker in ((a + 14, a), (a + 30, a + 48)):
            near = image[first - 3 : first + 13]  # with what is around it
            tube = near[3:13][:, disc[:, 0], disc[:, 1]]
            local.append([first, *disc.mean(0), first == a + 14, image.mean(), image.std(), near.mean(), near.std(),
                          *np.quantile(near, (0.05, 0.5, 0.95, 0.99)), tube.mean(), tube.std(), tube.min(), tube.max(),
                          *tube.mean(1)])  # fmt: skip
            kinds.append([components(image[marker : marker + 6].mean(0) > BACKGROUND + 100)[1]])
            truths.append(label[first].any())
    x, y = np.array(local, float), np.array(truths)
    x = (x - x.mean(0)) / x.std(0)
    half = len(y) // 2
    model = LogisticRegression(C=0.1).fit(x[:half], y[:half])
    nearest = _nearest_mean(x[:half], y[:half], x[half:])
    for accuracy in (model.score(x[half:], y[half:]), (nearest == y[half:]).mean()):
        assert abs(accuracy - 0.5) < 4 * np.sqrt(0.25 / half)
    assert np.array_equal(np.array(kinds)[:, 0] == 1, y)


def _nearest_mean(x: np.ndarray, y: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    means = [x[y == truth].mean(0) for truth in (False, True)]
    return np.linalg.norm(unseen - means[1], axis=1) < np.linalg.norm(unseen - means[0], axis=1)


# --- thin-tree -----------------------------------------------------------------------------------------------------


@st.composite
def trees(draw: st.DrawFn) -> ThinTree:
    gap, thickness, branches = draw(st.integers(2, 5)), draw(st.integers(1, 2)), draw(st.sampled_from([2, 4, 6]))
    return ThinTree(draw(st.integers(4 * (gap + thickness + 3), 100)), gap, branches, thickness)


@settings(max_examples=25, deadline=None)
@given(trees(), SEEDS)
def test_the_tree_is_what_touches_the_root(task: ThinTree, seed: int) -> None:
    contrast, label, number = task.shapes(random_of(seed, 0, 0))
    assert contrast.shape == label.shape == task.shape
    root = contrast == LANDMARK
    parts, count = components(contrast > 0, ALL_AROUND)
    (own,) = np.unique(parts[root])
    assert np.array_equal(label > 0, (parts == own) & ~root)
    assert count == 1 + task.branches // 2, "every fragment is one piece"
    assert components(root | (label > 0))[1] == 1, "joined by faces of voxels"
    fragments = (contrast > 0) & (parts != own)
    free = distance_transform_cdt(~(root | (label > 0)), "chessboard")[fragments].min() - 1
    assert free >= task.gap
    to_root = distance_transform_cdt(~root, "chessboard") - 1
    for k in range(1, task.branches + 1):
        is_tree = bool(label[number == k].all())
        assert is_tree == bool(label[number == k].any())
        assert is_tree == (to_root[number == k].min() == 0)
        assert components((number == k) | root)[1] == (1 if is_tree else 2)


def test_a_curve_does_not_tell_whether_it_belongs_to_the_tree() -> None:
    """80 cases: length, place, course and intensity of what is not at the root are the same for tree and fragments."""
    task = ThinTree()
    features, gaps, truths = [], [], []
    for case in range(80):
        contrast, label, number = task.shapes(random_of(3, 0, case))
        root = contrast == LANDMARK
        image = noisy(random_of(4, 0, case), contrast)
        to_root = distance_transform_cdt(~root, "chessboard")
        for k in range(1, task.branches + 1):
            curve = (number == k) & (to_root > task.gap + 4)
            places = np.argwhere(curve)
            neighbours = [np.count_nonzero(curve & np.roll(curve, 1, axis)) for axis in range(3)]
            features.append([
                len(places), *places.mean(0), *places.std(0), to_root[curve].mean(), to_root[curve].max(),
                image[curve].mean(), image[curve].std(), *np.array(neighbours) / len(places), *places.min(0),
                *places.max(0),
            ])  # fmt: skip
            gaps.append(to_root[number == k].min() > 1)
            truths.append(label[number == k].any())
    x, y = np.array(features, float), np.array(truths)
    x = (x - x.mean(0)) / x.std(0)
    half = len(y) // 2
    model = LogisticRegression(C=0.1).fit(x[:half], y[:half])
    for accuracy in (model.score(x[half:], y[half:]), (_nearest_mean(x[:half], y[:half], x[half:]) == y[half:]).mean()):
        assert abs(accuracy - 0.5) < 4 * np.sqrt(0.25 / half)
    assert abs(x[y, 0].mean() - x[~y, 0].mean()) < 4 * np.sqrt(2 / half), "as many voxels"
    assert np.array_equal(~np.array(gaps), y)


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        (FarMarker(16, 1), "3a1a467502fedd72"),
        (ThinTree(40, 2, 2), "6371ecf54f282b0e"),
    ],
)
def test_a_case_is_the_same_on_every_machine(task: FarMarker | ThinTree, digest: str) -> None:
    image, label = task.draw(random_of(7, 1, 3), 3)
    assert (image.dtype, label.dtype) == (np.int16, np.uint8)
    made = hashlib.sha256(image.astype("<i2").tobytes() + label.tobytes()).hexdigest()
    assert made[:16] == digest


def test_the_noise_is_as_documented() -> None:
    image = noisy(random_of(0, 0, 0), np.zeros((40, 40, 40), np.uint8))
    assert abs(image.mean() - BACKGROUND) < 0.5
    assert abs(image.std() - 20.2) < 0.2
    assert image.min() > 0


SMALL = {
    "far-marker": ["--distance", "8", "--axis", "2", "--margin", "0", "--width", "16"],
    "thin-tree": ["--length", "28", "--gap", "2", "--branches", "2"],
}


def _command(task: str, raw: Path, *more: str) -> list[str]:
    return ["probe", "--task", task, "-o", str(raw), "--jobs", "1", *SMALL[task], *more]


@pytest.mark.parametrize("task", SMALL)
def test_nnunet_takes_it(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert main(_command(task, tmp_path / "raw", "--cases", "10", "--unseen", "2", "-d", "77")) == 0
    assert not list((tmp_path / "temporary").iterdir())
    (folder,) = (tmp_path / "raw").iterdir()
    monkeypatch.setattr(verify.multiprocessing, "get_context", lambda _: multiprocessing.dummy)  # starts at once
    verify.verify_dataset_integrity(str(folder), 1)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    dataset = Dataset(folder.name)
    assert sorted(p.name for p in dataset.unseen_labels.iterdir()) == [f"unseen_000{k}.nii.gz" for k in (0, 1)]
    assert sorted(p.name for p in dataset.unseen_images.iterdir()) == [f"unseen_000{k}_0000.nii.gz" for k in (0, 1)]
    facts = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    image = sitk.ReadImage(str(dataset.unseen_images / "unseen_0000_0000.nii.gz"))
    assert list(sitk.GetArrayViewFromImage(image).shape) == facts["shape"]
    assert image.GetSpacing() == (1, 1, 1)
    drawn = probe.task_of({**facts, "shape": None}).draw(random_of(0, 1, 1), 1)
    for path, array in zip(
        (dataset.unseen_images / "unseen_0001_0000.nii.gz", dataset.unseen_labels / "unseen_0001.nii.gz"), drawn,
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), array)
    folds = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
    if task == "far-marker":
        for fold in folds:
            assert [int(name[-1]) % 2 for name in fold["val"]].count(0) == 1, "both answers in every fold"


def test_it_is_repeated_by_what_it_says_of_itself(tmp_path: Path) -> None:
    assert main(_command("far-marker", tmp_path / "a", "--cases", "2", "--unseen", "1", "--seed", "9")) == 0
    (folder,) = (tmp_path / "a").iterdir()
    again = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["reference"].split()
    assert again[:3] == ["nnunet-mamba", "convert", "probe"]
    assert main([*again[2:], "-o", str(tmp_path / "b")]) == 0
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_more_cases_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    """And another seed changes all."""
    made = []
    for name, cases, seed in (("few", 2, 9), ("more", 4, 9), ("others", 2, 8)):
        (tmp_path / name).mkdir()
        options = {"task": "far-marker", "distance": 8, "width": 16, "margin": 0, "unseen": 1, "cases": cases}
        found = probe.discover(tmp_path / name, {**options, "seed": seed})
        assert [case.id for case in found.cases] == [*(f"case_{k:04d}" for k in range(cases)), "unseen_0000"]
        made.append(hashes(tmp_path / name))
    few, more, others = made
    assert few.items() <= more.items()
    assert not {d for name, d in few.items() if "image" in name} & set(others.values())


def test_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _command("thin-tree", tmp_path / "raw", "--cases", "3", "--unseen", "0")
    write_image, calls = sitk.WriteImage, itertools.count()

    def full(*given: object, **more: object) -> None:
        if next(calls) == 9:
            raise RuntimeError("no space")
        write_image(*given, **more)

    monkeypatch.setattr(sitk, "WriteImage", full)
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "raw").exists()
    calls = itertools.count(1)
    assert main(command) == 1
    assert "go on with the same command and --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main(_command("thin-tree", tmp_path / "other", "--cases", "3", "--unseen", "0")) == 0
    assert hashes(tmp_path / "raw") == hashes(tmp_path / "other")
    assert main(command) == 2
    assert "choose another id with -d" in capsys.readouterr().err


WRONG = {
    "": "--task is missing; expected far-marker or thin-tree",
    "--task far-marker --distance 7": "--distance 7: expected 8 to 240 voxels",
    "--task far-marker --distance 241": "--distance 241: expected 8 to 240 voxels",
    "--task far-marker --axis 3": "--axis 3: expected 0 to 2",
    "--task far-marker --margin -1": "--margin -1: expected 0 to 240 voxels",
    "--task far-marker --width 15": "--width 15: expected 16 to 64 voxels",
    "--task far-marker --gap 3": "--gap belongs to --task thin-tree; leave it out with --task far-marker",
    "--task thin-tree --axis 0": "--axis belongs to --task far-marker; leave it out with --task thin-tree",
    "--task thin-tree --length 241": "--length 241: expected 24 to 240 voxels",
    "--task thin-tree --length 24 --gap 8": "--length 24: expected at least 52 with --gap 8",
    "--task thin-tree --gap 1": "--gap 1: expected 2 to 8 voxels",
    "--task thin-tree --branches 3": "--branches 3: expected an even number",
    "--task thin-tree --branches 14": "--branches 14: expected 2 to 12",
    "--task thin-tree --thickness 3": "--thickness 3: expected 1 to 2 voxels",
    "--task thin-tree --cases 1": "--cases 1: expected 2 to 9999",
    "--task thin-tree --unseen -1": "--unseen -1: expected 0 to 9999",
    "--task thin-tree --seed -1": "--seed -1: expected 0 to 4294967295",
}


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_refused_in_a_sentence(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", *options.split(), "-o", str(tmp_path / "raw")]) == 2
    assert WRONG[options] in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


def test_there_is_no_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(_command("far-marker", tmp_path, "-i", str(tmp_path)))
    assert "unrecognized arguments: -i" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--task bed: unknown; expected far-marker or thin-tree"):
        probe.task_of({"task": "bed"})


def test_there_is_room_for_long_curves() -> None:
    task = ThinTree(240, 2, 8, 1)
    _, _, number = task.shapes(random_of(1, 0, 0))
    assert set(np.unique(number)) == set(range(9))
