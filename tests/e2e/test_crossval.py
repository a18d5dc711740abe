"""`nnunet-mamba crossval` with nnU-Net's own commands on real data: killed, continued, compared; and as jobs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.models import pair_models
from nnunet_mamba.study.crossval.slurm import Resources, submit
from tests.e2e.conftest import CASES, COMMAND_LIMIT_S, SOURCE, Workspace

pytestmark = pytest.mark.slow

# names that no other test trains in the same folder
TRAINERS = ("nnUNetTrainerSegMamba_lr3e-3_NoMirroring_1epoch_2its", "nnUNetTrainer_lr3e-3_NoMirroring_1epoch_2its")


def _times(workspace: Workspace) -> dict[Path, int]:
    """Of the two models; other tests leave theirs in the same folder"""
    names = [f"{TRAINERS[0]}__nnUNetSegMambaPlans__3d_fullres", f"{TRAINERS[1]}__nnUNetPlans__3d_fullres"]
    found = [p for name in names for p in (workspace.results / name).glob("fold_*/checkpoint_final.pth")]
    return {p: p.stat().st_mtime_ns for p in found}


def test_killed_continued_and_compared(hippocampus: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SegMamba on its own plans, nnU-Net's network on nnU-Net's, two folds each, an ensemble, unseen cases."""
    out = tmp_path / "study"
    command = (
        "nnunet-mamba", "crossval", "-d", hippocampus.number, "-tr", *TRAINERS, "-p", "nnUNetSegMambaPlans",
        "nnUNetPlans", "-f", "0", "1", "-device", "cpu", "-o", out, "-np", "1",
    )  # fmt: skip
    labels = hippocampus.raw / "labelsTs"
    labels.mkdir(exist_ok=True)
    for image in (hippocampus.raw / "imagesTs").iterdir():
        name = image.name.replace("_0000", "")
        shutil.copy(SOURCE / "labelsTs_reference" / name, labels / name)
    shutil.rmtree(hippocampus.preprocessed / "nnUNetPlans_3d_fullres")

    first = hippocampus.model(TRAINERS[0], "nnUNetSegMambaPlans", "3d_fullres") / "fold_0"
    process = hippocampus.start(*command)
    hippocampus.wait_for(first / "validation" / "summary.json", process)
    os.killpg(process.pid, signal.SIGKILL)  # not its commands: they have sessions of their own
    process.communicate()
    trained = _times(hippocampus)
    assert first / "checkpoint_final.pth" in trained

    for lock in (hippocampus.results / "crossval_locks").iterdir():
        _wait_until_free(lock)
    trained = _times(hippocampus)
    output = hippocampus.run(*command)
    assert "Report: " in output
    assert f"Train {first.parent.name}, fold 0: done before" in output
    after = _times(hippocampus)
    assert len(after) == 4
    assert all(after[path] == time for path, time in trained.items()), "nothing is trained twice"

    scores = pd.read_csv(out / "comparison" / "scores.csv")
    assert scores.groupby("model")["case"].nunique().to_dict() == {
        "nnUNetTrainerSegMamba__nnUNetSegMambaPlans": CASES, "nnUNetTrainer__nnUNetPlans": CASES,
    }  # fmt: skip
    summary = json.loads((first / "validation" / "summary.json").read_text(encoding="utf-8"))
    ours = scores[(scores["model"].str.contains("SegMamba__")) & (scores["mask"] == "all masks")].set_index("case")[
        "Dice"
    ]
    theirs = {Path(c["prediction_file"]).name.removesuffix(".nii.gz"): [m["Dice"] for m in c["metrics"].values()]
              for c in summary["metric_per_case"]}  # fmt: skip
    for case, values in theirs.items():
        assert ours[case] == pytest.approx(sum(values) / len(values)), "nnU-Net's own Dice"
    unseen = pd.read_csv(out / "comparison_unseen" / "scores.csv")
    assert "chosen" in set(unseen["model"])
    assert (out / "comparison" / "report.html").stat().st_size > 100_000

    assert "$ nnUNetv2" not in hippocampus.run(*command), "all done"
    assert not [line for line in hippocampus.run(*command, "--dry-run").splitlines() if line.startswith("nnUNetv2")]

    # one fold again, as jobs of processes of this machine
    for name, value in hippocampus.environment.items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(first)
    models = pair_models(list(TRAINERS), ["nnUNetSegMambaPlans", "nnUNetPlans"], ["3d_fullres"])
    study = Study(hippocampus.dataset, models, (0, 1), out, "cpu")
    before = (out / "comparison" / "report.html").stat().st_mtime_ns
    jobs = submit(study, Resources(1, 4, 1), cluster="local")
    assert list(jobs) == [f"train_{models[0].name}_0", "finish"]
    _wait_for_result(out / "jobs" / f"{jobs['finish']}_0_result.pkl")
    assert (first / "checkpoint_final.pth").is_file()
    assert (out / "comparison" / "report.html").stat().st_mtime_ns > before


def _wait_for_result(path: Path) -> None:
    deadline = time.monotonic() + COMMAND_LIMIT_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.2)
    outcome, content = pickle.loads(path.read_bytes())
    assert outcome == "success", content


def _wait_until_free(lock: Path) -> None:
    """A command whose parent was killed ends by itself"""
    import fcntl

    with lock.open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
