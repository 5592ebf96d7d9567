"""Work spread over processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from threading import Thread
from typing import TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def spread(
    work: Callable[[_Task], _Result], tasks: Iterable[_Task], workers: int, pool: ProcessPoolExecutor | None = None
) -> Iterator[_Result]:
    """`map(work, tasks)`, in order, in that many processes; in this one if there are fewer than two.

    The processes are new ones (spawned), end with the iterator, and with this process however it ends.
    """
    if workers < 2:
        yield from map(work, tasks)
    elif pool is not None:
        yield from pool.map(work, tasks)
    else:
        with open_pool(workers) as pool:
            yield from pool.map(work, tasks)


def open_pool(workers: int) -> ProcessPoolExecutor:
    """New processes for several calls of `spread`, to be shut down by whoever opened them."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A killed parent closes no queues, so its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
