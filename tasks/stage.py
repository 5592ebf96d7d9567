"""What a stage is: a file that says what it asks for (`plan`) and how that is made (`build`).

    STAGE = Stage(name="cluster", kind="clusters", version=1, process="plain")

    def plan(config: Config, features: Artifact) -> Request: ...    in the flow's process; cheap, no torch
    def build(job: Job) -> Outcome: ...                             in a child process

A request's fingerprint is the artifact's name: if the store has it, nothing is built. What a request holds `outside` (where
images lie, how many may be broken) is not part of the name.
"""

from __future__ import annotations

import base64
import importlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.errors import ArtifactError
from data.store import Meta, Store, fingerprint, part_reading
from data.types import Artifact, Frozen, Kind
from tasks.config import Compute

if TYPE_CHECKING:
    from data.images import Images

Process = Literal["train", "plain"]
"""train: torch, never faiss. plain: pyarrow, faiss, scikit-learn, matplotlib, never torch."""


@dataclass(frozen=True)
class Stage:
    """A stage's identity.

    Attributes:
        name: also the module `tasks.stages.<name>`.
        kind: what it makes.
        version: raised by hand when the meaning of its result changes; part of the fingerprint.
        process: where it is built.
        by_content: whether the artifact is named by what its build finds outside of the store (`Outcome.content`).
    """

    name: str
    kind: Kind
    version: int
    process: Process
    by_content: bool = False

    def request(
        self,
        *,
        settings: dict[str, Any],
        inputs: dict[str, Artifact] | None = None,
        parts: tuple[str, ...] = (),
        seed: int | None = None,
        outside: dict[str, Any] | None = None,
    ) -> Request:
        """Ask for an artifact of this stage.

        Args:
            settings: the stage's own configuration, JSON values only.
            inputs: artifacts read, by name. Of `manifest` only `parts` count, of others all.
            parts: parts of the manifest that the stage reads.
            seed: what random draws are keyed by; None if there are none.
            outside: what is needed but is not part of the fingerprint: `sources`, where the manifest's images lie.
        """
        return Request(
            stage=self.name,
            kind=self.kind,
            version=self.version,
            process=self.process,
            by_content=self.by_content,
            settings=settings,
            inputs=inputs or {},
            parts=parts,
            seed=seed,
            outside=outside or {},
        )


class Request(Frozen):
    """An artifact asked for. Travels to the child as JSON."""

    stage: str
    kind: Kind
    version: int
    process: Process
    by_content: bool = False
    settings: dict[str, Any]
    inputs: dict[str, Artifact]
    parts: tuple[str, ...]
    seed: int | None
    outside: dict[str, Any]

    def artifact(self, store: Store, content: object = None) -> Artifact:
        """The artifact this request names.

        Args:
            store: holds the manifest, of which only parts are read.
            content: what was found outside of the store, JSON values; it takes the seed's place.

        Raises:
            ArtifactError: if the manifest it reads is not in the store.
        """
        reading: dict[str, object] = {}
        for name, given in self.inputs.items():
            manifest = given.kind == "manifest"
            reading[name] = part_reading(store.meta(given), self.parts) if manifest else given.fingerprint
        seed = self.seed
        if content is not None:
            reading["content"], seed = content, None
        return Artifact(kind=self.kind, fingerprint=fingerprint(self.stage, self.version, self.settings, seed, reading))


@dataclass
class Outcome:
    """What a build reports.

    Attributes:
        rows: rows of the artifact's main table; for a checkpoint the number of parameters.
        meta: further keys of meta.json.
        content: set by a stage `by_content`: what it found; JSON values.
    """

    rows: int
    meta: Meta = field(default_factory=dict)
    content: object = None


