"""Pixels: fits a linear classifier to small images, the simplest classifier that the labels allow.

It is judged out of fold like all others. It can't ship, but the student learns from its probabilities. If
colours alone tell the classes apart, it can know more than a network learns in a few minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, decoded, images_of
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="pixels", kind="probabilities", version=2, process="plain")

SIDE, SMALLER, MANY = 32, 16, 1000
"""Largest side of the small images, px, and the side with more than `MANY` labels, because a fit to larger
images would then take minutes."""
BLOCK = 4096
"""Images that are in memory at a time."""


def plan(config: Config, manifest: Artifact, labels: Artifact) -> Request:
    """Request a linear classifier on pixels, and the classes of all images by it.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        labels: the drawn labels.
    """
    settings: dict[str, Any] = {"image_size": config.data.image_size, "sides": [SIDE, SMALLER, MANY]}
    if config.finetune.balanced:
        settings["balanced"] = True
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "labels": labels},
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images = images_of(inputs)
    found = Size(images.all, images.all * (4 * images.classes + 8), width=images.classes)
    found.seconds = decoded(run, images, images.all)
    return found


def build(job: Job) -> Outcome:
    """Fit a logistic regression to the labelled images' pixels, and apply it to all images."""
    import numpy as np
    from scipy.special import softmax

    from data import schemas
    from data.tables import VectorWriter, column, read_table
    from models.evaluation.linear_head import fit_head
    from tasks.out_of_fold import write_out_of_fold
    from tasks.rows import drawn_rows

    table = read_table(job.path("manifest") / "images.parquet", schemas.MANIFEST)
    index = column(table, "index")[column(table, "split") != "test"]
    drawn, label = drawn_rows(job.path("labels"))
    images, classes = job.images(job.settings["image_size"]), len(job.meta("manifest")["classes"])

    side, smaller, many = job.settings["sides"]
    side = side if len(label) <= many else smaller

    def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return shrunk(images.read(rows), side)

    balanced = job.settings.get("balanced", False)
    head = fit_head(read(drawn), label, classes, seed=job.seed, balanced=balanced)
    write_out_of_fold(job.out, drawn[head.position], head.out_of_fold.label, head.out_of_fold.logits)
    with VectorWriter(job.out, schemas.probabilities(classes)) as out:
        for start in range(0, len(index), BLOCK):
            rows = index[start : start + BLOCK]
            out.write(rows, softmax(read(rows) @ head.weight.T + head.bias, axis=1).astype(np.float32))
    return Outcome(rows=len(index), meta={"penalty": head.penalty})


def shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Average pixels over squares, so that at most `side` are left along each axis.

    Args:
        pixels: (B, S, S, C) uint8.
        side: at least 1.

    Returns:
        (B, s s C) float32 in [0, 1], s = S // k with k = S / side, rounded up. What does not fill a square at
        the right and at the bottom is left out.
    """
    import numpy as np

    b, s, _, channels = pixels.shape
    k = -(-s // side)
    n = s // k
    squares = pixels[:, : n * k, : n * k].reshape(b, n, k, n, k, channels)
    found: NDArray[np.float32] = squares.mean(axis=(2, 4), dtype=np.float32).reshape(b, -1) / 255
    return found
