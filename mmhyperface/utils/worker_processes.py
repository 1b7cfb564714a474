"""Work that several processes share, in order and without running far ahead."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import parent_process
from typing import Any


def end_with_parent() -> None:
    """To be called in a worker, which would wait for ever if the run is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def in_order(
    pool: ProcessPoolExecutor, work: Callable, tasks: Iterable, ahead: int
) -> Iterator[Any]:
    """``work(task)`` of each task, so many of which are under way at most.

    The workers start at once, and so before the threads of a progress bar, which they
    could inherit at a bad moment.
    """
    pool.submit(int).result()
    return _results(pool, work, tasks, ahead)


def _results(
    pool: ProcessPoolExecutor, work: Callable, tasks: Iterable, ahead: int
) -> Iterator[Any]:
    waiting: deque[Future] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
