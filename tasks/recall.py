"""Artifacts that are named by what is found outside of the store, known again without looking where nothing has changed."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress

from data.store import Store, digest, write_json
from data.types import Artifact
from tasks.stage import Request


class Recall:
    """What a stage `by_content` made the last time, so that unchanged sources need no process that reads them.

    The stage's file tells by `stamps(request)` what changes whenever its sources may have. They are stamped when this is
    made, before anything is read: what changes in between is seen next time.

    Args:
        store: that remembers.
        request: of the stage.

    Raises:
        UserError: a source is missing or none.
    """

    def __init__(self, store: Store, request: Request) -> None:
        self.store = store
        self.stamps: list[str | None] = importlib.import_module(f"tasks.stages.{request.stage}").stamps(request)
        outside = {name: value for name, value in request.outside.items() if name != "run"}
        asked = request.model_copy(update={"outside": outside})
        self._kind = request.kind
        self._path = store.cache("listings") / f"{digest(asked.model_dump())}.json"

    def made(self) -> Artifact | None:
        """The artifact, if every source has the stamp it had then and the artifact is there."""
        with suppress(OSError, ValueError, LookupError, TypeError):  # nothing remembered yet, or damaged: look anew
            known = json.loads(self._path.read_text())
            made = Artifact(kind=self._kind, fingerprint=str(known["fingerprint"]))
            if None not in self.stamps and known["stamps"] == self.stamps and self.store.has(made):
                return made
        return None

    def keep(self, made: Artifact) -> None:
        """Remember what was found."""
        if None not in self.stamps:
            write_json(self._path, {"stamps": self.stamps, "fingerprint": made.fingerprint})
