"""Propagate: the teacher's probabilities, smoothed over the graph of nearest neighbours in feature space."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.types import Artifact
from tasks.assign import read_clusters
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="propagate", kind="probabilities", version=1, process="plain")


def plan(
    config: Config, features: Artifact, probabilities: Artifact, labels: Artifact, clusters: Artifact | None = None
) -> Request:
    """Ask for the smoothed probabilities of the images that both inputs hold; neighbours are those in clustering space.

    Args:
        config: of the run.
        features: of the images.
        probabilities: of the same images.
        labels: the draw.
        clusters: whose space is taken; None in a run that clusters nothing: the same space is fitted to the features.
    """
    settings: dict[str, Any] = config.predict.model_dump(include={"neighbours", "alpha", "prior", "balance"})
    inputs = {"features": features, "probabilities": probabilities, "labels": labels}
    if clusters is None:
        settings["space"] = config.cluster.model_dump(include={"pca", "whitening", "normalise"})
    else:
        inputs["clusters"] = clusters
    return STAGE.request(settings=settings, inputs=inputs)


def build(job: Job) -> Outcome:
    """Zhou et al. (2004), with the teacher's probabilities as the prior of images without a label."""
    from data import schemas
    from data.tables import VectorWriter, column, iterate_vectors, read_table, read_vectors
    from models.clustering.propagation import knn_graph, propagate
    from models.clustering.space import fit_space

    if "clusters" in job.request.inputs:
        space, _ = read_clusters(job.path("clusters"))
    else:
        space = fit_space(lambda: (x for _, x in iterate_vectors(job.path("features"))), **job.settings["space"])
    index, x = read_vectors(job.path("features"))
    prior_index, prior = read_vectors(job.path("probabilities"))
    assert np.array_equal(index, prior_index), "features and probabilities are of different images"
    labels = read_table(job.path("labels") / "labels.parquet", schemas.LABELS)
    position = np.searchsorted(index, column(labels, "index"))
    label = column(labels, "label")
    classes = prior.shape[1]
    smoothed = propagate(
        knn_graph(space.apply(x), min(job.settings["neighbours"], len(x) - 1), device=job.compute.device),
        prior if job.settings["prior"] else None,
        position,
        label,
        classes=classes,
        alpha=job.settings["alpha"],
        prior_weight=job.settings["prior"],
        shares=np.bincount(label, minlength=classes) / len(label) if job.settings["balance"] else None,
    )
    changed = float((smoothed.argmax(1) != prior.argmax(1)).mean())
    job.log(f"propagated over {job.settings['neighbours']} neighbours: {changed:.1%} of the images changed their class")
    with VectorWriter(job.out, schemas.probabilities(smoothed.shape[1])) as out:
        for start in range(0, len(index), 1 << 16):
            out.write(index[start : start + (1 << 16)], smoothed[start : start + (1 << 16)])
    return Outcome(rows=len(index))
