"""Invented datasets that ask how far a network sees. Nothing is downloaded: the volumes are made here.

Two tasks, `far_marker` and `thin_tree`, in which what is near a voxel does not tell its label. A case depends on the
seed, its number and the options of the task only: more cases leave the first ones as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.declare import Case, Dataset, Found
from dataset_conversion.far_marker import FarMarker
from dataset_conversion.grid import geometry
from dataset_conversion.phantom import checked, random_of
from dataset_conversion.thin_tree import ThinTree
from dataset_conversion.written import write

FAR_MARKER, THIN_TREE = "far-marker", "thin-tree"
IDS = {FAR_MARKER: 540, THIN_TREE: 541}
OWN = {FAR_MARKER: ("distance", "axis", "margin", "width"), THIN_TREE: ("length", "gap", "branches", "thickness")}
"""Options of one task only"""
LEAST, MOST = 2, 9999
MOST_SEED = 2**32 - 1
FILE = "probe.json"
"""Options with which the dataset was made, in its folder"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    far, tree = FarMarker(), ThinTree()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = """Volumes of noise in which what is near a voxel does not tell its label.

far-marker   two equal tubes on a line and a marker beyond each, at a distance; the kind of the markers says which tube
             is the target
thin-tree    thin curves at a thick root, and equal ones that begin a few voxels beside it; only the tree is target

There is no download, so no -i; of the options for every dataset this one has -o, -d, --dry-run, --jobs and --resume."""
    parser.add_argument("--task", choices=tuple(OWN), help="required")
    parser.add_argument("--cases", type=int, default=40, metavar="N", help="to train with (default: %(default)s)")
    parser.add_argument(
        "--unseen", type=int, default=10, metavar="M", help="more, to imagesTs and labelsTs (default: %(default)s)"
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="another one gives other cases (default: %(default)s)")
    for name, metavar, told in (
        ("distance", "VOXELS", f"far-marker: from a tube to its marker (default: {far.distance})"),
        ("axis", "{0,1,2}", f"far-marker: of the array, 0 the slowest in memory, 2 the fastest (default: {far.axis})"),
        ("margin", "VOXELS", "far-marker: beyond the markers (default: the distance)"),
        ("width", "VOXELS", f"far-marker: of the volume across the line (default: {far.width})"),
        ("length", "VOXELS", f"thin-tree: of a curve from the root to its tip (default: {tree.length})"),
        ("gap", "VOXELS", f"thin-tree: between the root and a fragment (default: {tree.gap})"),
        ("branches", "N", f"thin-tree: curves at the root, half of them fragments (default: {tree.branches})"),
        ("thickness", "VOXELS", f"thin-tree: of a curve (default: {tree.thickness})"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar=metavar, help=told)


def task_of(options: Mapping[str, Any]) -> FarMarker | ThinTree:
    """The task with its options. Raises ValueError for values that are not allowed, and for another task's options."""
    name = options.get("task")
    if name not in OWN:
        given = "--task is missing" if name is None else f"--task {name}: unknown"
        raise ValueError(f"{given}; expected {' or '.join(OWN)}")
    for other, own in OWN.items():
        wrong = [o for o in own if options.get(o) is not None]
        if other != name and wrong:
            raise ValueError(f"--{wrong[0]} belongs to --task {other}; leave it out with --task {name}")
    own = {o: options[o] for o in OWN[name] if options.get(o) is not None}
    return FarMarker(**own) if name == FAR_MARKER else ThinTree(**own)


def discover(source: Path, options: Mapping[str, Any]) -> Found:
    """Makes the cases below `source`, an empty folder. Raises ValueError for options that are not allowed."""
    task = task_of(options)
    seed = checked("seed", options.get("seed", 0), 0, MOST_SEED, "")
    counts = (
        checked("cases", options.get("cases", 40), LEAST, MOST, ""),
        checked("unseen", options.get("unseen", 10), 0, MOST, ""),
    )
    facts = {"task": options["task"], "seed": seed, **task.facts()}
    dataset = Dataset(
        name=task.name,
        id=IDS[options["task"]],
        channels=("invented",),
        labels={"background": 0, "target": 1},
        label_map={0: 0, 1: 1},
        licence="none needed: invented",
        source=" ".join(["nnunet-mamba convert probe", *(f"--{name} {value}" for name, value in facts.items()),
                         f"--cases {counts[0]} --unseen {counts[1]}"]),
        citation="none: invented volumes",
        notes=task.notes,
    )  # fmt: skip
    cases = [_made(source, task, seed, part, number) for part, count in enumerate(counts) for number in range(count)]
    return Found(dataset, tuple(cases), files={FILE: {**facts, "shape": list(task.shape)}})


def _made(source: Path, task: FarMarker | ThinTree, seed: int, part: int, number: int) -> Case:
    """A case, written where a download would have it"""
    name = f"{('case', 'unseen')[part]}_{number:04d}"
    paths = [source / f"{name}_{kind}.nii.gz" for kind in ("image", "label")]
    grid = geometry(task.shape[::-1], np.eye(4))
    for path, array in zip(paths, task.draw(random_of(seed, part, number), number), strict=True):
        write(path, array, grid)
    return Case(name, (paths[0],), paths[1], is_test=bool(part), stratum=task.stratum(number))
