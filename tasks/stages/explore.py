"""Explore: draws a map of the images for the report, in which images with similar features are near."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, decoded, images_of, imports
from tasks.sources import sources
from tasks.stage import Leaf, Outcome, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]

STAGE = Leaf(
    name="explore",
    kind="map",
    version=1,
    process="plain",
    reads=("manifest", "embedded"),
    may_read=("embedded_test", "assigned", "clusters", "assignments", "codes", "labels", "answers"),
)
TYPICAL = 8
"""Images of each cluster that are on the map in any case, at most."""


def plan(
    config: Config,
    manifest: Artifact,
    embedded: Artifact,
    embedded_test: Artifact | None = None,
    assigned: Artifact | None = None,
    clusters: Artifact | None = None,
    assignments: Artifact | None = None,
    codes: Artifact | None = None,
    labels: Artifact | None = None,
    answers: Artifact | None = None,
) -> Request:
    """Request the map.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        embedded: the features of the train and unlabelled images.
        embedded_test: the features of the test images. Without them, the map has no test images.
        assigned: the manifest of the images with pseudo-labels. If it is another one, the map shows no
            clusters.
        clusters: the clusters.
        assignments: the clusters of the images.
        codes: the pretext method's own labels. They stand for clusters if the student learns them.
        labels: the drawn labels.
        answers: what the model that ships says of the test images.
    """
    inputs = {"manifest": manifest, "embedded": embedded}
    optional = {"embedded_test": embedded_test, "labels": labels}
    if embedded_test is not None:
        optional["answers"] = answers
    if assigned == manifest:
        learns_codes = config.transfers and config.transfer.learns_from == "codes"
        optional |= {"codes": codes} if learns_codes else {"clusters": clusters, "assignments": assignments}
    return STAGE.request(
        settings=config.evaluate.explore.model_dump() | {"image_size": config.data.image_size},
        inputs=inputs | {name: given for name, given in optional.items() if given is not None},
        parts=("train", "unlabelled", "test", "labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, points = images_of(inputs), request.settings["points"]
    rows = min(images.all + images.test, 2 * points)
    seconds = 1.5 if request.settings["projection"] == "pca" else 1.0 + 0.02 * rows
    return Size(rows, 1e6, seconds=decoded(run, images, rows), work=(imports(1), chores(seconds)))


def build(job: Job) -> Outcome:
    """Choose images, project their features, and write them with a sheet of their pictures."""
    import numpy as np

    from data.preprocessing import stored_size
    from data.schemas import MAP
    from data.tables import write_table
    from models.evaluation.projection import project
    from tasks.report.sheets import colours
    from tasks.report.sprite import sprite
    from tasks.rows import drawn_rows, manifest_rows

    settings, folder = job.settings, job.path("manifest")
    splits: dict[str, tuple[str, ...]] = {"embedded": ("train", "unlabelled")}
    splits |= {"embedded_test": ("test",)} if "embedded_test" in job.request.inputs else {}
    index, label = manifest_rows(folder, sum(splits.values(), ()))
    answers, members = _answers(job), _Members(job)
    wrong = np.array([i for i, (true, said, _) in answers.items() if true not in (-1, said)], np.int64)
    labelled = drawn_rows(job.path("labels"))[0] if "labels" in job.request.inputs else np.zeros(0, np.int64)
    typical = members.nearest(min(TYPICAL, settings["points"] // max(1, members.k)))
    chosen, drawn = choose(index, (wrong, labelled), typical, settings["points"], job.seed)

    x = np.concatenate([_features(job, name, chosen) for name in splits])
    test = ~np.isin(chosen, manifest_rows(folder, splits["embedded"])[0])
    cluster, distance = members.of(chosen, x, test)
    plane = project(x, settings["projection"], seed=job.seed)
    images = job.images(settings["image_size"])
    pictures = sprite(
        lambda part: colours(images.read(chosen[part])), len(chosen), stored_size(settings["image_size"])
    )
    (job.out / "sprite.webp").write_bytes(pictures.webp)
    said = [answers.get(i, (-1, None, None)) for i in chosen.tolist()]
    rows = write_table(
        job.out / "points.parquet",
        {
            "index": chosen,
            "x": plane.xy[:, 0],
            "y": plane.xy[:, 1],
            "label": [None if each < 0 else each for each in label[np.searchsorted(index, chosen)].tolist()],
            "labelled": np.isin(chosen, labelled),
            "random": drawn,
            "cluster": [None if each < 0 else each for each in cluster.tolist()],
            "distance": [None if np.isnan(each) else each for each in distance.tolist()],
            "predicted": [answer for _, answer, _ in said],
            "confidence": [confidence for _, _, confidence in said],
        },
        MAP,
    )
    return Outcome(
        rows=rows,
        meta={
            "of": len(index),
            "explained": plane.explained,
            "side": pictures.side,
            "columns": pictures.columns,
        },
    )


def choose(
    index: Ints, kept: tuple[Ints, ...], typical: Ints, points: int, seed: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Choose the images on the map.

    Args:
        index: (N,) all images, ascending.
        kept: groups of images that are on the map in any case, as far as there is room. First come, first
            served: of a group that does not fit, random images are left out.
        typical: images that are on the map besides.
        points: number of random images, and the most that `kept` adds to them.
        seed: of the random draw. An image's place in the order depends on nothing but seed and index.

    Returns:
        (n,) int64, ascending, and (n,) bool: which of them are the random images.
    """
    import numpy as np

    from data.draws import key, uniform

    def shuffled(some: Ints) -> Ints:
        order: Ints = some[np.argsort(uniform(key(seed, "explore"), some, 1)[:, 0], kind="stable")]
        return order

    random = shuffled(index)[:points]
    more = np.concatenate([shuffled(np.unique(group)) for group in kept] or [index[:0]])
    more = more[~np.isin(more, random)]
    more = more[np.sort(np.unique(more, return_index=True)[1])][:points]
    chosen = np.unique(np.concatenate([random, more, typical]))
    return chosen, np.isin(chosen, random)


