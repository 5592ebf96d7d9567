"""The `gpu` slot: runs of deployments on one machine use its GPU one stage at a time.

`knowledge-transfer prefect-setup` creates the concurrency limit on Prefect's server. A stage holds the slot
only while it computes. Cached stages and paused runs do not hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.concurrency.sync import concurrency

from data.errors import Interrupted
from tasks.config import Compute

SLOT = "gpu"
"""Name of the concurrency limit on the server."""
DEVICES = Path("/dev")
_ASK = 5.0
"""Seconds between two checks whether a waiting run was asked to stop."""


def on_gpu(compute: Compute) -> bool:
    """Whether the stages of a run may use a GPU of this machine. This does not import torch."""
    if compute.device == "auto":
        return any(DEVICES.glob("nvidia[0-9]*"))
    return compute.device == "cuda"


@contextmanager
def slot(stopping: Callable[[], bool]) -> Iterator[None]:
    """Wait for the slot and hold it. If the server has no such limit, continue at once.

    Args:
        stopping: returns whether the run was asked to stop.

    Raises:
        Interrupted: the run was asked to stop while it waited.
    """
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(concurrency(SLOT, timeout_seconds=_ASK))
                break
            except TimeoutError:
                if stopping():
                    raise Interrupted("stopped while waiting for the GPU") from None
        yield