@dataclass
class Job:
    """What a build gets: its settings, its inputs, where to write, whom to tell."""

    store: Store
    request: Request
    out: Path
    state: Path
    compute: Compute
    tell: Callable[[dict[str, Any]], None]
    interrupted: Callable[[], bool]
    images_cache: dict[Any, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The stage's own configuration."""
        return self.request.settings

    @property
    def seed(self) -> int:
        """The stage's seed."""
        assert self.request.seed is not None, f"{self.request.stage} was asked for without a seed"
        return self.request.seed

    def path(self, name: str) -> Path:
        """Folder of an input."""
        return self.store.folder(self.request.inputs[name])

    def meta(self, name: str) -> Meta:
        """meta.json of an input."""
        return self.store.meta(self.request.inputs[name])

    def has(self, content: object) -> bool:
        """Whether the artifact that such content names is there: then nothing need be written."""
        return self.store.has(self.request.artifact(self.store, content))

    def images(self, size: int, *, whole: bool = False) -> Images:
        """Pixels of the manifest's images by index, for networks that see `size` px.

        Args:
            size: side of the squares that are seen, px; some more are stored, for random crops.
            whole: all of each image, within exactly `size` px.
        """
        from data import decode, images, schemas, tables

        manifest = self.request.inputs["manifest"]
        stored = size if whole else decode.stored_size(size)
        known = (manifest.fingerprint, stored, whole)
        if known not in self.images_cache:
            table = tables.read_table(self.path("manifest") / "images.parquet", schemas.MANIFEST)
            sources = {role: source for role, source in self.request.outside["sources"].items() if source}
            self.images_cache[known] = images.open_images(
                table, sources, stored, cache=self.store.cache("images"), workers=self.compute.workers, whole=whole
            )
        opened: Images = self.images_cache[known]
        return opened

    def log(self, text: str) -> None:
        """A line that a person wants to read."""
        self.tell({"event": "log", "text": text})

    def figure(self, key: str, title: str, png: bytes) -> None:
        """A picture for the run's page, at most 200 kB; `key` is lower-case with dashes."""
        self.tell({"event": "figure", "key": key, "title": title, "png": base64.b64encode(png).decode()})

    def report(self, **values: Any) -> None:
        """Progress: `done`, `total`, and what else there is (epoch, rate, eta, loss, learning_rate, data_share)."""
        self.tell({"event": "progress", **values})


def run(job_request: Request, store: Store, compute: Compute, tell: Callable[[dict[str, Any]], None],
        interrupted: Callable[[], bool], images_cache: dict[Any, Any]) -> tuple[Artifact, bool]:  # fmt: skip
    """Make the artifact of a request, or find it made.

    Returns:
        The artifact, and whether it was there already.
    """
    build: Callable[[Job], Outcome] = importlib.import_module(f"tasks.stages.{job_request.stage}").build
    wanted = job_request.artifact(store)

    def waiting() -> None:
        tell({"event": "log", "text": f"waiting: another run is making {wanted.path}"})

    with store.draft(wanted, interrupted=interrupted, waiting=waiting) as draft:
        if store.has(wanted):  # made while this process waited
            return wanted, True
        started = time.time()
        job = Job(store, job_request, draft / "out", draft / "state", compute, tell, interrupted, images_cache)
        outcome = build(job)
        made = wanted
        if outcome.content is not None:
            made = job_request.artifact(store, outcome.content)
            if store.has(made):
                return made, True
        meta = {
            "stage": job_request.stage,
            "version": job_request.version,
            "config": {**job_request.settings, "seed": job_request.seed},
            "inputs": {name: given.model_dump() for name, given in job_request.inputs.items()},
            "libraries": libraries(),
            "seconds": round(time.time() - started, 3),
            "rows": outcome.rows,
            **outcome.meta,
        }
        store.publish(made, draft, meta)
        return made, False


_LIBRARIES = {
    "torch",
    "torchvision",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "pillow",
    "simplejpeg",
}


@cache
def libraries() -> dict[str, str]:
    """Versions of what results depend on, as far as installed."""
    found = {d.name.lower(): d.version for d in distributions() if d.name and d.name.lower() in _LIBRARIES}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def require(condition: bool, message: str) -> None:
    """Refuse an input that breaks the contract between stages.

    Raises:
        ArtifactError: with the message, if the condition is false.
    """
    if not condition:
        raise ArtifactError(message)
