"""Remember artifacts that are named by outside content, so that unchanged sources are not read again."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress

from data.store import Store, digest, write_json
from data.types import Artifact
from tasks.stage import Request


class Recall:
    """The last result of a stage `by_content`. If its sources are unchanged, no process has to read them.

    The stage's file has a function `stamps(request)`. It returns values that change whenever the sources may
    have changed. The constructor takes the stamps before anything is read, so the next run notices any later
    change.

    Args:
        store: the store that remembers the result.
        request: the stage's request.

    Raises:
        UserError: a source is missing or is not a source.
    """

    def __init__(self, store: Store, request: Request) -> None:
        self.store = store
        self.stamps: list[str | None] = importlib.import_module(f"tasks.stages.{request.stage}").stamps(
            request
        )
        self._kind = request.kind
        self._path = store.cache("listings") / f"{digest(request.model_dump())}.json"

    def made(self) -> Artifact | None:
        """The remembered artifact, if no source changed and the store still has the artifact; else None."""
        with suppress(OSError, ValueError, LookupError, TypeError):  # no record yet, or a damaged one
            known = json.loads(self._path.read_text(encoding="utf-8"))
            made = Artifact(kind=self._kind, fingerprint=str(known["fingerprint"]))
            if None not in self.stamps and known["stamps"] == self.stamps and self.store.has(made):
                return made
        return None

    def keep(self, made: Artifact) -> None:
        """Remember the artifact that was made from the sources."""
        if None not in self.stamps:
            write_json(self._path, {"stamps": self.stamps, "fingerprint": made.fingerprint})
