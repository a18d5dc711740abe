"""Cases that no fold of a model has seen, judged by all folds: what the page "How far to trust a prediction" measured.

python unseen.py MODEL Task04_Hippocampus unseen.csv            # as they are
python unseen.py MODEL Task04_Hippocampus worse.csv --worse     # every second of them, each with a fault
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from scipy import ndimage

from nnunet_mamba.trust.measures import doubt, mean_of, measure
from nnunet_mamba.trust.members import MemberPredictor, mean_prediction
from nnunet_mamba.trust.ranking import rank

MASKS = {"anterior": (1,), "posterior": (2,)}
FAULTS = ("noise", "blur", "flipped")


def with_fault(image: Path, fault: str, random: np.random.Generator, target: Path) -> None:
    """Noise as strong as the image varies, a blur of two voxels, or one axis the wrong way round"""
    given = sitk.ReadImage(str(image))
    voxels = sitk.GetArrayFromImage(given).astype(np.float32)
    if fault == "noise":
        voxels = voxels + random.normal(0, voxels.std(), voxels.shape).astype(np.float32)
    elif fault == "blur":
        voxels = ndimage.gaussian_filter(voxels, 2)
    else:
        voxels = voxels[:, ::-1].copy()
    made = sitk.GetImageFromArray(voxels)
    made.CopyInformation(given)
    sitk.WriteImage(made, str(target))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--worse", action="store_true")
    options = parser.parse_args()
    predictor: Any = MemberPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(options.model), (0, 1, 2, 3, 4))
    plans, configuration, labels = predictor.plans_manager, predictor.configuration_manager, predictor.label_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    seen = {p.name for p in options.model.glob("fold_*/validation/*.nii.gz")}
    pairs = [
        (image, options.data / truths / image.name)
        for images, truths in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs_reference"))
        for image in sorted((options.data / images).glob("hippocampus_*.nii.gz"))
        if image.name not in seen and (options.data / truths / image.name).is_file()
    ]
    if options.worse:
        pairs = pairs[::2]
    rows, random = [], np.random.default_rng(0)
    for i, (image, truth_file) in enumerate(pairs):
        fault = FAULTS[i % len(FAULTS)] if options.worse else ""
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(truth_file)))
        truth = truth[:, ::-1] if fault == "flipped" else truth
        with tempfile.TemporaryDirectory() as place:
            given = image
            if fault:
                given = Path(place) / image.name
                with_fault(image, fault, random, given)
            voxels, _, properties = preprocessor.run_case(
                [str(given)], None, plans, configuration, predictor.dataset_json
            )
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(voxels))
        made: Any = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans, configuration, labels, properties, num_threads_torch=1
        )
        dice = [
            2 * ((made == v) & (truth == v)).sum() / ((made == v).sum() + (truth == v).sum()) for (v,) in MASKS.values()
        ]
        networks = predictor.networks
        folds = measure([n.labels for n in networks], *mean_prediction(networks, labels), MASKS, False)
        each = mean_of([measure(n.passes, n.labels, n.probabilities, MASKS, False) for n in networks])
        case = image.name.removesuffix(".nii.gz")
        rows.append(
            {"case": case, "fault": fault, "Dice": np.mean(dice), **folds.values(), "entropy_per_fold": each.entropy}
        )
    table = pd.DataFrame(rows)
    table.to_csv(options.out, index=False)
    for name in table.columns[3:]:
        doubts = [doubt(name, value) for value in table[name]]
        found = rank(doubts, table["Dice"].to_numpy())
        print(name, "AURC", found.aurc, "best", round(found.best, 3), "chance", round(found.chance, 3),
              "rank correlation", found.correlation, "p", round(found.p, 4))  # fmt: skip


if __name__ == "__main__":
    main()
