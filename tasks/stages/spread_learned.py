"""Spread learned: gives all images the labels of their neighbours, in features that learned these labels.

A network that learned the labels has made the classes distinct, so images of a class are near each other also
where its own classifier is still wrong. This is judged out of fold: the labels that a fold's network did
learn are spread over its own features, and compared with those that it did not learn.
"""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.planning import FOLD_IMAGES
from tasks.size import Context, Inputs, Size, products
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="spread_learned", kind="probabilities", version=1, process="plain")


def plan(
    config: Config, manifest: Artifact, labels: Artifact, features: Artifact, checkpoint: Artifact
) -> Request:
    """Request the classes that spread from the drawn labels.

    Args:
        config: the run's configuration. `predict.neighbours` (10 if it is 0), `predict.alpha` and
            `finetune.balanced` are used.
        manifest: the manifest of the images; only the number of its classes is read.
        labels: the drawn labels.
        features: the features of all images, from the layer below the network's classifier.
        checkpoint: the network, with the features of its folds' networks.
    """
    settings: dict[str, Any] = {
        "neighbours": config.predict.neighbours or 10,
        "alpha": config.predict.alpha,
        "balanced": config.finetune.balanced,
    }
    inputs = {"manifest": manifest, "labels": labels, "features": features, "checkpoint": checkpoint}
    return STAGE.request(settings=settings, inputs=inputs, parts=("train",))


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    n, images = inputs["features"].rows, inputs["manifest"].images
    classes, shown = images.classes if images else 0, min(n, FOLD_IMAGES + inputs["labels"].rows)
    compared = 2.0 * inputs["features"].width * (n * n + run.config.ship.folds * shown * shown)
    return Size(n, n * (4 * classes + 8), compared, width=classes, work=(products(compared),))


def build(job: Job) -> Outcome:
    """Spread each fold's labels over the features of the fold's network, then all labels over all images."""
    import numpy as np

    from data import schemas
    from data.tables import VectorWriter, positions, read_vectors
    from models.clustering.propagation import knn_graph
    from tasks.clustering import spread, spread_out_of_fold
    from tasks.out_of_fold import read_folds, write_out_of_fold
    from tasks.rows import drawn_rows

    settings = job.settings
    drawn, label = drawn_rows(job.path("labels"))
    classes = len(job.meta("manifest")["classes"])
    how = {"classes": classes, "alpha": settings["alpha"], "balanced": settings["balanced"]}

    def graph_of(x: np.ndarray) -> Any:
        return knn_graph(x, min(settings["neighbours"], len(x) - 1), device=job.compute.device)

    judged = np.zeros(len(label), bool)
    logits = np.zeros((len(label), classes))
    for fold in read_folds(job.path("checkpoint")):
        position = positions(fold.index, drawn, "features of the labelled images")
        kept = ~np.isin(drawn, fold.left_out)
        logits[~kept] = spread_out_of_fold(graph_of(fold.features), position, label, kept, **how)
        judged |= ~kept
    write_out_of_fold(job.out, drawn[judged], label[judged], logits[judged])
    index, x = read_vectors(job.path("features"))
    position = positions(index, drawn, "features of the labelled images")
    with VectorWriter(job.out, schemas.probabilities(classes)) as out:
        out.write(index, spread(graph_of(x), position, label, **how))
    return Outcome(rows=len(index))
