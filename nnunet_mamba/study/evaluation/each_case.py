"""One function of many cases, in processes of their own: what fails, or is ended from outside, takes no other along."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
ENDED = "the process that worked on it was ended from outside, as systems do when memory runs out"


def of_each_case(
    function: Callable[[Item], Result],
    items: Mapping[str, Item],
    jobs: int,
    what: str = "cases",
    keep: Callable[[str, Result], object] = lambda name, result: None,
) -> tuple[dict[str, Result], dict[str, str]]:
    """Case -> result, and case -> why there is none. The same for any number of jobs. keep: called with every result
    as soon as it is there."""
    done: dict[str, tuple[Result | None, str | None]] = {}
    attempt: Any = partial(_attempt, function)
    with tqdm(total=len(items), desc=what) as progress:
        for name, outcome in _outcomes(attempt, items, min(jobs, len(items))):
            done[name] = outcome
            if outcome[1] is None:
                keep(name, outcome[0])
            progress.update()
    results: dict[str, Any] = {name: done[name][0] for name in items if done[name][1] is None}
    return results, {name: str(done[name][1]) for name in items if done[name][1] is not None}


def _outcomes(attempt: Callable[[Any], Any], items: Mapping[str, Any], jobs: int) -> Iterator[tuple[str, Any]]:
    if jobs <= 1:
        yield from ((name, attempt(item)) for name, item in items.items())
        return
    left = dict(items)
    for name, outcome in _together(attempt, items, jobs):
        del left[name]
        yield name, outcome
    if not left:
        return
    print(f"\nA process was ended from outside, as systems do when memory runs out; the remaining {len(left)} cases "
          "follow one at a time", file=sys.stderr)  # fmt: skip
    while left:  # a process for all of them; another one after each case that takes its process along
        for name, outcome in _one_by_one(attempt, dict(left)):
            del left[name]
            yield name, outcome


def _together(attempt: Callable[[Any], Any], items: Mapping[str, Any], jobs: int) -> Iterator[tuple[str, Any]]:
    """All cases, or those that were finished when a process was ended"""
    with _pool(jobs) as pool:
        names = {}
        try:
            for name, item in items.items():
                names[pool.submit(attempt, item)] = name
        except BrokenProcessPool:
            pass
        for future in as_completed(names):
            if not isinstance(future.exception(), BrokenProcessPool):
                yield names[future], future.result()


def _one_by_one(attempt: Callable[[Any], Any], items: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Up to the first case whose process is ended, and this one with the reason"""
    with _pool(1) as pool:
        for name, item in items.items():
            try:
                outcome = pool.submit(attempt, item).result()
            except BrokenProcessPool:
                yield name, (None, ENDED)
                return
            yield name, outcome


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Its processes end with the block, whatever ends it, and with this process"""
    others = set(active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
        pool.shutdown()
    finally:
        workers = set(active_children()) - others
        pool.shutdown(wait=False, cancel_futures=True)
        for process in workers:
            process.terminate()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _attempt(function: Callable[[Item], Result], item: Item) -> tuple[Result | None, str | None]:
    try:
        return function(item), None
    except ValueError as error:
        return None, str(error)
    except MemoryError:
        return None, "not enough memory"
    except Exception as error:  # hours of other cases are worth more than a traceback
        return None, f"{type(error).__name__}: {error}"
