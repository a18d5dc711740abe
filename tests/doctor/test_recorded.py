"""What nnU-Net 2.8.1's commands printed for real mistakes, in `recorded`: each is explained by the right message.

The first line of a file is the command, paths are neutral, progress bars and long lines are cut; the rest is as it was.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_mamba.doctor.messages import MESSAGES, explain

RECORDED = Path(__file__).parent / "recorded"
EXPECTED = {
    "convert-msd-no-dataset-json": "msd-folder",
    "convert-msd-raw-unset": "msd-folder",
    "convert-msd-text-file": "image-damaged",
    "convert-msd-there-already": "msd-folder",
    "convert-msd-wrong-folder": "msd-folder",
    "determine-postprocessing-not-trained": "postprocessing-files",
    "download-by-url": "no-network",
    "ensemble-no-such-folder": "folder-of-predictions",
    "ensemble-without-probabilities": "folder-of-predictions",
    "evaluate-djfile-missing": "folder-of-predictions",
    "evaluate-other-shape": "prediction-of-another-size",
    "evaluate-prediction-missing": "predictions-missing",
    "export-fold-missing": "fold-not-trained",
    "export-not-trained": "model-not-found",
    "find-best-default-trainer": "model-not-found",
    "find-best-folds-missing": "fold-not-trained",
    "find-best-not-trained": "model-not-found",
    "find-best-results-unset": "paths-not-set",
    "find-best-without-npz": "probabilities-missing",
    "install-no-such-file": "file-not-found",
    "install-not-a-zip": "zip-damaged",
    "install-results-unset": "paths-not-set",
    "move-plans-missing": "plans-or-fingerprint-missing",
    "plan-dataset-json-missing": "raw-dataset-incomplete",
    "plan-dataset-json-not-json": "json-damaged",
    "plan-dataset-json-without-labels": "raw-dataset-incomplete",
    "plan-experiment-without-fingerprint": "plans-or-fingerprint-missing",
    "plan-full-disk": "disk-full",
    "plan-images-without-0000": "cases-not-found",
    "plan-misspelt-planner": "name-of-ours-misspelt",
    "plan-no-imagestr": "raw-dataset-incomplete",
    "plan-nothing-set": "paths-not-set",
    "plan-preprocessed-unset": "paths-not-set",
    "plan-raw-folder-missing": "raw-dataset-incomplete",
    "plan-regions-without-order": "regions-class-order",
    "plan-two-datasets-of-one-id": "two-datasets-of-one-number",
    "plan-unknown-ending": "cases-not-found",
    "plan-unknown-planner": "planner-not-found",
    "plan-wrong-ending": "cases-not-found",
    "plan-wrong-id": "dataset-not-found",
    "postprocessing-json-missing": "postprocessing-files",
    "postprocessing-pkl-missing": "postprocessing-files",
    "predict-all-folds-not-trained": "fold-not-trained",
    "predict-channel-missing": "weights-do-not-fit",
    "predict-cut-off-checkpoint": "checkpoint-damaged",
    "predict-d-missing": "wrong-argument",
    "predict-empty-input": "cases-not-found",
    "predict-fold-all": "fold-not-trained",
    "predict-fold-not-trained": "fold-not-trained",
    "predict-html-checkpoint": "checkpoint-damaged",
    "predict-modelfolder-wrong": "model-not-found",
    "predict-name-results-unset": "paths-not-set",
    "predict-no-gpu": "no-cuda-device",
    "predict-no-such-input": "file-not-found",
    "predict-nothing-set": "paths-not-set",
    "predict-other-ending": "cases-not-found",
    "predict-other-widths": "weights-do-not-fit",
    "predict-plans-missing": "model-not-found",
    "predict-results-unset": "paths-not-set",
    "predict-trainer-of-another-project": "name-of-ours-misspelt",
    "predict-two-channels": "channel-numbers-missing",
    "predict-unknown-checkpoint": "fold-not-trained",
    "predict-without-0000": "channel-numbers-missing",
    "predict-wrong-configuration": "model-not-found",
    "predict-wrong-plans": "model-not-found",
    "predict-wrong-trainer": "model-not-found",
    "preprocess-3d-lowres-not-planned": "configuration-not-in-plans",
    "preprocess-without-plans": "plans-or-fingerprint-missing",
    "train-3d-lowres-not-planned": "configuration-not-in-plans",
    "train-arguments-missing": "wrong-argument",
    "train-cascade-without-first-stage": "first-stage-of-a-cascade-missing",
    "train-continue-without-checkpoint": "nothing-to-continue",
    "train-damaged-preprocessed-case": "preprocessed-file-damaged",
    "train-device-with-number": "device",
    "train-fold-7-of-2": "fold-not-in-split",
    "train-fold-word": "wrong-argument",
    "train-full-disk-ours": "disk-full",
    "train-full-disk-stock": "disk-full",
    "train-huge-batch": "out-of-memory",
    "train-misspelt-trainer": "name-of-ours-misspelt",
    "train-name-without-number": "dataset-not-found",
    "train-no-gpu": "no-cuda-device",
    "train-not-planned": "plans-or-fingerprint-missing",
    "train-not-preprocessed": "not-preprocessed",
    "train-nothing-set": "paths-not-set",
    "train-plans-not-json": "json-damaged",
    "train-pretrained-missing": "file-not-found",
    "train-pretrained-other-network": "weights-do-not-fit",
    "train-raw-only-set": "paths-not-set",
    "train-results-read-only": "cannot-write",
    "train-results-unset": "paths-not-set",
    "train-split-names-unknown-case": "case-not-preprocessed",
    "train-two-gpus-on-cpu": "device",
    "train-unknown-trainer": "trainer-not-found",
    "train-val-cut-off-checkpoint-ours": "checkpoint-damaged",
    "train-val-cut-off-checkpoint-stock": "checkpoint-damaged",
    "train-val-other-widths": "weights-do-not-fit",
    "train-val-without-checkpoint": "fold-not-trained",
    "train-wrong-configuration": "configuration-not-in-plans",
    "train-wrong-device": "device",
    "train-wrong-id": "dataset-not-found",
    "train-wrong-name": "plans-or-fingerprint-missing",
    "train-wrong-plans": "plans-or-fingerprint-missing",
    "train-wrong-suffix": "name-of-ours-misspelt",
    "verify-channel-missing": "images-do-not-match-labels",
    "verify-images-without-0000": "cases-not-found",
    "verify-label-missing": "cases-not-found",
    "verify-labels-not-consecutive": "labels-not-consecutive",
    "verify-number-of-cases": "cases-not-found",
    "verify-other-shape": "images-do-not-match-labels",
    "verify-other-spacing": "images-do-not-match-labels",
    "verify-unexpected-label": "labels-not-consecutive",
    "verify-wrong-ending": "cases-not-found",
}


def _printed(name: str) -> str:
    command, text = (RECORDED / f"{name}.txt").read_text(encoding="utf-8").split("\n", 1)
    assert command.startswith("$ nnUNetv2_")
    return text


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_mistake_is_explained(name: str) -> None:
    found = explain(_printed(name))
    assert found
    assert found[0].key == EXPECTED[name]


def test_every_record_is_asked_for() -> None:
    assert sorted(EXPECTED) == sorted(p.stem for p in RECORDED.glob("*.txt"))
    assert set(EXPECTED.values()) <= {m.key for m in MESSAGES}
    commands = {(RECORDED / f"{name}.txt").read_text(encoding="utf-8").split()[1] for name in EXPECTED}
    assert len(commands) >= 15, "across its commands"


@pytest.mark.parametrize("name", EXPECTED)
def test_records_are_neutral(name: str) -> None:
    text = (RECORDED / f"{name}.txt").read_text(encoding="utf-8")
    homes = {word.split("/")[2] for word in text.split() if word.strip("'\"(").startswith("/home/")}
    assert homes <= {"you"}
