"""Spread work over processes, or over threads."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Lock, Thread
from typing import Self, TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def spread(
    work: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    workers: int,
    pool: ProcessPoolExecutor | None = None,
) -> Iterator[_Result]:
    """Like `map(work, tasks)`, in order, but in `workers` processes.

    With fewer than two workers, this process does the work. With a `pool`, its processes do the work. Without
    one, new processes are spawned, which end with the iterator. They also end when this process ends, even if
    it is killed.
    """
    if workers < 2:
        yield from map(work, tasks)
    elif pool is not None:
        yield from pool.map(work, tasks)
    else:
        with open_pool(workers) as pool:
            yield from pool.map(work, tasks)


def open_pool(workers: int) -> ProcessPoolExecutor:
    """Start new processes for several calls of `spread`. The caller must shut the pool down."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(context.Lock(),))


class Threads:
    """Threads for work that numpy, scipy or Pillow do: they let other threads run meanwhile.

    Args:
        workers: number of threads. With fewer than two, the calling thread does the work.
    """

    def __init__(self, workers: int = 0) -> None:
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Like `map`, in order. At most twice as many tasks as threads are taken before their turn."""
        if self._workers < 2:
            yield from map(work, tasks)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers)
        begun: deque[Future[_Result]] = deque()
        for task in tasks:
            begun.append(self._pool.submit(work, task))
            if len(begun) > 2 * self._workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


INLINE = Threads()
"""No threads: the caller does the work."""


_alone: AbstractContextManager[object] = Lock()


def alone() -> AbstractContextManager[object]:
    """A lock for work that needs much memory. The workers of a pool share it, so they take turns.

    A process that is not a worker has its own. It is not reentrant.
    """
    return _alone


def _begin(shared: AbstractContextManager[object]) -> None:
    """Prepare a worker: take the pool's lock, and end when the parent ends.

    A killed parent does not close its queues, so without this its workers would wait forever.
    """
    global _alone
    _alone = shared
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
