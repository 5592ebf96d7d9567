"""Evaluate: one model on the test images, by each protocol of the configuration."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

ALIGNED = 2048
"""Images, at most, of which two views are compared."""
STAGE = Stage(name="evaluate", kind="scores", version=4, process="train")


def plan(
    config: Config,
    manifest: Artifact,
    checkpoint: Artifact | None = None,
    train: Artifact | None = None,
    test: Artifact | None = None,
    *,
    model: str,
    told: dict[str, Any] | None = None,
) -> Request:
    """Ask for the scores of a model.

    Args:
        config: of the run.
        manifest: of the run's images.
        checkpoint: the model; None where there are only features.
        train: its features of train + unlabelled images, the bank of kNN and linear probe.
        test: its features of the test images.
        model: its name in the run, which the scores carry.
        told: evaluation, setting and seed that the accuracy of its classifier is to carry, where it is not the run's own.
    """
    settings = {
        **config.evaluate.model_dump(include={"protocols", "knn_neighbours", "knn_temperatures"}),
        "model": model,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    settings["protocols"] = sorted(set(settings["protocols"]) & {"knn", "linear", "few-label"})
    settings |= {"told": told} if told else {}
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


def build(job: Job) -> Outcome:
    """Compute each value once; classes are those of the manifest."""
    import numpy as np
    import torch

    from data.checkpoints import read_description
    from data.draws import key, permutation
    from data.schemas import OUTCOMES
    from data.tables import read_vectors
    from models.cost import operations, weight_bits
    from models.evaluation.health import alignment, health, uniformity
    from models.evaluation.knn import knn_classes
    from models.evaluation.linear import linear_probe
    from tasks import training

    wish = job.settings
    classes = len(job.meta("manifest")["classes"])
    rows: list[tuple[Any, ...]] = []
    outcomes: dict[str, list[Any]] = {name: [] for name in OUTCOMES.names}
    chosen: dict[str, Any] = {}

    def add(evaluation: str, metric: str, setting: str, value: float, n: int, split: str = "test") -> None:
        rows.append((evaluation, wish["model"], metric, split, setting, float(value), job.seed, n))

    def classified(evaluation: str, setting: str, right: Any) -> None:
        """Top-1 accuracy on the labelled test images, and which of them were right."""
        add(evaluation, "top1", setting, right.mean(), len(right))
        for name, value in zip(OUTCOMES.names, (evaluation, wish["model"], "top1", setting), strict=False):
            outcomes[name].append(np.full(len(right), value, object))
        outcomes["index"].append(index)
        outcomes["right"].append(right)

    index, label = training.manifest_rows(job.path("manifest"), ("test",))
    index, label = index[label >= 0], label[label >= 0]
    if "train" in job.request.inputs:
        made = job.meta("train")
        layer = made.get("layer", made["config"]["layer"])

        def labelled(name: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
            at, vectors = read_vectors(job.path(name))
            rows_of, labels_of = training.manifest_rows(job.path("manifest"), (split,))
            rows_of, labels_of = rows_of[labels_of >= 0], labels_of[labels_of >= 0]
            return torch.from_numpy(vectors[np.searchsorted(at, rows_of)]), torch.from_numpy(labels_of)

        bank, bank_labels = labelled("train", "train")
        queries, query_labels = labelled("test", "test")
        for metric, value in (health(bank.numpy()) | {"uniformity": uniformity(bank.numpy())}).items():
            add("health", metric, f"layer={layer}", value, len(bank), "train")
        if "knn" in wish["protocols"]:
            ks = [k for k in wish["knn_neighbours"] if k <= len(bank)] or [len(bank)]
            found = knn_classes(bank, bank_labels, queries, ks, wish["knn_temperatures"], classes)
            for (k, temperature), predicted in found.items():
                classified("knn", f"k={k} T={temperature} layer={layer}", (predicted == query_labels).numpy())
        if "linear" in wish["protocols"]:
            probe = linear_probe(bank, bank_labels, queries, query_labels, classes=classes, seed=job.seed)
            classified("linear", f"layer={layer}", (probe.predicted == query_labels).numpy())
            chosen["l2"] = probe.strength
    if "checkpoint" in job.request.inputs:
        trained, size = job.path("checkpoint"), wish["image_size"]
        network = training.load(trained)
        if "few-label" in wish["protocols"] and read_description(trained).get("class_names"):
            logits = training.embed(job, network, index, "logits", size)
            if "told" in wish:  # one of several draws of labels: a row, and no more
                told, right = wish["told"], logits.argmax(1) == label
                row = (
                    told["evaluation"],
                    wish["model"],
                    "top1",
                    "test",
                    told["setting"],
                    right.mean(),
                    told["seed"],
                    len(right),
                )
                return _published(job, [row], outcomes, chosen)
            classified("few-label", "", logits.argmax(1) == label)
            if classes >= 100:
                top5 = np.argpartition(-logits, 5, axis=1)[:, :5]
                add("few-label", "top5", "", float((top5 == label[:, None]).any(1).mean()), len(label))
        if "train" in job.request.inputs:
            some, _ = training.manifest_rows(job.path("manifest"), ("train",))
            some = np.sort(some[permutation(key(0, "alignment"), len(some))[:ALIGNED]])
            seen = [training.embed(job, network, some, "features", size, view=f"view {n}") for n in range(2)]
            add("health", "alignment", "layer=features", alignment(*seen), len(some), "train")
        each = operations(network, size)
        counted = {"weight_bits": weight_bits(network), "binary_operations": each.binary, "real_operations": each.real}
        for metric, count in counted.items():
            add("cost", metric, f"image_size={size}", count, 1)
    return _published(job, rows, outcomes, chosen)


def _published(
    job: Job, rows: list[tuple[Any, ...]], outcomes: dict[str, list[Any]], chosen: dict[str, Any]
) -> Outcome:
    import numpy as np

    from data.schemas import OUTCOMES, SCORES
    from data.tables import write_table

    columns = (
        dict(zip(SCORES.names, zip(*rows, strict=True), strict=True)) if rows else {name: [] for name in SCORES.names}
    )
    joined: dict[str, Any] = {name: np.concatenate(parts) if parts else [] for name, parts in outcomes.items()}
    write_table(job.out / "outcomes.parquet", joined, OUTCOMES)
    return Outcome(rows=write_table(job.out / "scores.parquet", columns, SCORES), meta=chosen)
