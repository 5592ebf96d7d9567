"""Ends every command that was asked to stop, even if its main thread waits for something that never comes.

Prefect replaces the handlers of signals while a flow runs, and Python calls handlers in the main thread only.
So a thread of our own reads the numbers of the signals from a pipe, into which the interpreter writes them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from tasks.child import GRACE

PATIENCE = GRACE + 20.0
"""Seconds a command may take to end after it was asked to stop. It saves its state and informs Prefect."""


def always_end(give_up: Callable[[], object]) -> None:
    """Call a function if this process still lives `PATIENCE` after SIGTERM or SIGINT.

    Call this from the main thread, in a process that has a handler for both signals.

    Args:
        give_up: ends the process. It is called from another thread.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def listen() -> None:
        while (number := os.read(read, 1)) and number[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        time.sleep(PATIENCE)
        give_up()

    threading.Thread(target=listen, daemon=True, name="always end").start()
