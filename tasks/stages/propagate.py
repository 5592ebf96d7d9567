"""Propagate: the teacher's probabilities, smoothed over the graph of nearest neighbours in feature space.

The graph may be that of two networks: what they see differently makes better neighbours of what they see alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.assign import read_clusters

if TYPE_CHECKING:
    from models.clustering.space import ClusterSpace

STAGE = Stage(name="propagate", kind="probabilities", version=2, process="plain")


def plan(
    config: Config,
    features: Artifact,
    probabilities: Artifact,
    labels: Artifact,
    clusters: Artifact | None = None,
    second: Artifact | None = None,
) -> Request:
    """Ask for the smoothed probabilities of the images that all inputs hold; neighbours are those in clustering space.

    Args:
        config: of the run.
        features: of the images.
        probabilities: of the same images.
        labels: the draw.
        clusters: whose space is taken; None in a run that clusters nothing: the same space is fitted to the features.
        second: another network's features of the images; distances are then those of both spaces side by side.
    """
    settings: dict[str, Any] = config.predict.model_dump(include={"neighbours", "alpha", "prior", "balance", "probe"})
    inputs = {"features": features, "probabilities": probabilities, "labels": labels}
    if clusters is not None:
        inputs["clusters"] = clusters
    if second is not None:
        inputs["second"] = second
    if clusters is None or second is not None:
        settings["space"] = config.cluster.model_dump(include={"pca", "whitening", "normalise"})
    return STAGE.request(settings=settings, inputs=inputs)


PROBE_WEIGHT = 1 / 3
"""Of the probe against the fine-tuned networks, in what is propagated."""
PROBE_C = 0.03
"""Inverse penalty of the probe on standardised features, in scikit-learn's terms: strong, for the labels are few."""


def space_of(job: Job, name: str) -> ClusterSpace:
    """Clustering space of one of the inputs: the clusters' own for the teacher's features, else fitted as theirs was."""
    from data.tables import iterate_vectors
    from models.clustering.space import fit_space

    if name == "features" and "clusters" in job.request.inputs:
        space: ClusterSpace = read_clusters(job.path("clusters"))[0]
        return space
    return fit_space(lambda: (x for _, x in iterate_vectors(job.path(name))), **job.settings["space"])


def probe(x: NDArray[np.float32], position: NDArray[np.int64], label: NDArray[np.int32], classes: int) -> NDArray[np.float32]:  # fmt: skip
    """Probabilities by logistic regression on frozen features, from the labelled images alone.

    Args:
        x: (N, D) features.
        position: (L,) rows of the labelled images.
        label: (L,) their classes.
        classes: C.

    Returns:
        (N, C); a class without a label gets 0.
    """
    from sklearn.linear_model import LogisticRegression

    deviation = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    fitted = LogisticRegression(C=PROBE_C, max_iter=1000).fit(x[position], label)
    found = np.zeros((len(x), classes), np.float32)
    found[:, fitted.classes_] = fitted.predict_proba(x)
    return found


def build(job: Job) -> Outcome:
    """Zhou et al. (2004), with the teacher's probabilities as the prior of images without a label."""
    from data import schemas
    from data.tables import VectorWriter, column, read_table, read_vectors
    from models.clustering.propagation import knn_graph, propagate

    index, x = read_vectors(job.path("features"))
    places = space_of(job, "features").apply(x)
    if "second" in job.request.inputs:
        second_index, second = read_vectors(job.path("second"))
        assert np.array_equal(index, second_index), "the two networks' features are of different images"
        places = np.concatenate([places, space_of(job, "second").apply(second)], axis=1)
    prior_index, prior = read_vectors(job.path("probabilities"))
    assert np.array_equal(index, prior_index), "features and probabilities are of different images"
    labels = read_table(job.path("labels") / "labels.parquet", schemas.LABELS)
    position = np.searchsorted(index, column(labels, "index"))
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
    job.log(f"propagated over {job.settings['neighbours']} neighbours: {changed:.1%} of the images changed their class")
    with VectorWriter(job.out, schemas.probabilities(smoothed.shape[1])) as out:
        for start in range(0, len(index), 1 << 16):
            out.write(index[start : start + (1 << 16)], smoothed[start : start + (1 << 16)])
    return Outcome(rows=len(index))
