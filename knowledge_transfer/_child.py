"""The one child process that does the work. The first call starts it, and it ends with this process.

This process therefore loads neither torch nor Prefect nor the packages inside.
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
"""Seconds the child may take to end: a run that is stopped saves the state of its stages."""
_ENDS = ("done", "refused", "failed", "cancelled")


class Child:
    """The process, when there is one. One call at a time; others wait."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._said: IO[bytes] | None = None
        self._rest = b""

    def ask(self, do: str, **request: Any) -> Any:
        """Have something done and show its progress on stderr.

        Args:
            do: what, as `flows.service` names it.
            request: its arguments, as JSON values.

        Returns:
            The answer.

        Raises:
            UserError: the mistake is in what was given.
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
            if event["event"] in (
                "failed",
                "cancelled",
            ):  # a new process is safer than one in which something broke
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
        """The process; a new one if it died, or if the environment of this process has changed since."""
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
                start_new_session=True,  # Ctrl-C reaches it through us alone
            )
            atexit.unregister(self.close)
            atexit.register(self.close)
        return self._process

    def _send(self, process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died: reading its answer finds out how
            process.stdin.write(line.encode())
            process.stdin.flush()

    def _answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Show what comes until the answer does. None: the process ended without one."""
        while (event := self._event(process)) is not None:
            if event["event"] in _ENDS:
                return event
            _say(event["text"])
        return None

    def _event(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """The next event. Bytes of an unfinished line are kept, so that Ctrl-C in between loses nothing."""
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
        """Stop what is being done and let it save its state. A second Ctrl-C does not wait for that."""
        end = threading.Timer(PATIENCE, process.kill)
        end.daemon = True
        end.start()
        try:
            process.send_signal(signal.SIGTERM)
            _say("stopping; what was done is kept, the same call goes on from there\n")
            while True:
                try:
                    event = self._event(process)
                except ValueError:  # Ctrl-C came while a line was being read, and cost a part of it
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
        """Close its stdin, which ends it, and wait until it is gone."""
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
        """Why the process ended without an answer."""
        status = process.wait()
        assert self._said is not None
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._end(process)
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        words = f"; its last words: {last}" if last else ""
        kept = "what was done is kept, call again to go on"
        return f"the process that did the work ended by {how}{hint}{words}; {kept}"


def _say(text: str) -> None:
    """Write to whatever stderr is now: notebooks replace it. A broken stderr must not end a run."""
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _terminal() -> str | None:
    """The terminal behind stderr, for bars; None in a notebook, a pipe or a log."""
    try:
        return os.ttyname(sys.stderr.fileno()) if sys.stderr.isatty() else None
    except (AttributeError, OSError, ValueError):  # a stand-in for stderr
        return None


CHILD = Child()
