"""A study as jobs of a SLURM cluster, submitted through submitit: one per fold, and the rest when these have ended.

A training that reaches its time limit or is preempted goes back into the queue and continues from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_mamba.study.crossval import local
from nnunet_mamba.study.crossval.commands import CommandFailedError
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.steps import Step, first_half, second_half
from nnunet_mamba.whole_files import read_object, write_json

JOBS = "jobs.json"
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "UNKNOWN",
)


@dataclass(frozen=True)
class Resources:
    """What a job asks of the cluster. Hours, GB, cores."""

    hours: float
    memory_gb: int
    cores: int
    partition: str | None = None
    more: tuple[tuple[str, str], ...] = ()
    """Further options of sbatch, such as ("account", "radiology")."""

    def parameters(self, takes_gpu: bool) -> dict[str, Any]:
        """For submitit"""
        chosen: dict[str, Any] = {
            "timeout_min": max(1, round(60 * self.hours)), "slurm_mem": f"{self.memory_gb}GB",
            "cpus_per_task": self.cores, "slurm_additional_parameters": {"requeue": True, **dict(self.more)},
        }  # fmt: skip
        if takes_gpu:
            chosen["slurm_gres"] = "gpu:1"
        if self.partition is not None:
            chosen["slurm_partition"] = self.partition
        return chosen


class Continued:
    """Work that asks to be started again where the cluster interrupts it; trainings go on from their checkpoints."""

    def __call__(self) -> None:
        """What the job does."""
        raise NotImplementedError

    def checkpoint(self) -> Any:
        """submitit's way to be requeued"""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Job(Continued):
    """One or more steps in a process of their own."""

    study: Study
    steps: tuple[Step, ...]

    def __call__(self) -> None:
        outcome = local.run_all(self.steps, self.study, [local.Slot(None)])
        if outcome.failed:
            raise CommandFailedError("\n".join(outcome.failed.values()))


@dataclass(frozen=True)
class Finish(Continued):
    """nnU-Net's choice and what follows from it."""

    study: Study

    def __call__(self) -> None:
        Job(self.study, (first_half(self.study)[-1],))()
        Job(self.study, tuple(second_half(self.study)))()


class Planned(NamedTuple):
    """A job before it is submitted: what it does, the names of those it waits for, whether it takes a GPU."""

    name: str
    work: Callable[[], None]
    waits: tuple[str, ...]
    takes_gpu: bool


def jobs_of(study: Study) -> list[Planned]:
    """In an order in which they can be submitted. What is done already is left out."""
    steps = [s for s in first_half(study)[:-1] if not s.done()]
    prepared = tuple(s for s in steps if not s.trains)
    jobs = [Planned("prepare", Job(study, prepared), (), False)] if prepared else []
    first = tuple(job.name for job in jobs)
    folds = {s.name: s for s in steps if s.trains and not s.only_repairs}
    repairs = [s for s in steps if s.only_repairs]
    for name, step in folds.items():
        own = tuple(s for s in repairs if name in s.after)
        waits = tuple(other for other in step.after if other in folds)
        jobs.append(Planned(name, Job(study, (step, *own)), (*first, *waits), True))
    alone = [s for s in repairs if not set(folds).intersection(s.after)]
    jobs += [Planned(s.name, Job(study, (s,)), first, True) for s in alone]
    return [*jobs, Planned("finish", Finish(study), tuple(job.name for job in jobs), True)]


def submit(study: Study, resources: Resources, cluster: str = "slurm") -> dict[str, str]:
    """Submit what is not done and not under way; returns the number of every job by name.

    cluster: "slurm", or "local" for processes of this machine. Raises ValueError where submitit or SLURM is missing.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("--executor slurm needs submitit: pip install 'nnunet-mamba[slurm]'") from None
    folder = study.out / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = _under_way(folder, cluster)
    submitted: dict[str, Any] = {}
    for name, work, waits, takes_gpu in jobs_of(study):
        if name in numbers:
            if name != "finish" or not submitted:
                continue
            submitit.SlurmJob(folder=folder, job_id=numbers[name]).cancel()  # it does not wait for the new ones
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=100)
        except RuntimeError as error:
            raise ValueError(f"--executor {cluster}: {error}") from None
        parameters = resources.parameters(takes_gpu)
        if cluster == "slurm":
            before = [numbers[n] for n in waits if n in numbers]
            if before:
                parameters["slurm_additional_parameters"]["dependency"] = f"afterok:{':'.join(before)}"
                parameters["slurm_additional_parameters"]["kill-on-invalid-dep"] = "yes"
        else:
            for n in waits:  # processes of this machine know no dependencies
                if n in submitted:
                    submitted[n].wait()
            parameters = {"timeout_min": parameters["timeout_min"]}
        executor.update_parameters(name=name, **parameters)
        submitted[name] = executor.submit(work)
        numbers[name] = submitted[name].job_id
        write_json(folder / JOBS, numbers)
    return numbers


def _under_way(folder: Path, cluster: str) -> dict[str, str]:
    """Jobs of an earlier submission that have not ended"""
    stored = folder / JOBS
    if cluster != "slurm" or not stored.is_file():
        return {}
    import submitit

    numbers = read_object(stored)
    alive = {}
    for name, number in numbers.items():
        state = submitit.SlurmJob(folder=folder, job_id=number).state.split()[0]
        if state not in ENDED:
            alive[name] = number
    return alive


def table(jobs: Sequence[Planned]) -> str:
    """What would be submitted"""
    return "\n".join(
        f"  {job.name}{' (GPU)' if job.takes_gpu else ''}{'   after ' + ', '.join(job.waits) if job.waits else ''}"
        for job in jobs
    )
