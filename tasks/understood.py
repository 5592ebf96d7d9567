"""Say what was understood of the images: sentences for the terminal, the dry run, the page and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.configs.kinds import FAMILIES
from tasks.config import Config, Data
from tasks.overlay import unlike_kind
from tasks.scales import notes

SHOWN = 12
"""At most this many classes are named; the others are counted."""
UNEVEN = 3
"""Labels are uneven if a class has this many times the labels of another."""
REASONS = 4
"""At most this many reasons are given why images are left out; the others are counted."""


def describe(config: Config, manifest: Mapping[str, Any], *, recipes: bool = False) -> list[str]:
    """Sentences about the images, their labels, and every guess.

    Args:
        config: the run's configuration.
        manifest: meta.json of its manifest, or what a dry run knows of it (`counts`, `understood`, `guesses`,
            `notes`).
        recipes: whether the draw of labels is the recipe's rather than the user's.
    """
    counts, seen = manifest["counts"], manifest.get("understood", {})
    sizes = _sizes(seen)
    lines = [
        f"images: {counts['train']:,} for training{sizes}",
        *_classes(config, counts, seen, recipes),
    ]
    if counts["unlabelled"]:
        split = seen.get("unlabelled_from") == "split"
        source = "a split of data.train" if split else f"data.unlabelled={config.data.unlabelled}"
        lines.append(f"unlabelled: {counts['unlabelled']:,} more images, from {source}")
    lines.append(_test(config, counts, seen))
    lines += [f"bands: {text}" for text in seen.get("pixels", [])]
    if seen.get("left_out"):
        reasons = [f"{n:,} because {reason}" for reason, n in list(seen["left_out"].items())[:REASONS]]
        more = sum(list(seen["left_out"].values())[REASONS:])
        rest = [f"{more:,} for other reasons (see rejected.parquet)"] if more else []
        lines.append(f"left out: {'; '.join([*reasons, *rest])}")
    lines += [f"guess: {text}" for text in dict.fromkeys(manifest.get("guesses", []))]
    lines += [f"note: {text}" for text in manifest.get("notes", [])]
    lines += [f"note: {text}" for text in (*_fits(config, counts), *notes(config))]
    if config.data.kind is not None:
        lines.append(_kind(config, config.data.kind))
    return lines


def drawn(data: Data, sizes: list[int]) -> int:
    """The number of labels that a draw takes from classes of these sizes."""
    if data.labels_per_class is not None:
        return sum(min(n, data.labels_per_class) for n in sizes)
    if data.label_fraction is not None:
        return sum(max(1, round(data.label_fraction * n)) for n in sizes)
    return sum(sizes)


def draw_of(data: Data) -> str:
    """The setting that limits the labels, such as `data.labels_per_class=10`; empty if all are used."""
    if data.labels_per_class is not None:
        return f"data.labels_per_class={data.labels_per_class}"
    return "" if data.label_fraction is None else f"data.label_fraction={data.label_fraction:g}"


def without_labels(config: Config, manifest: Mapping[str, Any]) -> str | None:
    """Why the chain ends before fine-tuning although the configuration goes further, or None."""
    if not config.tunes or manifest["counts"]["labelled"]:
        return None
    return (
        "none were found, so the chain ended after transfer; nothing was fine-tuned or distilled. Put "
        "labelled "
        "images into one sub-folder per class, or set data.labels=csv:PATH"
    )


def _sizes(seen: Mapping[str, Any]) -> str:
    if "width" not in seen:
        return ""
    (left, right), (low, high) = seen["width"], seen["height"]
    if left == right and low == high:
        return f", all {left} x {low} px"
    return f", {left} to {right} px wide and {low} to {high} px high"


def _classes(config: Config, counts: Mapping[str, int], seen: Mapping[str, Any], recipes: bool) -> list[str]:
    data, classes = config.data, seen.get("classes", [])
    if not counts["labelled"]:
        return ["labels: none"]
    sizes = [row["train"] for row in classes if row["train"]]
    lines = []
    if classes:
        named = ", ".join(f"{row['name']} {row['train']:,}" for row in classes[:SHOWN])
        more = f" and {len(classes) - SHOWN:,} more" if len(classes) > SHOWN else ""
        lines.append(f"classes: {len(classes):,}, by training images: {named}{more}")
    used, setting = drawn(data, sizes), draw_of(data)
    if setting and used < counts["labelled"]:
        whose = "the recipe's " if recipes else ""
        lines.append(f"labels: uses {used:,} of your {counts['labelled']:,} labels: {whose}{setting}")
    else:
        lines.append(f"labels: uses all {counts['labelled']:,}")
    taken = [drawn(data, [n]) for n in sizes]
    if taken and max(taken) >= UNEVEN * min(taken):
        counted = (
            "every class counts the same"
            if config.finetune.balanced
            else "every label counts the same; finetune.balanced=true counts every class the same"
        )
        lines.append(f"labels: {min(taken):,} to {max(taken):,} per class; {counted}")
    rest = counts["train"] - counts["labelled"]
    if rest:
        lines.append(f"unlabelled: {rest:,} training images have no label")
    return lines


def _kind(config: Config, kind: str) -> str:
    """What the kind of pictures decides, and which keys differ from it."""
    if kind not in FAMILIES:
        return "kind: the plan looks at the images and says what they are; data.kind=... says it by hand"
    others = unlike_kind(config)
    named = ", ".join(f"{key}={value}" for key, value in list(others.items())[:SHOWN])
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    by_hand = f"; set by hand: {named}{more}" if others else ""
    return f"kind: data.kind={kind}, so views have {FAMILIES[kind].sentence}{by_hand}"


def _test(config: Config, counts: Mapping[str, int], seen: Mapping[str, Any]) -> str:
    n = counts["test"]
    labelled = ""
    if counts["test_labelled"] < n:
        labelled = (
            f", {counts['test_labelled']:,} of them with a label"
            if counts["test_labelled"]
            else ", no labels"
        )
    match seen.get("test_from"):
        case "held out":
            return f"test: {n:,} images, held out from data.train by seed {config.seed}{labelled}"
        case "split":
            return f"test: {n:,} images, the test split of data.train{labelled}"
        case None if not n:
            return "test: none"
        case _:
            return f"test: {n:,} images from data.test={config.data.test}{labelled}"


def _fits(config: Config, counts: Mapping[str, int]) -> list[str]:
    """Notes on settings that are larger than the number of images, and what happens instead."""
    n = counts["train"] + counts["unlabelled"]
    found = []
    for key, batch in (
        ("pretext.batch_size", getattr(config.pretext, "batch_size", 0)),
        ("transfer.batch_size", getattr(config.transfer, "batch_size", 0) if config.transfers else 0),
    ):
        if batch > n:
            found.append(f"{key}={batch} is more than the {n:,} images, so a batch holds all of them")
    for key, queue in (
        ("pretext.queue", getattr(config.pretext, "queue", 0)),
        ("transfer.queue", getattr(config.transfer, "queue", 0) if config.transfers else 0),
    ):
        if queue > n:
            found.append(
                f"{key}={queue} is more than the {n:,} images, so the queue holds images several times"
            )
    return found
