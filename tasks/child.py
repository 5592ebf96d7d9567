"""The process that builds stages. It reads requests from stdin and answers with events.

    python -m tasks.child NAME      NAME is train or plain. Only process lists show it.

Each line is one JSON object. A request is {"store", "compute", "request", "secrets", "checked"}. An answer is
any number of {"event": "progress"|"log"|"figure"|"damaged"} and then one of
{"event": "made"|"failed"|"damaged input"|"interrupted"}. The last one has the key "checked", the files that
were hashed. Answers go to the stdout that the process started with. Everything that libraries print goes to
stderr, which the parent keeps as the run's log.

SIGTERM asks the process to stop. A build that polls `interrupted()` saves its state first. Any other build
stops at the next Python instruction. The end of stdin means that the parent is gone. The process then stops
in the same way, and is forced to end after a grace period.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from data.errors import DamagedError, Interrupted, PipelineError, UserError, about_storage
from data.files import Checked
from data.secrets import learn, scrub
from data.store import Store
from tasks.config import Compute
from tasks.job import run
from tasks.stage import Request

GRACE = 25.0
"""Seconds a build has to save its state after being asked to stop."""


class Stop:
    """Says whether somebody asked to stop. Builds poll it. It raises in builds that never poll."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.polled = False

    def __call__(self) -> bool:
        """Return whether to stop. The signal does not interrupt a build that asks."""
        self.polled = True
        return self.asked.is_set()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM.

        Raises:
            Interrupted: the current build does not ask whether to stop.
        """
        self.asked.set()
        if not self.polled:
            raise Interrupted("stopped")


Tell = Callable[[dict[str, Any]], None]
"""Sends an event to the parent."""


def serve(answer: Callable[[dict[str, Any], Tell, Stop], dict[str, Any]], grace: float = GRACE) -> None:
    """Answer the requests on stdin, one after another, until it ends or somebody asks to stop.

    Args:
        answer: gets a request, a function that sends events, and the `Stop`. It returns the last event.
        grace: seconds to save state after the parent is gone.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    inbox: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            inbox.put(line)
        inbox.put(None)
        stop.asked.set()
        end = threading.Timer(grace, os._exit, (1,))
        end.daemon = True
        end.start()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()

    def tell(event: dict[str, Any]) -> None:
        try:
            answers.write(json.dumps(event) + "\n")
        except BrokenPipeError:  # the parent is gone: finish saving
            stop.asked.set()

    try:
        while (line := inbox.get()) is not None:
            stop.polled = False
            tell(answer(json.loads(line), tell, stop))
            if stop.asked.is_set():
                break
    except Interrupted:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not disturb the exit


def main() -> None:
    """Build stages until stdin ends."""
    images_cache: dict[Any, Any] = {}
    checked = Checked()

    def answer(message: dict[str, Any], tell: Tell, stop: Stop) -> dict[str, Any]:
        checked.add(message["checked"])
        found = _built(message, tell, stop, images_cache, checked)
        return {**found, "checked": checked.news()}

    serve(answer)


def _built(
    message: dict[str, Any], tell: Tell, stop: Stop, images_cache: dict[Any, Any], checked: Checked
) -> dict[str, Any]:
    learn(message["secrets"])
    request = Request.model_validate(message["request"])
    try:
        store = Store(message["store"], make=False, checked=checked)
        compute = Compute.model_validate(message["compute"])
        with store.in_use():
            made, cached = run(request, store, compute, tell, stop, images_cache)
    except Interrupted as error:
        return {"event": "interrupted", "text": scrub(str(error))}
    except UserError as error:
        return {"event": "failed", "user": True, "kind": type(error).__name__, "text": scrub(str(error))}
    except DamagedError as error:
        return {
            "event": "damaged input",
            "artifact": error.artifact.model_dump(),
            "file": error.file,
            "reason": error.reason,
        }
    except PipelineError as error:
        return {"event": "failed", "user": False, "kind": type(error).__name__, "text": scrub(str(error))}
    except MemoryError:
        traceback.print_exc()
        return {"event": "failed", "user": False, "kind": "MemoryError", "text": "out of memory"}
    except Exception as error:
        known = about_storage(error, Path(message["store"]))
        if known is not None:
            return {"event": "failed", "user": True, "kind": type(known).__name__, "text": scrub(str(known))}
        print(scrub(traceback.format_exc()), file=sys.stderr)
        line = scrub(" ".join(f"{type(error).__name__}: {error}".split()))[:300]  # the log has the full text
        return {"event": "failed", "user": False, "kind": type(error).__name__, "text": line}
    return {"event": "made", "artifact": made.model_dump(), "cached": cached}


if __name__ == "__main__":
    main()
