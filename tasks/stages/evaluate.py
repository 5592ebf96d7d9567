"""Evaluate: measures one model on the test images with the protocols of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from data.types import Artifact, Split
from models.configs.shared import Views
from tasks.config import Config
from tasks.job import Job
from tasks.planning import ALIGNED
from tasks.size import Context, Inputs, Size, chores, cost_of, images_of, passes, products, scored
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]
    """Features (n, D) and classes (n,)."""

FITS = 300
"""Iterations of all fits of a linear probe together, about."""
STAGE = Stage(name="evaluate", kind="scores", version=5, process="train")


def plan(
    config: Config,
    manifest: Artifact,
    checkpoint: Artifact | None = None,
    train: Artifact | None = None,
    test: Artifact | None = None,
    *,
    model: str,
    row: dict[str, Any] | None = None,
) -> Request:
    """Request the scores of a model.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the model, or an adopted export, of which only answers are measured; None if there are
            only features.
        train: its features of train + unlabelled images; kNN and linear probe learn from them.
        test: its features of the test images.
        model: the model's name in the scores.
        row: given for a classifier that was trained on another draw of labels. Then only its accuracy is
            measured, and `row` has the evaluation, setting and seed of that one score.
    """
    settings = {
        **config.evaluate.model_dump(include={"protocols", "knn_neighbours", "knn_temperatures"}),
        "model": model,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    settings["protocols"] = sorted(set(settings["protocols"]) & {"knn", "linear", "few-label"})
    settings |= {"told": row} if row else {}
    inputs = {"manifest": manifest} | ({"checkpoint": checkpoint} if checkpoint else {})
    if train is not None and test is not None:
        inputs |= {"train": train, "test": test}
    return STAGE.request(
        settings=settings,
        inputs=inputs,
        parts=("train", "test", "train_labels", "test_labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, d = images_of(inputs), inputs["train"].width if "train" in inputs else 0
    n, m, protocols = images.labelled, images.test_labelled, request.settings["protocols"]
    forward = cost_of(inputs).forward if "checkpoint" in inputs else 0.0
    work = []
    if "checkpoint" in inputs:
        cost = cost_of(inputs)
        work.append(passes(run, cost, m if cost.shape.classes == images.classes else 0))
        if d:
            work.append(passes(run, cost, 2 * min(images.train, ALIGNED), Views().model_dump()))
    compared = 2.0 * n * m * d if "knn" in protocols else 0.0
    fitted = FITS * 4.0 * n * d * images.classes if "linear" in protocols else 0.0
    work += [products(compared + fitted + 4.0 * n * d * d + 20.0 * d**3), chores(0.5)]
    return scored(7, images.test * (forward + 2.0 * images.train * d), *work)


def build(job: Job) -> Outcome:
    """Run each protocol. The classes are those of the manifest."""
    from data.schemas import OUTCOMES
    from data.tables import write_table
    from tasks.scoring import write_scores

    found = _Found(job)
    if "told" in job.settings:
        _one_draw(found)
    else:
        if "train" in job.request.inputs:
            _features(found)
        if "checkpoint" in job.request.inputs:
            _classifier(found)
            if job.request.inputs["checkpoint"].kind == "checkpoint":
                _network(found)
    write_table(job.out / "outcomes.parquet", found.outcomes_by_column(), OUTCOMES)
    return Outcome(rows=write_scores(job, found.rows), meta=found.chosen)


@dataclass
class _Found:
    """The results so far.

    Attributes:
        job: the stage's job.
        rows: rows of scores.parquet.
        outcomes: (evaluation, setting, right (n,) bool) per accuracy; `right` says which test images were
            right.
        chosen: hyperparameters that a protocol chose, for meta.json.
    """

    job: Job
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    outcomes: list[tuple[str, str, NDArray[np.bool_]]] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.job.meta("manifest")["classes"])

    @cached_property
    def test(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index and class of the test images that have a label, in order of index."""
        return self.labelled("test")

    def labelled(self, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index and class of a split's images that have a label, in order of index."""
        from tasks.rows import manifest_rows

        index, label = manifest_rows(self.job.path("manifest"), (split,))
        return index[label >= 0], label[label >= 0]

    def add(
        self, evaluation: str, metric: str, setting: str, value: float, n: int, split: str = "test"
    ) -> None:
        """Add a score."""
        self.rows.append(
            (evaluation, self.job.settings["model"], metric, split, setting, float(value), self.job.seed, n)
        )

    def accuracy(self, evaluation: str, setting: str, right: NDArray[np.bool_]) -> None:
        """Add a top-1 accuracy, and record which of the labelled test images are right."""
        self.add(evaluation, "top1", setting, right.mean(), len(right))
        self.outcomes.append((evaluation, setting, right))

    def outcomes_by_column(self) -> dict[str, Any]:
        """The columns of outcomes.parquet."""
        index, model = self.test[0], self.job.settings["model"]
        columns: dict[str, list[Any]] = {
            "evaluation": [],
            "model": [],
            "metric": [],
            "setting": [],
            "index": [],
            "right": [],
        }
        for evaluation, setting, right in self.outcomes:
            named = {"evaluation": evaluation, "model": model, "metric": "top1", "setting": setting}
            for name, value in named.items():
                columns[name] += [value] * len(right)
            columns["index"] += index.tolist()
            columns["right"] += right.tolist()
        return columns


def _features(found: _Found) -> None:
    """Measure the health of the features, then run the protocols that need only features."""
    from data.tables import positions, read_vectors
    from models.evaluation.health import health, uniformity

    job, protocols = found.job, found.job.settings["protocols"]
    made = job.meta("train")
    layer = made.get("layer", made["config"]["layer"])

    def labelled(name: str, split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        at, vectors = read_vectors(job.path(name))
        index, label = found.labelled(split)
        return vectors[positions(at, index, f"features of {name} images")], label

    bank, queries = labelled("train", "train"), labelled("test", "test")
    for metric, value in (health(bank[0]) | {"uniformity": uniformity(bank[0])}).items():
        found.add("health", metric, f"layer={layer}", value, len(bank[0]), "train")
    if "knn" in protocols:
        _knn(found, bank, queries, layer)
    if "linear" in protocols:
        _linear(found, bank, queries, layer)


def _knn(found: _Found, bank: _Labelled, queries: _Labelled, layer: str) -> None:
    """Classify by nearest neighbours among all labelled training images, for each k and temperature."""
    import torch

    from models.evaluation.knn import knn_classes

    settings, n = found.job.settings, len(bank[0])
    neighbours = [k for k in settings["knn_neighbours"] if k <= n] or [n]
    x, y, q = (torch.from_numpy(array) for array in (*bank, queries[0]))
    for (k, temperature), predicted in knn_classes(
        x, y, q, neighbours, settings["knn_temperatures"], found.classes
    ).items():
        found.accuracy("knn", f"k={k} T={temperature} layer={layer}", predicted.numpy() == queries[1])


def _linear(found: _Found, bank: _Labelled, queries: _Labelled, layer: str) -> None:
    """Train a linear probe with all training labels."""
    import torch

    from models.evaluation.linear import linear_probe

    x, y, q, truth = (torch.from_numpy(array) for array in (*bank, *queries))
    probe = linear_probe(x, y, q, truth, classes=found.classes, seed=found.job.seed)
    found.accuracy("linear", f"layer={layer}", probe.predicted.numpy() == queries[1])
    found.chosen["l2"] = probe.strength


def _logits(job: Job, index: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The logits (n, C) of the model's classifier for some images; None if it has no named classes."""
    from data.checkpoints import read_description
    from tasks.embedding import logits

    return logits(job, index) if read_description(job.path("checkpoint")).get("class_names") else None


def _classifier(found: _Found) -> None:
    """Measure the accuracy of the model's own classifier, which was trained on the few labels."""
    import numpy as np

    index, label = found.test
    logits = _logits(found.job, index) if "few-label" in found.job.settings["protocols"] else None
    if logits is None:
        return
    found.accuracy("few-label", "", logits.argmax(1) == label)
    if found.classes >= 100:
        top5 = np.argpartition(-logits, 5, axis=1)[:, :5]
        found.add("few-label", "top5", "", float((top5 == label[:, None]).any(1).mean()), len(label))


def _one_draw(found: _Found) -> None:
    """Add the accuracy of a classifier that was trained on another draw of labels, as the requested row."""
    index, label = found.test
    logits, asked = _logits(found.job, index), found.job.settings["told"]
    if logits is not None:
        right, model = logits.argmax(1) == label, found.job.settings["model"]
        found.rows.append(
            (
                asked["evaluation"],
                model,
                "top1",
                "test",
                asked["setting"],
                right.mean(),
                asked["seed"],
                len(right),
            )
        )


def _network(found: _Found) -> None:
    """Measure how similar two views of an image are to the network, and what the network costs per image."""
    import numpy as np

    from data.draws import key, permutation
    from models.cost import operations, weight_bits
    from models.evaluation.health import alignment
    from models.saved import load
    from tasks.embedding import embed
    from tasks.rows import manifest_rows

    job = found.job
    network = load(job.path("checkpoint"))
    size = network.image_size
    if "train" in job.request.inputs:
        some, _ = manifest_rows(job.path("manifest"), ("train",))
        some = np.sort(some[permutation(key(0, "alignment"), len(some))[:ALIGNED]])
        seen = [embed(job, network, some, "features", view=f"view {n}") for n in range(2)]
        found.add("health", "alignment", "layer=features", alignment(*seen), len(some), "train")
    each = operations(network, size)
    counted = {
        "weight_bits": weight_bits(network),
        "binary_operations": each.binary,
        "real_operations": each.real,
    }
    for metric, count in counted.items():
        found.add("cost", metric, f"image_size={size}", count, 1)
