"""Jobs for SLURM: what is submitted, what the scripts say, that they run, and that a time limit loses nothing.

SLURM's commands are replaced by scripts that record what they are given; submitit and everything above it are real.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunet_mamba.cli import main as cli
from nnunet_mamba.study.crossval import slurm
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.evidence import Fresh
from nnunet_mamba.study.crossval.slurm import Resources, submit
from nnunet_mamba.study.crossval.steps import Step
from tests.study.crossval.conftest import finish_fold, write_plans

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SLURM is for Linux")

SBATCH = """#!/bin/bash
number=$(( $(ls "{root}"/*.sh 2>/dev/null | wc -l) + 100 ))
cp "${{@: -1}}" "{root}/$number.sh"
echo "Submitted batch job $number"
"""
SRUN = """#!/bin/bash
while [[ "$1" != *python* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "{root}/requeued"
"""
SCANCEL = """#!/bin/bash
echo "$@" >> "{root}/cancelled"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for script in "{root}"/*.sh; do
    number=$(basename "$script" .sh)
    echo "$number|$(cat "{root}/$number.state" 2>/dev/null || echo PENDING)|"
done
"""
RESOURCES = Resources(hours=2, memory_gb=16, cores=4, partition="gpu", more=(("account", "radiology"),))


@dataclass(frozen=True)
class Cluster:
    root: Path

    def script(self, number: str) -> str:
        return (self.root / f"{number}.sh").read_text(encoding="utf-8")

    def options(self, number: str) -> dict[str, str]:
        lines = [line.removeprefix("#SBATCH --") for line in self.script(number).splitlines() if "#SBATCH" in line]
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def start(self, number: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": socket.gethostname(),
        }  # fmt: skip
        # the script ends in srun, which becomes submitit's process
        script = self.root / f"{number}.run"
        script.write_text(self.script(number).replace("\nsrun", "\nexec srun"))
        return subprocess.Popen(["bash", str(script)], env=environment, start_new_session=True)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    root = tmp_path / "cluster"
    root.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL), ("sacct", SACCT),
                       ("scancel", SCANCEL)):  # fmt: skip
        (root / name).write_text(text.format(root=root))
        (root / name).chmod((root / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{root}{os.pathsep}{os.environ['PATH']}")
    return Cluster(root)


@pytest.fixture
def toy(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Shell commands in the place of nnU-Net's: prepare, then two trainings, the second slow at first."""
    target = tmp_path / "made"
    target.mkdir()
    slow = f'echo begun >> "{target}/log"; test -f "{target}/begun" || {{ touch "{target}/begun"; sleep 60; }}'

    def step(name: str, script: str, *after: str, trains: bool = True) -> Step:
        return Step(
            name, name, ("sh", "-c", f'{script}; touch "{target}/{name}"'), Fresh((target / name,)), after, trains
        )

    steps = [
        step("prepare_it", "true", trains=False), step("train_a", "true", "prepare_it"),
        step("train_b", slow, "prepare_it"), step("find_best", "true", "train_a", "train_b", trains=False),
    ]  # fmt: skip
    monkeypatch.setattr(slurm, "first_half", lambda _: steps)
    return study


def test_scripts_and_dependencies(study: Study, cluster: Cluster) -> None:
    write_plans(study)
    first, second = study.models
    finish_fold(study, first, 0)
    finish_fold(study, first, 1, npz=False)
    numbers = submit(study, RESOURCES)
    assert list(numbers) == [
        "prepare", f"train_{second.name}_0", f"train_{second.name}_1", f"probabilities_{first.name}_1", "finish",
    ]  # fmt: skip
    prepare, train, finish = (cluster.options(numbers[n]) for n in ("prepare", f"train_{second.name}_1", "finish"))
    assert "gres" not in prepare
    assert "dependency" not in prepare
    assert train["gres"] == "gpu:1"
    assert train["dependency"] == f"afterok:{numbers['prepare']}"
    assert finish["dependency"] == "afterok:" + ":".join(n for name, n in numbers.items() if name != "finish")
    for options in (prepare, train, finish):
        assert options["time"] == "120"
        assert options["mem"] == "16GB"
        assert options["cpus-per-task"] == "4"
        assert options["partition"] == "gpu"
        assert options["account"] == "radiology"
        assert "requeue" in options
        assert options["signal"].startswith("USR2@")
    assert train["job-name"] == f"train_{second.name}_1"
    assert json.loads((study.out / "jobs" / "jobs.json").read_text(encoding="utf-8")) == numbers


def test_jobs_under_way_are_not_submitted_again(study: Study, cluster: Cluster) -> None:
    write_plans(study)
    first = submit(study, RESOURCES)
    submitit.core.core.InfoWatcher.clear(submitit.SlurmJob.watcher)
    (cluster.root / f"{first['prepare']}.state").write_text("COMPLETED")
    failed = f"train_{study.models[0].name}_0"
    (cluster.root / f"{first[failed]}.state").write_text("FAILED")
    second = submit(study, RESOURCES)
    assert (cluster.root / "cancelled").read_text(encoding="utf-8").split() == [first["finish"]], (
        "it did not wait for the new ones"
    )
    new = {name for name in second if second[name] != first.get(name)}
    assert new == {"prepare", failed, "finish"}, "the toy's preparation left nothing, so it is submitted again"
    waiting = cluster.options(second["finish"])["dependency"].removeprefix("afterok:").split(":")
    assert set(waiting) == {n for name, n in second.items() if name != "finish"}
    assert submit(study, RESOURCES) == second, "all are under way"


def _wait_for(condition, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def test_a_time_limit_loses_nothing(toy: Study, cluster: Cluster, tmp_path: Path) -> None:
    numbers = submit(toy, RESOURCES)
    assert list(numbers) == ["prepare", "train_a", "train_b", "finish"]
    made = tmp_path / "made"
    for name in ("prepare", "train_a"):
        assert cluster.start(numbers[name]).wait(60) == 0
    assert (made / "train_a").exists()
    process = cluster.start(numbers["train_b"])
    _wait_for((made / "begun").exists, process)
    process.send_signal(signal.SIGUSR2)  # what sbatch's --signal sends before the limit
    process.wait(60)
    assert (cluster.root / "requeued").read_text(encoding="utf-8").splitlines()[-1] == f"requeue {numbers['train_b']}"
    assert not (made / "train_b").exists()
    logs = toy.folders.results / "crossval_locks"
    assert any(logs.iterdir())
    assert cluster.start(numbers["train_b"]).wait(60) == 0, "started again by SLURM"
    assert (made / "log").read_text(encoding="utf-8") == "begun\nbegun\n"
    assert (made / "train_b").exists()


def test_a_failing_step_fails_its_job(toy: Study, cluster: Cluster, tmp_path: Path) -> None:
    numbers = submit(toy, RESOURCES)
    (tmp_path / "made").rename(tmp_path / "away")
    assert cluster.start(numbers["train_a"]).wait(60) != 0, "SLURM must not start what depends on it"
    log = toy.out / "jobs" / f"{numbers['train_a']}_0_log.err"
    assert log.exists() or list((toy.out / "jobs").glob(f"{numbers['train_a']}*result*"))


def test_processes_of_this_machine(toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made" / "begun").touch()
    monkeypatch.setattr(slurm, "Finish", lambda study: slurm.Job(study, (slurm.first_half(study)[-1],)))
    submit(toy, RESOURCES, cluster="local")
    deadline = time.monotonic() + 60
    while not (tmp_path / "made" / "find_best").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {p.name for p in (tmp_path / "made").iterdir()} >= {"prepare_it", "train_a", "train_b", "find_best"}


def test_dry_run_shows_jobs(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["crossval", "-d", "7", "-tr", "nnUNetTrainer", "-f", "0", "--executor", "slurm", "--dry-run"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    name = "train_nnUNetTrainer__nnUNetPlans__3d_fullres_0"
    assert f"  prepare\n  {name} (GPU)   after prepare\n  finish (GPU)   after prepare, {name}\n" in text
    assert "-device cuda" in text


def test_no_slurm_and_no_submitit(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:
    write_plans(study)
    arguments = ["crossval", "-d", "7", "-tr", "nnUNetTrainer", "--executor", "slurm"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(arguments) == 2
    assert "--executor slurm: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(arguments) == 2
    assert "pip install 'nnunet-mamba[slurm]'" in capsys.readouterr().err
