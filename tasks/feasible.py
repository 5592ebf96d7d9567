"""Refuse a configuration that the images don't allow, after the manifest is made and before any training.

The dry run applies the same rules. A rule needs only the counts of a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data.errors import ConfigError
from data.weights import locate
from models.configs.pretrained import Pretrained
from models.configs.shared import Teacher
from tasks.config import Config
from tasks.understood import draw_of


def refuse(config: Config, manifest: Mapping[str, Any]) -> None:
    """Check the sizes in a configuration against the images.

    Args:
        config: the run's configuration.
        manifest: meta.json of its manifest, or what a dry run knows of it.

    Raises:
        ConfigError: a stage would fail later. The message names each key, its value and what is allowed.
    """
    counts, seen = manifest["counts"], manifest.get("understood", {})
    n = counts["train"] + counts["unlabelled"]
    _raise([*_too_few(config, n), *_copies(config, n, seen)])


def refuse_weights(config: Config) -> None:
    """Check that the files of foreign weights are there and whole, before the images are even listed.

    Args:
        config: the run's configuration.

    Raises:
        ConfigError: a file is missing, or is half a file.
    """
    weights = config.pretext.weights if isinstance(config.pretext, Pretrained | Teacher) else None
    if weights is not None:
        locate(weights)


def refuse_labels(config: Config, manifest: Mapping[str, Any], *, recipes: bool = False) -> None:
    """Check what a configuration asks of the labels.

    Args:
        config: the run's configuration.
        manifest: meta.json of its manifest, or what a dry run knows of it.
        recipes: whether the draw of labels is the recipe's. Only a draw that the user asks for needs labels.

    Raises:
        ConfigError: a stage would fail later. The message names each key, its value and what is allowed.
    """
    _raise([*_labels(config, manifest["counts"], manifest.get("understood", {}), recipes)])


def _raise(faults: list[str]) -> None:
    if faults:
        raise ConfigError("; ".join(faults))


def _too_few(config: Config, n: int) -> Iterator[str]:
    """Settings that need more images than there are."""
    pretext, transfer = config.pretext, config.transfer
    most: list[tuple[str, int | None, int, str]] = []
    unfilled = "it would not be filled once"
    if isinstance(pretext, Teacher):
        prototypes = getattr(pretext, "prototypes", None) if _clusters(pretext) else None
        most += [
            ("pretext.queue", getattr(pretext, "queue", None), pretext.seen(n), unfilled),
            ("pretext.clusters", getattr(pretext, "clusters", None), n, ""),
            ("pretext.prototypes", prototypes, n, ""),
        ]
    if config.transfers:
        most.append(("transfer.queue", getattr(transfer, "queue", None), transfer.seen(n), unfilled))
        if transfer.clusters and config.cluster.data is None:
            most.append(("cluster.k", config.cluster.k, n, ""))
    if config.until == "distill" and config.predict.neighbours:
        why = "an image is not its own neighbour"
        most.append(("predict.neighbours", config.predict.neighbours, n - 1, why))
    for key, value, limit, why in most:
        if value is not None and value > limit:
            reason = f" ({why})" if why else ""
            most_here = f"set at most {min(limit, n):,}"
            yield f"{key} = {value}, but there are only {n:,} training images{reason}; {most_here}"
    k, sample = config.cluster.k, config.cluster.sample
    if config.transfers and transfer.clusters and sample is not None and sample < k <= n:
        yield f"cluster.sample = {sample}, but cluster.k = {k} clusters need as many images; set at least {k}"


def _copies(config: Config, n: int, seen: Mapping[str, Any]) -> Iterator[str]:
    """More clusters than different images."""
    distinct = seen.get("distinct", n)
    clustered = config.transfers and config.transfer.clusters and config.cluster.data is None
    if clustered and distinct < config.cluster.k <= n:
        yield (
            f"cluster.k = {config.cluster.k}, but only {distinct:,} of the {n:,} training images differ; "
            "set at "
            f"most {distinct:,}"
        )


def _clusters(pretext: Teacher) -> bool:
    """Whether the prototypes are centroids of the images."""
    return getattr(pretext, "method", "") == "deepcluster-v2"


def _labels(
    config: Config, counts: Mapping[str, int], seen: Mapping[str, Any], recipes: bool
) -> Iterator[str]:
    data, classes = config.data, seen.get("classes", [])
    if not config.tunes:
        return
    asked = "" if recipes else draw_of(data)
    if data.labels is not None:
        asked = f"data.labels={data.labels}"
    if not counts["labelled"]:
        if asked:
            yield (
                f"{asked} asks for labels, but no training image has one; looked for one sub-folder per "
                "class "
                f"or a column of labels in {data.train}. Set data.labels=csv:PATH. To train without "
                "labels, set data.labels_per_class=null and data.label_fraction=null"
            )
        return
    trained = [row for row in classes if row["train"]]
    if classes and len(trained) < 2:
        yield (
            f"only one class ({trained[0]['name']!r}) has training images, and a classifier needs two; give "
            "each "
            "class a sub-folder, or set until=transfer to train without labels"
        )
    if data.labels_per_class is not None and data.labels_short == "refuse":
        short = [row for row in trained if row["train"] < data.labels_per_class]
        if short:
            named = ", ".join(f"{row['name']!r} has {row['train']}" for row in short[:3])
            more = f"; {len(short) - 3} more classes have too few" if len(short) > 3 else ""
            least = min(row["train"] for row in short)
            yield (
                f"data.labels_per_class = {data.labels_per_class}, but {named}{more}; set at most {least}, "
                "or "
                "data.labels_short=take"
            )
