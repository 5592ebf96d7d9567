"""The one child process that does the work. The first call starts it, and it ends with this process.

This process therefore loads neither torch nor Prefect nor the packages of the pipeline.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import IO, Any

from knowledge_transfer.errors import RunFailed, UserError
from knowledge_transfer.place import environment, refusal

PATIENCE = 60.0
"""Seconds the child may take to end. A stopped run first saves the state of its stages."""
_ENDS = ("done", "refused", "failed", "cancelled")


class Child:
    """The child process, if there is one. It serves one call at a time, and other calls wait."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._said: IO[bytes] | None = None
        self._rest = b""

    def ask(self, do: str, **request: Any) -> Any:
        """Send a request to the child and show its progress on stderr.

        Args:
            do: the name of the request in `flows.service`.
            request: the arguments, as JSON values.

        Returns:
            The answer.

        Raises:
            UserError: the user made a mistake.
            RunFailed: the run failed, or the child died.
        """
        refused = refusal(sys.platform)
        if refused is not None:
            raise UserError(refused)
        line = json.dumps({"do": do, "folder": os.getcwd(), "terminal": _terminal(), **request}) + "\n"
        with self._turn:
            process = self._running()
            try:
                self._send(process, line)
                event = self._answer(process)
            except BaseException:
                self._stop(process)
                raise
            if event is None:
                raise RunFailed(self._explain(process))
            # A new process is safer than one in which something broke.
            if event["event"] in ("failed", "cancelled"):
                self._end(process)
        if event["event"] == "done":
            return event["value"]
        error = UserError(event["text"]) if event["event"] == "refused" else RunFailed(event["text"])
        if event["details"]:
            error.add_note(event["details"])
        raise error

    def close(self) -> None:
        """End the process. The next call starts another one."""
        if self._process is not None:
            self._end(self._process)

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the process. Start a new one if it died, or if our environment has changed since."""
        wanted = environment()
        if self._process is not None and (self._process.poll() is not None or self._environment != wanted):
            self._end(self._process)
        if self._process is None:
            self._environment, self._rest = wanted, b""
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "flows.service"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=wanted,
                start_new_session=True,  # Ctrl-C reaches only us
            )
            atexit.unregister(self.close)
            atexit.register(self.close)
        return self._process

    def _send(self, process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the child died: reading its answer finds out how
            process.stdin.write(line.encode())
            process.stdin.flush()

    def _answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Show messages until the answer comes. None means that the process ended without an answer."""
        while (event := self._event(process)) is not None:
            if event["event"] in _ENDS:
                return event
            _say(event["text"])
        return None

    def _event(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Read the next event. The bytes of an unfinished line are kept, so that Ctrl-C loses nothing."""
        assert process.stdout is not None
        while b"\n" not in self._rest:
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop the current request and let it save its state. A second Ctrl-C does not wait for that."""
        end = threading.Timer(PATIENCE, process.kill)
        end.daemon = True
        end.start()
        try:
            process.send_signal(signal.SIGTERM)
            _say("stopping; what was done is kept, and the same call resumes from there\n")
            while True:
                try:
                    event = self._event(process)
                except ValueError:  # Ctrl-C interrupted the reading of a line, and part of it is lost
                    continue
                if event is None or event["event"] in _ENDS:
                    break
                _say(event["text"])
        except BaseException:
            process.kill()
            raise
        finally:
            end.cancel()
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Close the stdin of the process, which ends it, and wait until it is gone."""
        self._process = None
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]  # a pipe, as asked for in _running
        try:
            process.wait(PATIENCE)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            process.stdout.close()  # type: ignore[union-attr]
            if self._said is not None:
                self._said.close()

    def _explain(self, process: subprocess.Popen[bytes]) -> str:
        """Say why the process ended without an answer."""
        status = process.wait()
        assert self._said is not None
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._end(process)
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        words = f"; its last words: {last}" if last else ""
        kept = "what was done is kept; call again to resume"
        return f"the process that did the work ended by {how}{hint}{words}; {kept}"


def _say(text: str) -> None:
    """Write to the current stderr, because notebooks replace it. A broken stderr must not end a run."""
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _terminal() -> str | None:
    """Return the path of the terminal behind stderr, or None in a notebook, a pipe or a log."""
    try:
        return os.ttyname(sys.stderr.fileno()) if sys.stderr.isatty() else None
    except (AttributeError, OSError, ValueError):  # something has replaced stderr
        return None


CHILD = Child()
