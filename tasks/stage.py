"""What a stage is: a file that declares an artifact, requests it, makes it, and estimates its cost.

    STAGE = Stage(name="cluster", kind="clusters", version=1, process="plain")

    def plan(config: Config, features: Artifact) -> Request: ...
    def size(run: Context, request: Request, inputs: Inputs) -> Size: ...
    def build(job: Job) -> Outcome: ...

`plan` runs in the flow's process. It is cheap and does not import torch. `size` is for `--dry-run`; see
tasks/size.py. `build` runs in a child process.

The fingerprint of a request is the artifact's name. If the store has that artifact, nothing is built. The
values in a request's `outside` (where the images are, how many may be broken) are not part of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from data.errors import ArtifactError
from data.store import Meta, Store, fingerprint, part_reading
from data.types import Artifact, Frozen, Kind

Process = Literal["train", "plain"]
"""The child process that builds a stage. One process can't load both torch and faiss.

train: torch, never faiss. plain: pyarrow, faiss, scikit-learn, matplotlib, never torch.
"""

Readable = Literal[
    "manifest",
    "photographs",
    "checkpoint",
    "embedded",
    "embedded_test",
    "features",
    "clusters",
    "assignments",
    "codes",
    "assigned",
    "labels",
    "answers",
]
"""What a leaf may read:

- manifest: the run's images, in images.parquet.
- photographs: the images of `evaluate.voc`, likewise.
- checkpoint: each model that was trained without labels, one at a time; `models.saved.load` reads it.
- embedded: the teacher's features of the run's train and unlabelled images; `data.tables.read_vectors` reads
  them.
- embedded_test: the same of the test images. A run has them if the test images have labels.
- features: the vectors that were clustered, likewise. They differ from `embedded` if `cluster.data` is set.
- clusters: centroids.parquet. Its column `size` counts the points that K-means was trained on.
- assignments: the cluster of each image, in part-*.parquet; `data.tables.read_table` takes the folder.
- codes: the labels that the pretext method made for the images, likewise.
- assigned: the manifest of the images that have a cluster.
- labels: the few labels that were drawn, in labels.parquet.
- answers: what the model that ships says of the test images, in answers.parquet.

data/schemas.py has the columns. `Job.meta(name)["rows"]` is the number of rows of the main table. For
clusters, this includes empty ones.
"""


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage.

    Attributes:
        name: an identifier; also the name of its file in `tasks/stages`, or of its entry point.
        kind: kind of its artifact. A new kind does not have to be declared anywhere else.
        version: raised by hand when the meaning of its result changes; part of the fingerprint.
        process: the child process that builds it.
        by_content: True if the fingerprint depends on what `build` reads outside of the store, such as the
            images (`Outcome.content`). The fingerprint is then known only after the build.
        columns: column -> Arrow type of its main table, such as `{"index": "int64"}`, for a kind that only
            this stage makes and reads. data/schemas.py has the columns of all other kinds.
    """

    name: str
    kind: Kind
    version: int
    process: Process
    by_content: bool = False
    columns: Mapping[str, str] | None = None

    def request(
        self,
        *,
        settings: dict[str, Any],
        inputs: dict[str, Artifact] | None = None,
        parts: tuple[str, ...] = (),
        seed: int | None = None,
        outside: dict[str, Any] | None = None,
    ) -> Request:
        """Request an artifact of this stage.

        Args:
            settings: the stage's settings, JSON values only.
            inputs: the artifacts that it reads, by name. Only `parts` of a manifest count in the fingerprint.
            parts: the parts of the manifest that the stage reads.
            seed: key of random draws; None if the stage draws nothing.
            outside: values that the build needs but that are not part of the fingerprint, such as `sources`,
                the places of the manifest's images.
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


@dataclass(frozen=True)
class Leaf(Stage):
    """A stage that only the scores and the report read: a measurement, a check or an export.

    A leaf is not registered anywhere. It is found by its file in `tasks/stages`, or by an entry point of the
    group `knowledge_transfer.stage`. A run includes the leaves that `evaluate.protocols` names. The command
    `list` shows the first line of the file's docstring.

    `plan` is called with (config, **reads). A leaf that reads a checkpoint runs once per model, and its
    `plan` also gets the keyword `model`, the model's name in the scores. A leaf that reads photographs runs a
    second time without a checkpoint, for the same network from scratch.

    Attributes:
        reads: keywords that `plan` gets. If a run lacks one of them, it skips the leaf and says so.
        may_read: more keywords that `plan` gets, each only if the run has it.
        needs_labels: whether it needs labels of train and test images.
        title: name of its rows in the report; empty: its name.
        options: pydantic model of its settings. Users set them in `evaluate.options`, and `plan` reads them
            there.
    """

    reads: tuple[Readable, ...] = ()
    may_read: tuple[Readable, ...] = ()
    needs_labels: bool = False
    title: str = ""
    options: type[Frozen] | None = None

    @property
    def protocol(self) -> str:
        """Its name in `evaluate.protocols` and in the scores."""
        return self.name.replace("_", "-")


class Request(Frozen):
    """A request for an artifact. It is sent to the child process as JSON."""

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
        """The artifact that this request names.

        Args:
            store: holds the manifest. Only the parts that the stage reads go into the fingerprint.
            content: what the build found outside of the store, JSON values. It replaces the seed in the
                fingerprint.

        Raises:
            ArtifactError: the manifest is not in the store.
        """
        reading: dict[str, object] = {}
        for name, given in self.inputs.items():
            manifest = given.kind == "manifest"
            reading[name] = part_reading(store.meta(given), self.parts) if manifest else given.fingerprint
        seed = self.seed
        if content is not None:
            reading["content"], seed = content, None
        return Artifact(
            kind=self.kind, fingerprint=fingerprint(self.stage, self.version, self.settings, seed, reading)
        )


@dataclass
class Outcome:
    """What a build reports.

    Attributes:
        rows: rows of the artifact's main table; for a checkpoint the number of parameters.
        meta: more keys for meta.json.
        content: what a stage `by_content` found outside of the store, JSON values.
    """

    rows: int
    meta: Meta = field(default_factory=dict)
    content: object = None


def require(condition: bool, message: str) -> None:
    """Check a condition of the contract between stages.

    Raises:
        ArtifactError: the condition is false.
    """
    if not condition:
        raise ArtifactError(message)


@dataclass(frozen=True)
class NotNeeded:
    """A stage that runs with other settings have, and that this run leaves out.

    Attributes:
        stage: its label in runs that have it.
        because: why this run leaves it out, as a clause such as `pretext.method is hog`.
        reads: labels of the stages that it would read.
    """

    stage: str
    because: str
    reads: tuple[str, ...]
