"""The `gpu` slot: deployments on one machine share its GPU stage by stage, whatever else they run at once.

`knowledge-transfer prefect-setup` makes the limit on Prefect's server. It is held while a stage computes there, neither
by what is found in the store nor while a run is paused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.concurrency.sync import concurrency

from data.errors import Interrupted
from tasks.config import Compute

SLOT = "gpu"
"""Name of the limit on the server."""
DEVICES = Path("/dev")
_ASK = 5.0
"""Seconds after which somebody who waits looks whether it is to stop."""


def on_gpu(compute: Compute) -> bool:
    """Whether stages of a run may compute on a GPU of this machine; without importing torch."""
    if compute.device == "auto":
        return any(DEVICES.glob("nvidia[0-9]*"))
    return compute.device == "cuda"


@contextmanager
def slot(stopping: Callable[[], bool]) -> Iterator[None]:
    """Hold the slot; without such a limit on the server there is nothing to wait for.

    Args:
        stopping: whether the run is to stop.

    Raises:
        Interrupted: it is, before the slot was free.
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
