"""Cases in several processes, none of which outlives the one that started it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class WorkerError(OSError):
    """A worker process was ended from outside; the message says at which cases."""


def in_processes(
    job: Callable[[T], R], items: Sequence[T], n: int, name: Callable[[T], str], told: Callable[[], object]
) -> list[R]:
    """job of every item, in the items' order, in n processes; `told` is called after each. Raises what a job raises,
    and WorkerError."""
    results: dict[int, R] = {}
    left = iter(enumerate(items))
    running: dict[Future[R], tuple[int, T]] = {}
    with ProcessPoolExecutor(n, get_context("spawn"), initializer=_follow_parent) as pool:
        try:
            while True:
                # no more than can run, so that a worker's end tells at which cases
                for k, item in islice(left, n - len(running)):
                    running[pool.submit(job, item)] = k, item
                if not running:
                    return [results[k] for k in range(len(items))]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results[running[future][0]] = future.result()
                    del running[future]
                    told()
        except BrokenProcessPool:
            names = " or ".join(sorted(name(item) for _, item in running.values()))
            raise WorkerError(
                f"a worker process was ended from outside at {names}, most often because memory ran out; use fewer "
                f"--jobs than {n}"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _follow_parent() -> None:
    """End with the process that started this one, even if that is killed; leave Ctrl-C to it"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
