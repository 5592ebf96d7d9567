"""Stability: measures how similar the clusters of different seeds are."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, scored
from tasks.stage import Leaf, Outcome, Request

STAGE = Leaf(
    name="stability",
    kind="scores",
    version=2,
    process="plain",
    reads=("features", "clusters"),
    title="Clusters of other seeds",
)


def plan(config: Config, features: Artifact, clusters: Artifact) -> Request:
    """Request the agreement of several clusterings of the same features.

    Args:
        config: the run's configuration.
        features: the features that were clustered.
        clusters: not read. It is a parameter so that runs without clusters skip this stage.
    """
    settings = config.cluster.model_dump(exclude={"seed", "data"}) | {
        "seeds": config.evaluate.stability_seeds
    }
    seed = config.seed if config.cluster.seed is None else config.cluster.seed
    return STAGE.request(settings=settings, inputs={"features": features}, seed=seed)


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    asked, given = request.settings, inputs["features"]
    d = min(asked["pca"] or given.width, given.width)
    return scored(2, 2.0 * given.rows * asked["k"] * d * asked["iterations"] * asked["seeds"])


def build(job: Job) -> Outcome:
    """Cluster once per seed, and compare each pair of clusterings on all images."""
    from itertools import combinations
    from statistics import fmean

    from data.draws import key
    from models.clustering.kmeans import kmeans
    from models.clustering.nearest import nearest_two
    from models.evaluation.clusters import agreement
    from tasks.clustering import clustering_points
    from tasks.scoring import write_scores

    settings = job.settings
    y, _ = clustering_points(job, settings)
    found = []
    for number in range(settings["seeds"]):
        made = kmeans(
            y,
            settings["k"],
            iterations=settings["iterations"],
            restarts=settings["restarts"],
            seed=key(job.seed, "stability", number) % 2**31,
            device=job.compute.device,
            sample=settings["sample"],
            tolerance=settings["tolerance"],
        )
        found.append(nearest_two(y, made.centroids, job.compute.device)[0])
        job.report(done=number + 1, total=settings["seeds"])
    pairs = [agreement(a, b) for a, b in combinations(found, 2)]
    setting = f"k={settings['k']} seeds={settings['seeds']}"
    rows = [
        (
            "stability",
            "teacher",
            metric,
            "train",
            setting,
            fmean(pair[metric] for pair in pairs),
            job.seed,
            len(y),
        )
        for metric in ("ami", "ari")
    ]
    return Outcome(rows=write_scores(job, rows))
