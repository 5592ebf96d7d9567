"""Transfer: trains the student from scratch on pseudo-labels, on stored features, or on the teacher's output.

From clusters, the student learns only which images belong together. It does not see the features.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from data.types import Artifact
from models.configs import TRANSFER
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, classifier, cost_of, decoded, images_of, steps, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.network import Network

STAGE = Stage(name="transfer", kind="checkpoint", version=2, process="train")


def plan(
    config: Config, manifest: Artifact, checkpoint: Artifact | None = None, *, phase: str, **learned: Artifact
) -> Request:
    """Request the student, trained on train + unlabelled images of the manifest.

    Args:
        config: the run's configuration.
        manifest: the manifest of the images.
        checkpoint: the student of the previous phase; None in the first phase.
        phase: one of `config.transfer.phases`.
        **learned: what the student learns from: `assignments`, `codes`, `features` of the same images, or
            `teacher` (a checkpoint).
    """
    settings = {
        # the inputs already say which labels
        "transfer": config.transfer.settings(config.data.image_size, exclude=frozenset({"labels"})),
        "student": config.student.settings(),
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
        **config.transfer.revisions(),
    }
    if len(config.transfer.phases) > 1:
        settings["phase"] = phase
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, **learned} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config, config.assign.data or config.cluster.data)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    given, student, size = (request.settings[name] for name in ("transfer", "student", "image_size"))
    lasting: Any = TRANSFER[given["method"]].model_validate(given)
    phase, teacher = request.settings.get("phase"), None
    if "teacher" in inputs:
        from models.cost import transfer_cost

        n, teacher = images_of(inputs).all, cost_of(inputs, "teacher").shape
        cost = transfer_cost(run.config.transfer, student["backbone"], student["width"], size, teacher)
        batch = max(1, min(given["batch_size"], n))
    else:
        learned = next(inputs[name] for name in ("assignments", "codes", "features") if name in inputs)
        cost = classifier(student["backbone"], student["width"], size, learned.width)
        n, batch = learned.rows, given["batch_size"]
    epochs, each = lasting.length(n)
    swept = 0 if teacher is None else n * epochs
    work = steps(
        run, "transfer", given, cost, batch, epochs * each, swept=swept, teacher=teacher, phase=phase
    )
    found = trained(cost, cost.step * lasting.seen(n), work)
    found.seconds = decoded(run, images_of(inputs), epochs * each * batch)
    return found


def build(job: Job) -> Outcome:
    """Train the student.

    With pseudo-labels, each label is drawn equally often. Without them, the student learns from the frozen
    teacher, or from its features, on all images.
    """
    import numpy as np

    from data.draws import key
    from data.order import Order, Shuffled, UniformOverClusters
    from models.device import resolve_device
    from models.network import build_network
    from models.saved import load
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import train_and_publish
    from tasks.rows import manifest_rows

    given, student, size = job.settings["transfer"], job.settings["student"], job.settings["image_size"]
    config: Any = TRANSFER[given["method"]].model_validate(given)
    inputs, phase = job.request.inputs, job.settings.get("phase")
    name = "transfer" if phase is None else f"transfer-{phase}"
    order: Order
    target: NDArray[Any] | None = None
    classes: int | None = None
    frozen: list[Network] = []
    options: dict[str, Any] = {} if phase is None else {"phase": phase}
    if "teacher" in inputs:
        index, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
        epochs, steps = config.length(len(index))
        order = Shuffled(index, config.batch_size, steps=steps)
        teacher = load(job.path("teacher")).to(resolve_device(job.compute.device))
        frozen, options = [teacher.eval().requires_grad_(False)], options | {"seed": job.seed}
    elif "features" in inputs:
        index, target = _embeddings(job)
        epochs, steps = config.length(len(index))
        order = Shuffled(index, config.batch_size, steps=steps)
        options |= {"dim": target.shape[1], "seed": job.seed}
    else:
        index, label = _labels(job)
        used, target = np.unique(label, return_inverse=True)
        epochs, steps = config.length(len(index))
        order, classes = UniformOverClusters(index, target, config.batch_size, steps), len(used)
    if "checkpoint" in inputs:
        network = load(job.path("checkpoint"))
    else:
        seed = key(job.seed, "student")
        network = build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    method = resolve_name(config.trainer)(config, network, *frozen, **options)
    feed = ImageFeed(job.images_for(network, *frozen), order, index, target, order_key(job, name))
    return train_and_publish(job, method, feed, config, epochs=epochs, stage=name)


def _embeddings(job: Job) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Index (N,), ascending, and the images' features (N, d) without their mean, as unit vectors."""
    import numpy as np

    from data.tables import read_vectors

    index, x = read_vectors(job.path("features"))
    x = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return index, x


def _labels(job: Job) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Index (N,), ascending, and pseudo-label (N,): the image's cluster, or its code from the first head."""
    import numpy as np

    from data.schemas import ASSIGNMENTS, CODES
    from data.tables import column, read_table

    codes = "codes" in job.request.inputs
    table = read_table(job.path("codes" if codes else "assignments"), CODES if codes else ASSIGNMENTS)
    index, cluster = column(table, "index"), column(table, "cluster")
    if codes:
        first = column(table, "head") == 0
        index, cluster = index[first], cluster[first]
    ascending = np.argsort(index)
    return index[ascending], cluster[ascending]
