"""The job that a build gets, and the function that makes an artifact."""

from __future__ import annotations

import base64
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DamagedError
from data.files import Checked
from data.store import Meta, Store, digest
from data.types import Artifact
from tasks.config import Compute
from tasks.found import stage_module
from tasks.stage import Outcome, Request, require

if TYPE_CHECKING:
    from data.images import Images
    from data.packs import Shape
    from models.network import Network
    from models.opened import Opened


@dataclass
class Job:
    """What a build gets: settings, inputs, folders to write to, and callbacks.

    Attributes:
        store: the store.
        request: the request for the artifact.
        out: folder of the artifact's files.
        state: folder of resumable state; it survives a killed run and is not part of the artifact.
        compute: where and how to compute.
        tell: sends an event to the run.
        interrupted: whether the run was asked to stop.
        images_cache: opened images, shared by the jobs of a process.
    """

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
        """The stage's settings."""
        return self.request.settings

    @property
    def seed(self) -> int:
        """The stage's seed."""
        assert self.request.seed is not None, f"{self.request.stage} was asked for without a seed"
        return self.request.seed

    def path(self, name: str) -> Path:
        """The folder of an input, whose files were hashed.

        Raises:
            DamagedError: a file is missing, or is not what was written. The run then makes the input again,
                and starts this build again.
        """
        return self.store.whole(self.request.inputs[name])

    def meta(self, name: str) -> Meta:
        """The meta.json of an input.

        Raises:
            DamagedError: it is missing, or is not what was written.
        """
        return self.store.meta(self.request.inputs[name])

    def set_aside(self, artifact: Artifact) -> None:
        """Move a damaged artifact, which this build does not need, out of the way, and say so."""
        moved = self.store.set_aside(artifact)
        if moved is not None:
            self.tell({"event": "damaged", "text": str(moved)})

    def has(self, content: object) -> bool:
        """Whether the store has the artifact with this content. If so, the build can skip writing it."""
        return self.store.has(self.request.artifact(self.store, content))

    def images(self, size: int, *, whole: bool = False) -> Images:
        """Open the manifest's images, to read their pixels by index.

        Args:
            size: side of the squares that networks see, px. The stored squares are a bit larger, for random
                crops.
            whole: keep all of each image, scaled to fit into exactly `size` px.
        """
        from data import packs, preprocessing

        stored = size if whole else preprocessing.stored_size(size)
        return self._images(packs.Shape(stored, whole))

    def images_for(self, *networks: Network | Opened) -> Images:
        """Open the manifest's images as squares that networks take.

        Args:
            *networks: one network, whose `rule` says how its squares are made; or several that see views of
                the same squares. If these differ in what they take, the squares are the usual ones, as large
                as the largest of them needs.
        """
        from data import packs

        shapes = {packs.Shape(rule.stored, way=rule.way) for rule in (each.rule for each in networks)}
        one = len(shapes) == 1
        return self._images(shapes.pop() if one else packs.Shape(max(shape.size for shape in shapes)))

    def _images(self, shape: Shape) -> Images:
        """Open the manifest's images in a shape. The manifest says how they are read."""
        from data import images, schemas, tables

        manifest = self.request.inputs["manifest"]
        known = (manifest.fingerprint, shape)
        if known not in self.images_cache:
            table = tables.read_table(self.path("manifest") / "images.parquet", schemas.MANIFEST)
            read = images.reading_of(table, self.meta("manifest"))
            sources = {role: source for role, source in self.request.outside["sources"].items() if source}
            self.images_cache[known] = images.open_images(
                table,
                sources,
                shape.size,
                cache=self.store.cache("images"),
                workers=self.compute.workers,
                whole=shape.whole,
                reading=read,
                checked=self.store.checked,
                note=self.log,
                way=shape.way,
            )
        opened: Images = self.images_cache[known]
        return opened

    def write(self, name: str, rows: Mapping[str, Any]) -> int:
        """Write a table with the columns that the stage declares (`Stage.columns`).

        Args:
            name: name of the file, such as pairs.parquet.
            rows: column -> values.

        Returns:
            The number of rows.

        Raises:
            ArtifactError: the columns differ from the declared ones.
        """
        from data.tables import write_table

        return write_table(self.out / name, rows, stage_module(self.request.stage).STAGE.columns or {})

    def log(self, text: str) -> None:
        """Log a line for people to read."""
        self.tell({"event": "log", "text": text})

    def figure(self, key: str, title: str, png: bytes) -> None:
        """Show a picture of at most 200 kB on the run's page. `key` is lower-case with dashes."""
        self.tell({"event": "figure", "key": key, "title": title, "png": base64.b64encode(png).decode()})

    def report(self, **values: Any) -> None:
        """Report progress: `done`, `total`, optionally epoch, rate, eta, loss, learning_rate, data_share."""
        self.tell({"event": "progress", **values})


