"""Respread: improves the mixture with what the student of a round makes of the images, for its next round.

A student often corrects the mixture that it learned: in its features, images of a class are near each other
also where the mixture names different classes. So the drawn labels are spread over these features, added to
the mixture with weight u, and the sum is smoothed over the same neighbours:

    Y = (mixture + u spread) / (1 + u)
    targets = (1 - u) (I - u S)^-1 Y, with S as in `models.clustering.propagation`

Nobody can judge this out of fold, because the student has learned every label. But labels that spread over
other features were judged. u is how far this raised their weight in the mixture above an equal share: 0 if
the labels say nothing for neighbours, and near 1 if neighbours know more than all other classifiers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, products
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    from tasks.judged import Judged

STAGE = Stage(name="respread", kind="probabilities", version=1, process="plain")

MOST = 0.9
"""Largest u."""


def plan(config: Config, mixture: Artifact, labels: Artifact, features: Artifact) -> Request:
    """Request the targets of the next round.

    Args:
        config: the run's configuration. `predict.neighbours` (10 if it is 0), `predict.alpha` and
            `finetune.balanced` are used.
        mixture: what `weigh` mixed.
        labels: the drawn labels.
        features: the student's features of all images, from the layer below its classifier.
    """
    from tasks.judged import OWN

    settings: dict[str, Any] = {
        "neighbours": config.predict.neighbours or 10,
        "alpha": config.predict.alpha,
        "balanced": config.finetune.balanced,
        "most": MOST,
        "own": OWN,
    }
    inputs = {"mixture": mixture, "labels": labels, "features": features}
    return STAGE.request(settings=settings, inputs=inputs)


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    n, classes = inputs["features"].rows, inputs["mixture"].width
    compared = 2.0 * n * n * inputs["features"].width
    return Size(n, n * (4 * classes + 8), compared, width=classes, work=(products(compared),))


def build(job: Job) -> Outcome:
    """Spread the labels over the student's features, add them to the mixture, and smooth the sum."""
    import numpy as np

    from data import schemas
    from data.tables import VectorWriter, positions, read_vectors
    from models.clustering.propagation import knn_graph, propagate
    from tasks.clustering import spread
    from tasks.judged import read_judged
    from tasks.rows import drawn_rows

    settings = job.settings
    index, mixture = read_vectors(job.path("mixture"))
    own, x = read_vectors(job.path("features"))
    assert np.array_equal(index, own), "features and mixture are of different images"
    drawn, label = drawn_rows(job.path("labels"))
    position = positions(index, drawn, "features of the labelled images")
    classes = mixture.shape[1]
    graph = knn_graph(x, min(settings["neighbours"], len(x) - 1), device=job.compute.device)
    found = spread(
        graph, position, label, classes=classes, alpha=settings["alpha"], balanced=settings["balanced"]
    )
    u = min(settings["most"], believed(read_judged(job.path("mixture"))))
    target = propagate(graph, (mixture + u * found) / (1 + u), position, label, alpha=u)
    target[position] *= 1 - settings["own"]
    target[position, label] += settings["own"]
    changed = float((target.argmax(1) != mixture.argmax(1)).mean())
    job.log(f"by the labels, neighbours count {u:.2f}; {changed:.1%} of the images changed their class")
    with VectorWriter(job.out, schemas.probabilities(classes)) as out:
        out.write(index, target)
    return Outcome(rows=len(index), meta={"believed": u, "changed": changed})


def believed(judged: Judged) -> float:
    """How far the labels raised the weight of neighbours above an equal share, 0 to 1.

    Args:
        judged: all classifiers of a mixture, and the mixture.
    """
    from tasks.judged import MIXTURE, NEIGHBOURS

    weights = {name: row["weight"] for name, row in judged.rows.items() if name != MIXTURE}
    near = [name for name in weights if name in NEIGHBOURS]
    equal = len(near) / len(weights)
    raised: float = sum(weights[name] for name in near) - equal
    return max(0.0, raised / (1 - equal))
