"""Reads the next batch while the current one is in use. Results are the same, they only come earlier."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    make: Callable[[Item], Result],
    items: Iterable[Item],
    depth: int = 2,
    threads: Executor | None = None,
) -> Generator[Result]:
    """Yield make(item) in order. Up to `depth` results are made ahead of time.

    If `make` raises, the exception is raised when its result is due. Closing the generator waits for the
    items that are being made.

    Args:
        make: called by the threads or processes.
        items: advanced by the thread that takes the results.
        depth: how many results may be made or in the making beyond the one that is due.
        threads: the threads or processes that call `make`, closed with the generator; None: a single thread,
            so `make` needs no lock.
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
