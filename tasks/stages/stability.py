"""Stability: how alike the clusters are that other seeds find."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="stability", kind="scores", version=2, process="plain")


def plan(config: Config, features: Artifact) -> Request:
    """Ask for the agreement of several clusterings of the same features."""
    settings = config.cluster.model_dump(exclude={"seed", "data"}) | {"seeds": config.evaluate.stability_seeds}
    seed = config.seed if config.cluster.seed is None else config.cluster.seed
    return STAGE.request(settings=settings, inputs={"features": features}, seed=seed)


def build(job: Job) -> Outcome:
    """Cluster with each seed, and compare each pair of clusterings on all images."""
    from itertools import combinations
    from statistics import fmean

    from data.draws import key
    from data.schemas import SCORES
    from data.tables import write_table
    from models.clustering.kmeans import kmeans
    from models.clustering.nearest import nearest_two
    from models.evaluation.clusters import agreement
    from tasks.stages.cluster import clustering_points

    wish = job.settings
    y, _ = clustering_points(job, wish)
    found = []
    for number in range(wish["seeds"]):
        made = kmeans(
            y,
            wish["k"],
            iterations=wish["iterations"],
            restarts=wish["restarts"],
            seed=key(job.seed, "stability", number) % 2**31,
            device=job.compute.device,
            sample=wish["sample"],
            tolerance=wish["tolerance"],
        )
        found.append(nearest_two(y, made.centroids, job.compute.device)[0])
        job.report(done=number + 1, total=wish["seeds"])
    pairs = [agreement(a, b) for a, b in combinations(found, 2)]
    setting = f"k={wish['k']} seeds={wish['seeds']}"
    rows = [
        ("stability", "teacher", metric, "train", setting, fmean(pair[metric] for pair in pairs), job.seed, len(y))
        for metric in ("ami", "ari")
    ]
    columns = dict(zip(SCORES.names, zip(*rows, strict=True), strict=True))
    return Outcome(rows=write_table(job.out / "scores.parquet", columns, SCORES))
