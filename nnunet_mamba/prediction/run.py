"""All cases: label maps with the geometry of their images, volumes, pictures and a page.

A case's files are made beside their places and moved there when they are complete. What is done is kept in
prediction.json, so that the same command goes on where it was interrupted.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from tqdm import tqdm

from nnunet_mamba.prediction import fingerprint, scans, turned
from nnunet_mamba.prediction.fingerprint import Known
from nnunet_mamba.prediction.images import Case
from nnunet_mamba.prediction.model import Usable
from nnunet_mamba.prediction.page import MOST_SHOWN, look_in_words, write_page
from nnunet_mamba.prediction.predictor import Apart, Predictor
from nnunet_mamba.prediction.scans import Reading, Scan
from nnunet_mamba.prediction.seen import orientations_of
from nnunet_mamba.study.comparison.viewer import ViewedCase, encode
from nnunet_mamba.study.evaluation.output import writable_folder, write_csv
from nnunet_mamba.study.evaluation.overlay import draw_overlay
from nnunet_mamba.trust.judgement import CaseTrust
from nnunet_mamba.trust.outcome import PASSES
from nnunet_mamba.version import __version__
from nnunet_mamba.whole_files import read_object, write_json

RECORD, VOLUMES, PAGE = "prediction.json", "volumes.csv", "predictions.html"
UNCERTAINTY = "uncertainty"
"""Folder"""
AS_FILES_SAY = Reading()
ML = 1000.0
"""mm3"""


@dataclass(frozen=True)
class Done:
    """A predicted case. ml: label or region -> its volume; labels: with their image's geometry.

    trust: None where nothing is known of how far to trust a case.
    """

    labels: sitk.Image
    ml: dict[str, float]
    voxels: dict[str, int]
    warnings: tuple[str, ...]
    seconds: float
    trust: CaseTrust | None = None


class Run:
    """A model on a device, for one case after the other. maps: whether maps of the uncertainty are asked for."""

    def __init__(
        self,
        usable: Usable,
        device: torch.device,
        reading: Reading = AS_FILES_SAY,
        maps: bool = False,
    ):
        self.usable, self.reading = usable, reading
        planned = usable.model.planned.configuration
        turns = "Reorient" in usable.model.manager.image_reader_writer_class.__name__
        self.known = Known.of(
            usable.fingerprint, usable.channels, planned["normalization_schemes"],
            () if turns else orientations_of(usable.model.folder), turns,
        )  # fmt: skip
        if usable.use.bf16 and device.type != "cpu":
            raise ValueError(f"--bf16 with -device {device.type}: it is for CPUs; GPUs predict in half precision")
        judge, apart = usable.judge, None
        if judge is not None:
            apart = Apart(judge.manager, judge.stored.members == PASSES)
        elif maps:
            apart = Apart(usable.model.labels, passes=False)
        if usable.use.onednn and device.type != "cpu":
            raise ValueError(f"--onednn with -device {device.type}: it is for CPUs")
        use = usable.use
        self.predictor = Predictor(usable.model, device, apart=apart, step=use.step, bf16=use.bf16, onednn=use.onednn)

    def check(self, case: Case) -> Scan:
        """Raises ValueError for a case that cannot be predicted"""
        return scans.check(case, self.usable.channels, self.reading)

    def files(self, scan: Scan, place: Path) -> list[Path]:
        """Of a case, as the model's reader takes them; copies in `place` where the user's own are not"""
        return scans.as_files(scan, self.usable.ending, place, self.reading)

    def predict(
        self, scan: Scan, files: Sequence[Path], target: Path, expect: Callable[[int], object] = lambda runs: None,
        uncertainty: Path | None = None,
    ) -> Done:  # fmt: skip
        """files: as the model's reader takes them; target: the label map that is written; uncertainty: its map."""
        start = time.perf_counter()
        letters = turned.wanted(scan, self.known, self.reading.turn)
        seen = files if letters is None else turned.turned(files, letters, target.parent, self.usable.ending)
        labels, properties = self.predictor.labels(seen, expect)
        trust = None if self.usable.judge is None else self.usable.judge.case(self.predictor.networks)
        if uncertainty is not None:
            self.predictor.write_uncertainty(uncertainty, properties)
        if self.usable.sizes is not None:
            labels = self.usable.sizes.on(labels, properties["spacing"])
        self.predictor.write(labels, target, properties)
        if letters is not None:
            for written_file in (target, *([uncertainty] if uncertainty is not None else [])):
                turned.turn_back(written_file, files[0])
        image = sitk.ReadImage(str(target))
        written = sitk.GetArrayFromImage(image)
        channels = [sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in files]  # a view would outlive its image
        backward = self.usable.model.manager.transpose_backward
        cropped = [properties["shape_after_cropping_and_before_resampling"][a] for a in backward]
        warnings = (
            *fingerprint.of_scan(scan, self.known, letters is not None),
            *turned.note(scan, self.known),
            *fingerprint.of_size(cropped, properties["spacing"], self.known),
            *fingerprint.of_labels(written, channels, self.usable.masks, scan.grid, self.known),
        )
        voxel = float(np.prod(image.GetSpacing())) / ML
        voxels = {name: int(np.isin(written, values).sum()) for name, values in self.usable.masks.items()}
        ml = {name: count * voxel for name, count in voxels.items()}
        return Done(image, ml, voxels, warnings, time.perf_counter() - start, trust)