def run(
    job_request: Request,
    store: Store,
    compute: Compute,
    tell: Callable[[dict[str, Any]], None],
    interrupted: Callable[[], bool],
    images_cache: dict[Any, Any],
) -> tuple[Artifact, bool]:
    """Make the artifact of a request, unless the store already has it.

    Returns:
        The artifact, and whether the store already had it.
    """
    build: Callable[[Job], Outcome] = stage_module(job_request.stage).build
    wanted = job_request.artifact(store)
    place = wanted
    if job_request.by_content:  # until the content is known, the draft is named by the request
        place = Artifact(kind=wanted.kind, fingerprint=digest(job_request.model_dump()))

    def waiting() -> None:
        tell({"event": "log", "text": f"waiting: another run is making {place.path}"})

    def set_aside(artifact: Artifact) -> None:
        moved = store.aside(artifact)
        if moved is not None:
            tell({"event": "damaged", "text": str(moved)})

    with store.draft(place, interrupted=interrupted, waiting=waiting) as draft:
        if store.has(wanted):  # another run made it while this one waited
            return wanted, True
        set_aside(wanted)
        started = time.monotonic()
        job = Job(
            store, job_request, draft / "out", draft / "state", compute, tell, interrupted, images_cache
        )
        with _channels(job), _whole_inputs(job):
            outcome = build(job)
        made = wanted
        if outcome.content is not None:
            made = job_request.artifact(store, outcome.content)
            if store.has(made):
                return made, True
            set_aside(made)
        _count(outcome, draft / "out", job_request.stage)
        meta = {
            "stage": job_request.stage,
            "version": job_request.version,
            "config": {**job_request.settings, "seed": job_request.seed},
            "inputs": {name: given.model_dump() for name, given in job_request.inputs.items()},
            "libraries": libraries(),
            "seconds": round(time.monotonic() - started, 3),
            "rows": outcome.rows,
            **outcome.meta,
        }
        store.publish(made, draft, meta)
        return made, False


@contextmanager
def _whole_inputs(job: Job) -> Iterator[None]:
    """If a build fails, look whether an input was damaged or set aside after it had been checked.

    Raises:
        DamagedError: it was. The run then makes it again, and starts this build again.
    """
    try:
        yield
    except DamagedError:
        raise
    except Exception as error:
        for given in job.request.inputs.values():
            damage = job.store.damage(given, checked=Checked())
            if damage is not None:
                raise damage from error
        raise


def _count(outcome: Outcome, out: Path, stage: str) -> None:
    """Publish no artifact whose parts hold another number of rows than the stage says."""
    if any(out.glob("part-*.parquet")):
        from data.tables import rows_of_parts

        written = rows_of_parts(out)
        require(
            written == outcome.rows,
            f"{stage}: {written:,} rows were written, but there are {outcome.rows:,}; nothing was published",
        )


def _channels(job: Job) -> AbstractContextManager[None]:
    """Networks that the build makes are for the number of channels of the job's images."""
    given = job.request.inputs.get("manifest")
    channels = 3 if given is None else job.store.meta(given).get("channels", 3)
    if channels == 3 or job.request.process != "train":
        return nullcontext()
    from models.network import seeing

    return seeing(channels)


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
    "timm",
}


@cache
def libraries() -> dict[str, str]:
    """Versions of the installed libraries that results depend on."""
    found = {d.name.lower(): d.version for d in distributions() if d.name and d.name.lower() in _LIBRARIES}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}
