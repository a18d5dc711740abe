"""Running steps on this machine: one at a time on each GPU, or one at a time on the CPU."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from nnunet_mamba.study.crossval.commands import (
    BusyError,
    CommandFailedError,
    StockCommands,
    end_running,
    environment,
    exclusive,
)
from nnunet_mamba.study.crossval.definition import Study
from nnunet_mamba.study.crossval.energy import ENERGY, measured
from nnunet_mamba.study.crossval.steps import Step, first_half, second_half

LOCKS = "crossval_locks"


@dataclass
class Outcome:
    """Names of steps."""

    done_before: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    """Of the failed ones: those that another process does at this moment."""
    not_tried: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Slot:
    """A place where one step at a time runs: a GPU's number, or None for whatever nnU-Net takes."""

    gpu: str | None

    def environment(self, device: str) -> dict[str, str]:
        return environment(device) if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}


def run_study(study: Study, gpus: Sequence[str] | None = None) -> int:
    """Everything on this machine; 0, or 1 when a step failed. Raises ValueError for GPUs without CUDA."""
    if gpus and study.device != "cuda":
        raise ValueError(f"--gpus {' '.join(gpus)} with -device {study.device}; leave one of them out")
    slots = [Slot(g) for g in gpus] if gpus else [Slot(None)]
    print(
        f"{len(study.models)} models, {len(study.folds)} folds of {study.dataset} on {study.device}; logs: {study.out}"
    )
    outcome = run_all(first_half(study), study, slots)
    if not outcome.failed:
        outcome = run_all(second_half(study), study, slots)
    if outcome.failed:
        _print_failures(outcome)
        return 1
    print(f"\nReport: {study.out / 'comparison' / 'report.html'}")
    if study.unseen_labels is not None:
        print(f"Unseen cases: {study.out / 'comparison_unseen' / 'report.html'}")
    return 0


def _print_failures(outcome: Outcome) -> None:
    failed = [name for name in outcome.failed if name not in outcome.busy]
    print()
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    if outcome.busy:
        print(f"Left to another process, named above: {', '.join(outcome.busy)}.")
    print(f"Not tried, since they need these: {', '.join(outcome.not_tried) or 'none'}.\n"
          "Run the same command again to continue.")  # fmt: skip


def run_step(step: Step, study: Study, environment: dict[str, str], prefix: str = "") -> bool:
    """Whether there was something to do. Raises CommandFailedError, also where a command left its work undone."""
    if step.done():
        if not step.only_repairs:
            print(f"{step.title}: done before", flush=True)
        return False
    if step.trains:
        study.write_split()
    with exclusive(study.folders.results / LOCKS / f"{step.name}.lock", step.title) as inherited:
        commands = StockCommands(study.out, environment, inherited)
        print(f"{step.title}\n    $ {shlex.join(step.command)}", flush=True)
        with measured(study.out / ENERGY / f"{step.name}.csv"):
            seconds = commands.execute(step.name, step.command, prefix)
    if not step.done():
        raise CommandFailedError(f"{step.command[0]} ended without error, but its results are not there: {step.title}")
    print(f"    {prefix}{seconds:.0f} s", flush=True)
    return True


def run_all(steps: Sequence[Step], study: Study, slots: Sequence[Slot]) -> Outcome:
    """All steps whose predecessors succeed; a failure stops only what needs it. A Ctrl-C stops all that run."""
    outcome, waiting, finished = Outcome(), list(steps), set[str]()
    known = {s.name for s in steps}
    free = list(slots)
    running: dict[Future[bool], tuple[Step, Slot]] = {}
    stop = threading.Event()
    with ThreadPoolExecutor(len(slots)) as pool:
        try:
            while waiting or running:
                for step in _ready(waiting, finished, known, outcome):
                    if not free:
                        break
                    waiting.remove(step)
                    slot = free.pop(0)
                    prefix = f"[{step.name}] " if len(slots) > 1 else ""
                    job = pool.submit(_unless(stop, run_step), step, study, slot.environment(study.device), prefix)
                    running[job] = step, slot
                if not running:
                    break
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    step, slot = running.pop(job)
                    free.append(slot)
                    _note(job, step, finished, outcome)
        except BaseException:
            stop.set()
            end_running()
            raise
    outcome.not_tried += [s.name for s in waiting]
    return outcome


def _ready(waiting: list[Step], finished: set[str], known: set[str], outcome: Outcome) -> list[Step]:
    lost = {*outcome.failed, *outcome.not_tried}
    for step in list(waiting):
        if lost.intersection(step.after):
            waiting.remove(step)
            outcome.not_tried.append(step.name)
            lost.add(step.name)
    return [s for s in waiting if all(name in finished or name not in known for name in s.after)]


def _note(job: Future[bool], step: Step, finished: set[str], outcome: Outcome) -> None:
    try:
        (outcome.done if job.result() else outcome.done_before).append(step.name)
        finished.add(step.name)
    except BusyError as error:
        outcome.failed[step.name] = str(error)
        outcome.busy.append(step.name)
        print(f"    left alone: {error}", flush=True)
    except (CommandFailedError, ValueError, OSError) as error:
        outcome.failed[step.name] = str(error)
        print(f"    failed, going on with what does not need it: {error}", flush=True)


def _unless(stop: threading.Event, function: Callable[..., bool]) -> Callable[..., bool]:
    def run(*arguments: object) -> bool:
        if stop.is_set():
            raise CommandFailedError("interrupted")
        return function(*arguments)

    return run