def _features(job: Job, name: str, chosen: Ints) -> Floats:
    """The features (n, D) of the chosen images that an input has, in order of index."""
    import numpy as np

    from data.tables import iterate_vectors

    found = [
        (index[wanted], x[wanted])
        for index, x in iterate_vectors(job.path(name))
        if (wanted := np.isin(index, chosen)).any()
    ]
    if not found:
        return np.zeros((0, int(job.meta(name)["dim"])), np.float32)
    order = np.argsort(np.concatenate([index for index, _ in found]))
    x: Floats = np.concatenate([x for _, x in found])[order]
    return x


def _answers(job: Job) -> dict[int, tuple[int, int | None, float | None]]:
    """Test image -> its label (-1: none), the answer, and the confidence."""
    from data.schemas import ANSWERS
    from data.tables import read_table

    if "answers" not in job.request.inputs:
        return {}
    rows = read_table(job.path("answers") / "answers.parquet", ANSWERS).to_pylist()
    return {
        row["index"]: (
            -1 if row["label"] is None else row["label"],
            row["predicted"],
            row["confidence"],
        )
        for row in rows
    }


class _Members:
    """The clusters of the run's images, if they have any."""

    index: Any
    cluster: Any
    distance: Any
    k: int

    def __init__(self, job: Job) -> None:
        import numpy as np

        from data.schemas import ASSIGNMENTS, CODES
        from data.tables import column, read_table

        self._job = job
        self.index, self.cluster, self.k = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
        self.distance = np.zeros(0, np.float32)
        if "assignments" in job.request.inputs:
            table = read_table(job.path("assignments"), ASSIGNMENTS)
            self.distance = column(table, "distance")
        elif "codes" in job.request.inputs:
            table = read_table(job.path("codes"), CODES)
            table = table.filter(column(table, "head") == 0)
            self.distance = np.full(table.num_rows, np.nan, np.float32)
        else:
            return
        order = np.argsort(column(table, "index"))
        self.index, self.distance = column(table, "index")[order], self.distance[order]
        self.cluster = column(table, "cluster")[order].astype(np.int64)
        self.k = int(self.cluster.max()) + 1

    def nearest(self, count: int) -> Ints:
        """The images nearest to the centroid of each cluster: `count` of each, or all that it has."""
        import numpy as np

        order = np.lexsort((self.distance, self.cluster))
        place = np.arange(len(order)) - np.searchsorted(self.cluster[order], self.cluster[order])
        near: Ints = self.index[order[place < count]]
        return near

    def of(self, chosen: Ints, x: Floats, test: NDArray[np.bool_]) -> tuple[Ints, Floats]:
        """The cluster of each image, and its squared distance to the centroid.

        Training images have a cluster already. A test image gets that of the nearest centroid.

        Args:
            chosen: (n,) the images, ascending.
            x: (n, D) their features.
            test: (n,) which of them are test images.

        Returns:
            (n,) int64, -1 without a cluster, and (n,) float32, nan without a distance.
        """
        import numpy as np

        from models.clustering.nearest import nearest_two
        from tasks.clustering import read_clusters

        cluster, distance = np.full(len(chosen), -1, np.int64), np.full(len(chosen), np.nan, np.float32)
        own = np.isin(chosen, self.index)
        at = np.searchsorted(self.index, chosen[own])
        cluster[own], distance[own] = self.cluster[at], self.distance[at]
        if "clusters" in self._job.request.inputs and test.any():
            space, centroids = read_clusters(self._job.path("clusters"))
            cluster[test], distance[test], _ = nearest_two(space.apply(x[test]), centroids, "cpu")
        return cluster, distance
