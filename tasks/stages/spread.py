"""Spread: gives all images the labels of their neighbours in feature space, and judges this out of fold."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, products
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="spread", kind="probabilities", version=2, process="plain")

FOLDS = 10
"""Number of folds of the labels. Many folds are cheap, because all of them use one graph."""


def plan(
    config: Config,
    manifest: Artifact,
    features: Artifact,
    labels: Artifact,
    clusters: Artifact | None = None,
    second: Artifact | None = None,
) -> Request:
    """Request the classes that spread from the drawn labels alone, without any network's guess.

    Args:
        config: the run's configuration. `predict.neighbours` (10 if it is 0), `predict.alpha`, the clustering
            space and `finetune.balanced` are used.
        manifest: the manifest of the images; only the number of its classes is read.
        features: the features of the images.
        labels: the drawn labels.
        clusters: the clusters, which know the clustering space; None if the run has none.
        second: another network's features of the same images.
    """
    settings: dict[str, Any] = {
        "neighbours": config.predict.neighbours or 10,
        "alpha": config.predict.alpha,
        "space": config.cluster.model_dump(include={"pca", "whitening", "normalise"}),
    }
    if config.finetune.balanced:
        settings["balanced"] = True
    inputs = {"manifest": manifest, "features": features, "labels": labels}
    inputs |= {"clusters": clusters} if clusters is not None else {}
    inputs |= {"second": second} if second is not None else {}
    return STAGE.request(settings=settings, inputs=inputs, parts=("train",), seed=config.seed)


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    n, images = inputs["features"].rows, inputs["manifest"].images
    classes = images.classes if images else 0
    compared = 2.0 * n * n * inputs["features"].width
    return Size(n, n * (4 * classes + 8), compared, width=classes, work=(products(compared),))


def build(job: Job) -> Outcome:
    """Spread the labels once per fold without that fold, to judge the result. Then spread all labels."""
    import numpy as np

    from data import schemas
    from data.tables import VectorWriter, positions
    from models.clustering.propagation import knn_graph
    from models.evaluation.contenders import folds_of
    from tasks.clustering import graph_points, spread, spread_out_of_fold
    from tasks.out_of_fold import write_out_of_fold
    from tasks.rows import drawn_rows

    settings = job.settings
    index, points, _ = graph_points(job)
    drawn, label = drawn_rows(job.path("labels"))
    position = positions(index, drawn, "features of the labelled images")
    classes = len(job.meta("manifest")["classes"])
    graph = knn_graph(points, min(settings["neighbours"], len(points) - 1), device=job.compute.device)
    how = {"classes": classes, "alpha": settings["alpha"], "balanced": settings.get("balanced", False)}
    fold = folds_of(label, FOLDS, job.seed)
    logits = np.zeros((len(label), classes))
    for number in np.unique(fold[fold >= 0]):
        kept = fold != number
        logits[~kept] = spread_out_of_fold(graph, position, label, kept, **how)
    known = fold >= 0
    write_out_of_fold(job.out, drawn[known], label[known], logits[known])
    with VectorWriter(job.out, schemas.probabilities(classes)) as out:
        out.write(index, spread(graph, position, label, **how))
    return Outcome(rows=len(index))
