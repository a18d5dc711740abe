"""All cases: label maps with the geometry of their images, volumes, pictures and a page.

What of it lies in which file, and whose files are there already, is decided in results.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from nnunet_mamba.prediction.results import PAGE, VOLUMES, Results, alone_in, beside
from nnunet_mamba.prediction.scans import Reading, Scan
from nnunet_mamba.study.comparison.viewer import ViewedCase, encode
from nnunet_mamba.study.evaluation.output import write_csv
from nnunet_mamba.study.evaluation.overlay import draw_overlay
from nnunet_mamba.trust import outcome
from nnunet_mamba.trust.judgement import CaseTrust
from nnunet_mamba.trust.outcome import PASSES
from nnunet_mamba.version import __version__

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

    def as_json(self) -> dict[str, Any]:
        """All but the labels"""
        return {
            "ml": {name: float(f"{ml:.6g}") for name, ml in self.ml.items()}, "voxels": self.voxels,
            "warnings": list(self.warnings), "trust": None if self.trust is None else self.trust.as_json(),
            "seconds": round(self.seconds, 2),
        }  # fmt: skip


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
            () if turns else usable.orientations, turns,
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
        scan = scans.check(case, self.usable.channels, self.reading)
        if 0 in self.predictor.size_for(*_along_reader(scan)):
            sizes = " x ".join(map(str, scan.grid.shape))
            spacing = " x ".join(f"{s:.3g}" for s in scan.grid.spacing)
            raise ValueError(
                f"{case.name}: {sizes} voxels of {spacing} mm are none at the spacing that the model works with: is the"
                " spacing in mm, and the image a volume?"
            )
        return scan

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
            *turned.note(scan, self.known, self.reading.turn),
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
    about = {"versions": _versions(), "model": _described(usable, reading)}
    Results(out, about, cases, usable.ending, maps)  # what cannot be is refused before anything is read
    run = Run(usable, device, reading, maps)
    with tqdm(cases, desc="reading", disable=len(cases) < 2) as progress:  # closed before a refusal is printed
        scans_ = {c.name: run.check(c) for c in progress}
    with alone_in(out):
        results = Results(out, about, cases, usable.ending, maps)  # again: another command may have ended since
        done = [name for name in scans_ if results.done(name)]
        if done:
            say(f"{len(done)} of {len(cases)} cases were predicted before; they are kept")
        failed, shown = _all(run, results, scans_, set(done))
        if results.cases:
            _write_volumes(out / VOLUMES, results.cases)
            write_page(out / PAGE, usable, results.cases, shown, [*card, *_about(device)])
    return failed


def _all(
    run: Run, results: Results, scans_: Mapping[str, Scan], done: Collection[str]
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Predicts those that are not done -> those that failed, and why; what the page shows of all"""
    usable, failed, shown = run.usable, dict[str, str](), list[dict[str, Any]]()
    total = {name: _expected(run, scan) for name, scan in scans_.items() if name not in done}
    with tqdm(total=sum(total.values()), unit="window", disable=not total) as progress:
        run.predictor.advance = progress.update
        for name, scan in scans_.items():
            progress.set_description(name)
            files = results.files[name]
            with beside(results.out) as place:
                as_files = run.files(scan, place)
                if name in total:
                    labels, picture = place / f"labels{usable.ending}", place / "overlay.png"
                    doubts = None if files.doubts is None else place / f"uncertainty{usable.ending}"
                    try:
                        made = run.predict(scan, as_files, labels, _corrected(progress, total[name]), doubts)
                    except (ValueError, RuntimeError, MemoryError) as error:
                        failed[name] = _reason(error)
                        progress.write(f"{name}: {failed[name]}")
                        continue
                    draw_overlay(as_files[0], None, labels, picture, name, usable.value_names)
                    results.keep(name, labels, picture, doubts, made.as_json())
                    _tell(name, made, progress)
                if len(shown) < MOST_SHOWN:
                    viewed = ViewedCase(name, as_files[0], None, {"prediction": files.labels})
                    shown.append({**encode(viewed), "title": name})
    return failed, shown


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "the memory of this computer is not enough for this image"
    return str(error).strip() or type(error).__name__


def _described(usable: Usable, reading: Reading) -> dict[str, Any]:
    """What decides over the result"""
    model = usable.model
    judged_by = outcome.file(model.folder, 1)
    return {
        "dataset": model.plans["dataset_name"], "trainer": model.trainer, "plans": model.plans["plans_name"],
        "configuration": model.configuration, "checkpoint": model.checkpoint, "sha256": usable.digests(),
        "label_manager": model.plans.get("label_manager"), "stored": list(usable.told), "reading": asdict(reading),
        "orientations": list(usable.orientations),
        "trust": None if usable.judge is None else hashlib.sha256(judged_by.read_bytes()).hexdigest(),
    }  # fmt: skip


def _versions() -> dict[str, str]:
    return {"nnunet_mamba": __version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__}


def _expected(run: Run, scan: Scan) -> int:
    return run.predictor.runs_for(*_along_reader(scan))


def _along_reader(scan: Scan) -> tuple[list[int], list[float]]:
    """Sizes and spacing, z y x"""
    return list(scan.grid.shape[::-1]), scan.grid.spacing[::-1].tolist()


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