def predict_cases(
    usable: Usable, cases: Sequence[Case], out: Path, device: torch.device, reading: Reading,
    card: Sequence[tuple[str, str]] = (), say: Callable[[str], object] = print, maps: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Predicts all cases into `out` -> the cases that failed, and why.

    card: what is known of the model, for the page. maps: also of the uncertainty, in a folder of their own.
    Raises ValueError before anything is written where a case cannot be predicted, a file would be overwritten, or `out`
    holds the predictions of another model.
    """
    of_model = _described(usable)
    record = _record(out, of_model)
    known = {name: of for name, of in record["cases"].items() if (out / of["result"]).is_file()}
    targets = {case.name: out / f"{case.name}{usable.ending}" for case in cases}
    of_maps = {name: out / UNCERTAINTY / target.name for name, target in targets.items()} if maps else {}
    files = {case.name: _files(case) for case in cases}
    _check_targets(targets, known, cases)
    _check_targets(of_maps, known, cases)
    run = Run(usable, device, reading, maps)
    done_before = [
        n for n, f in files.items()
        if n in known and known[n]["files"] == f and (not maps or of_maps[n].is_file())
    ]  # fmt: skip
    if done_before:
        say(f"{len(done_before)} of {len(cases)} cases were predicted before; they are kept")
    with tqdm(cases, desc="reading", disable=len(cases) < 2) as progress:  # closed before a refusal is printed
        looked_at = {c.name: run.check(c) for c in progress}
    writable_folder(out, RECORD, VOLUMES, PAGE)
    content = {**record, "cases": dict(known)}
    failed: dict[str, str] = {}
    shown: list[dict[str, Any]] = []
    left = [c for c in cases if c.name not in done_before]
    total = {c.name: _expected(run, looked_at[c.name]) for c in left}
    with tqdm(total=sum(total.values()), unit="window", disable=not left) as progress:
        run.predictor.advance = progress.update
        for case in cases:
            progress.set_description(case.name)
            with _beside(out) as place:
                scan = looked_at[case.name]
                as_files = run.files(scan, place)
                if case in left:
                    labels = place / f"labels{usable.ending}"
                    doubts = place / f"uncertainty{usable.ending}" if maps else None
                    try:
                        made = run.predict(scan, as_files, labels, _corrected(progress, total[case.name]),
                                           doubts)  # fmt: skip
                    except (ValueError, RuntimeError) as error:
                        failed[case.name] = str(error).strip() or type(error).__name__
                        progress.write(f"{case.name}: {failed[case.name]}")
                        continue
                    draw_overlay(as_files[0], None, labels, place / "overlay.png", case.name, usable.value_names)
                    if doubts is not None:
                        of_maps[case.name].parent.mkdir(exist_ok=True)
                        doubts.replace(of_maps[case.name])
                    (place / "overlay.png").replace(out / f"{case.name}.png")
                    labels.replace(targets[case.name])
                    content["cases"][case.name] = {
                        "files": files[case.name], "result": targets[case.name].name, "picture": f"{case.name}.png",
                        "ml": made.ml, "voxels": made.voxels, "warnings": list(made.warnings),
                        "trust": None if made.trust is None else made.trust.as_json(),
                        "seconds": round(made.seconds, 2),
                    }  # fmt: skip
                    write_json(out / RECORD, content, indent=2)
                    _tell(case.name, made, progress)
                if len(shown) < MOST_SHOWN:
                    viewed = ViewedCase(case.name, as_files[0], None, {"prediction": targets[case.name]})
                    shown.append({**encode(viewed), "title": case.name})
    if content["cases"]:
        _write_volumes(out / VOLUMES, content["cases"])
        write_page(out / PAGE, usable, content["cases"], shown, [*card, *_about(device)])
    return failed


def _described(usable: Usable) -> dict[str, Any]:
    """What decides over the result"""
    model = usable.model
    return {
        "dataset": model.plans["dataset_name"], "trainer": model.trainer, "plans": model.plans["plans_name"],
        "configuration": model.configuration, "checkpoint": model.checkpoint, "sha256": usable.digests(),
        "label_manager": model.plans.get("label_manager"), "stored": list(usable.told),
    }  # fmt: skip


def _record(out: Path, of_model: Mapping[str, Any]) -> dict[str, Any]:
    """What is in the folder already. Raises ValueError where it is of another model"""
    path = out / RECORD
    fresh = {"versions": _versions(), "model": dict(of_model), "cases": {}}
    if out.exists() and not out.is_dir():
        raise ValueError(f"-o {out}: a file; expected a folder")
    if not path.is_file():
        return fresh
    there = read_object(path)
    if there.get("model") != fresh["model"] or not isinstance(there.get("cases"), dict):
        raise ValueError(f"-o {out}: holds predictions of another model, or with other settings; give another folder")
    return there


def _versions() -> dict[str, str]:
    return {"nnunet_mamba": __version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__}


def _check_targets(targets: Mapping[str, Path], known: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Raises ValueError where a file that we have not made would be overwritten, an image above all"""
    inputs = {source.path.resolve() for case in cases for source in case.channels}
    for name, target in targets.items():
        for path in (target, target.with_name(f"{name}.png")):
            if path.resolve() in inputs or (path.exists() and name not in known):
                raise ValueError(f"-o {target.parent}: {path} is there already; give another folder")


def _files(case: Case) -> list[list[Any]]:
    """Path, size and time of all that a case is read from: whether it is still the same"""
    paths = [p for source in case.channels for p in (source.series.files if source.series else [source.path])]
    return [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]


class _beside:  # noqa: N801 (a context manager)
    """A folder in `out` for files that are not complete"""

    def __init__(self, out: Path):
        self._out = out

    def __enter__(self) -> Path:
        self._folder = Path(tempfile.mkdtemp(prefix=".unfinished_", dir=self._out))
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _expected(run: Run, scan: Scan) -> int:
    return run.predictor.runs_for(scan.grid.shape[::-1], scan.grid.spacing[::-1].tolist())


def _corrected(progress: tqdm, expected: int) -> Callable[[int], None]:
    """What cropping saves is known after preprocessing"""

    def correct(runs: int) -> None:
        progress.total += runs - expected
        progress.refresh()

    return correct


def _tell(name: str, made: Done, progress: tqdm) -> None:
    progress.write(f"{name}: {', '.join(f'{mask} {ml:.3g} ml' for mask, ml in made.ml.items())}")
    if made.trust is not None:
        progress.write(f"  trust: {made.trust}")
    for warning in made.warnings:
        progress.write(f"  warning: {warning}")


def _write_volumes(path: Path, cases: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        {"case": case, "label": label, "ml": ml, "voxels": of["voxels"][label], "warnings": len(of["warnings"]),
         "look": look_in_words(of)}
        for case, of in cases.items() for label, ml in of["ml"].items()
    ]  # fmt: skip
    write_csv(path, pd.DataFrame(rows).set_index(["case", "label"]))


def _about(device: torch.device) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    return [("predicted with", f"{versions}, on {device.type}")]
