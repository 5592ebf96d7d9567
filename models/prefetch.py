"""The next batch is read while this one is worked on. Changes when things happen, never what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    make: Callable[[Item], Result], items: Iterable[Item], depth: int = 2, threads: ThreadPoolExecutor | None = None
) -> Generator[Result]:
    """Yield make(item) in order; up to `depth` results are made ahead.

    An exception of `make` is raised where its result is due. Closing the generator waits for the items being made.

    Args:
        make: called by the threads.
        items: advanced by whoever takes the results.
        depth: how many are made, or being made, beyond the one that is due.
        threads: that make them, closed with the generator; None: one, so that `make` needs no lock.
    """
    with threads or ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
