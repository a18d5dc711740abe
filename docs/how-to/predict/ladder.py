"""What `nnunet-mamba predict` gains with each option on this CPU, and what that costs in Dice.

python docs/how-to/predict/ladder.py MODEL IMAGES LABELS ladder.csv

Cases that the model has not been trained on are predicted with every option in turn, so that a machine that changes its
speed changes it for all. LABELS: a folder with files of the same names.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.metrics import dice
from nnunet_mamba.nnunet_folders import ModelFolder
from nnunet_mamba.prediction.images import Case, Source
from nnunet_mamba.prediction.model import Use, usable
from nnunet_mamba.prediction.run import Run

# name -> folds (None: all), options
RUNGS: dict[str, tuple[int | None, Use]] = {
    "as nnU-Net": (None, Use(trust=False)),
    "--onednn": (None, Use(trust=False, onednn=True)),
    "--bf16": (None, Use(trust=False, bf16=True)),
    "--disable_tta": (None, Use(trust=False, mirroring=False)),
    "--disable_tta --onednn": (None, Use(trust=False, mirroring=False, onednn=True)),
    "--disable_tta --bf16": (None, Use(trust=False, mirroring=False, bf16=True)),
    "--disable_tta -f 0": (1, Use(trust=False, mirroring=False)),
    "--disable_tta --bf16 -f 0": (1, Use(trust=False, mirroring=False, bf16=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("csv", type=Path)
    options = parser.parse_args()
    images = sorted(options.images.glob("[!.]*.nii.gz"))
    cases = [images[0], *images]  # the first of all warms up
    read = TrainedModel.read(ModelFolder(options.model))
    runs = {}
    for name, (folds, use) in RUNGS.items():
        model = read if folds is None else replace(read, folds=read.folds[:folds])
        runs[name] = Run(usable(model, use), torch.device("cpu"))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number, image in enumerate(cases):
            truth = sitk.GetArrayFromImage(sitk.ReadImage(str(options.labels / image.name)))
            for name, run in runs.items():
                start = time.perf_counter()
                scan = run.check(Case("case", (Source(image),)))
                files = run.files(scan, Path(place))
                made = run.predict(scan, files, Path(place) / f"{number}{name.replace(' ', '')}.nii.gz")
                seconds = time.perf_counter() - start
                found = sitk.GetArrayFromImage(made.labels)
                scores = [dice(np.isin(found, values), np.isin(truth, values)) for values in run.usable.masks.values()]
                if number:
                    rows.append((image.name[:-7], name, round(seconds, 3), round(float(np.mean(scores)), 5)))
            print(number, image.name, flush=True)
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("case", "options", "seconds", "dice"), *rows])
    first = {n: np.array([r[2:] for r in rows if r[1] == n]) for n in RUNGS}
    for name, found in first.items():
        ratio = np.median(first["as nnU-Net"][:, 0] / found[:, 0])
        print(f"{name:28} {np.median(found[:, 0]):6.2f} s  {ratio:5.2f} times as fast  Dice {found[:, 1].mean():.4f}"
              f"  {100 * (found[:, 1] - first['as nnU-Net'][:, 1]).mean():+.2f} points")  # fmt: skip


if __name__ == "__main__":
    main()
