"""Propagate: smooths the teacher's probabilities over the graph of nearest neighbours in feature space.

The graph can use the features of two networks. They make different mistakes, so the graph built from both has
fewer wrong neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.types import Artifact
from tasks.clustering import graph_points
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, imports, products
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="propagate", kind="probabilities", version=2, process="plain")


def plan(
    config: Config,
    features: Artifact,
    probabilities: Artifact,
    labels: Artifact,
    clusters: Artifact | None = None,
    second: Artifact | None = None,
) -> Request:
    """Request the smoothed probabilities. Neighbours are found in clustering space.

    Args:
        config: the run's configuration.
        features: the features of the images.
        probabilities: the probabilities of the same images.
        labels: the drawn labels.
        clusters: gives the clustering space; None if the run has no clusters. Then a new space is fitted to
            the features.
        second: another network's features of the same images. Then the points of both spaces are
            concatenated.
    """
    settings: dict[str, Any] = config.predict.model_dump(
        include={"neighbours", "alpha", "prior", "balance", "probe"}
    )
    inputs = {"features": features, "probabilities": probabilities, "labels": labels}
    if clusters is not None:
        inputs["clusters"] = clusters
    if second is not None:
        inputs["second"] = second
    if clusters is None or second is not None:
        settings["space"] = config.cluster.model_dump(include={"pca", "whitening", "normalise"})
    return STAGE.request(settings=settings, inputs=inputs)


PROBE_WEIGHT = 1 / 3
"""Weight of the probe's probabilities; the fine-tuned networks' probabilities have the rest."""
PROBE_ITERATIONS = 100
"""Iterations of the probe's fit, about."""
PROBE_C = 0.03
"""scikit-learn's C of the probe on standardised features. Few labels need a strong penalty (a small C)."""


def probe(
    x: NDArray[np.float32], position: NDArray[np.int64], label: NDArray[np.int32], classes: int
) -> NDArray[np.float32]:
    """Fit a logistic regression to the labelled images, and return its probabilities for all images.

    Args:
        x: (N, D) frozen features.
        position: (L,) rows of the labelled images.
        label: (L,) classes of the labelled images.
        classes: number of classes C.

    Returns:
        (N, C) float32 probabilities; a class without a label gets 0.
    """
    from models.evaluation.linear_head import logistic_regression

    deviation = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    fitted = logistic_regression(x[position], label, PROBE_C)
    found = np.zeros((len(x), classes), np.float32)
    found[:, fitted.classes_] = fitted.predict_proba(x)
    return found


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    features, classes, asked = inputs["features"], inputs["probabilities"].width, request.settings
    n, d = features.rows, features.width
    compared = 2.0 * n * n * (d + (inputs["second"].width if "second" in inputs else 0))
    work = [products(compared), chores(0.1)]
    if asked["probe"]:
        work += [products(4.0 * PROBE_ITERATIONS * inputs["labels"].rows * d * classes), imports(3)]
    return Size(n, n * (4 * classes + 8), 2.0 * n * n * d, width=classes, work=tuple(work))


def build(job: Job) -> Outcome:
    """Propagate labels as in Zhou et al. (2004), with the teacher's probabilities as the unlabelled prior.

    That is, the teacher's probabilities take the place of a label for images without one.
    """
    from data import schemas
    from data.tables import VectorWriter, column, positions, read_table, read_vectors
    from models.clustering.propagation import knn_graph, propagate

    index, places, x = graph_points(job)
    prior_index, prior = read_vectors(job.path("probabilities"))
    assert np.array_equal(index, prior_index), "features and probabilities are of different images"
    labels = read_table(job.path("labels") / "labels.parquet", schemas.LABELS)
    position = positions(index, column(labels, "index"), "features of the labelled images")
    label = column(labels, "label")
    classes = prior.shape[1]
    if job.settings["probe"]:
        prior = prior + PROBE_WEIGHT * (probe(x, position, label, classes) - prior)
    smoothed = propagate(
        knn_graph(places, min(job.settings["neighbours"], len(x) - 1), device=job.compute.device),
        prior if job.settings["prior"] else None,
        position,
        label,
        classes=classes,
        alpha=job.settings["alpha"],
        prior_weight=job.settings["prior"],
        shares=np.bincount(label, minlength=classes) / len(label) if job.settings["balance"] else None,
    )
    changed = float((smoothed.argmax(1) != prior.argmax(1)).mean())
    job.log(
        f"propagated over {job.settings['neighbours']} neighbours: "
        f"{changed:.1%} of the images changed their class"
    )
    with VectorWriter(job.out, schemas.probabilities(smoothed.shape[1])) as out:
        for start in range(0, len(index), 1 << 16):
            out.write(index[start : start + (1 << 16)], smoothed[start : start + (1 << 16)])
    return Outcome(rows=len(index))
