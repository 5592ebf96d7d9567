"""Make the manifest: list, hash and check every image. Good ones get a row, broken ones a reason.

The manifest does not depend on where the sources are: the same images in another place give the same
manifest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.decode import NO_IMAGE
from data.errors import DataError
from data.held_out import hold_out
from data.leaks import (
    Leaks,
    Pair,
    Picture,
    decode_again,
    equal_pixels,
    find,
    leave_out,
    same_pictures,
    together,
    twins_table,
)
from data.measured import (
    TRAINED,
    Batch,
    Measured,
    Row,
    known_table,
    measure_all,
    measure_batch,
)
from data.own_labels import OwnLabels, match, ordered, read_labels
from data.packs import Shape
from data.reading import Reading
from data.schemas import MANIFEST, REJECTED
from data.secrets import mask
from data.sources import Entry, Named, Source, open_source
from data.types import SPLITS, Split
from data.value_range import settle
from data.wording import counted

_LOOK = 16  # images that a survey reads at once
_ASK = "set data.labels="  # a remark with this suggests a table of labels; not shown if the user gave one
_REASONS = 20  # how many different reasons of rejection are counted
_EXAMPLES = 3  # how many rejected images an error names


@dataclass(frozen=True)
class Manifest:
    """What the manifest stage publishes.

    Attributes:
        images: schema `MANIFEST`, index 0..N-1. The order is train, unlabelled, test, and by uri within each.
            Widths and heights are those of the upright image.
        rejected: schema `REJECTED`, in the same order. A rejected image of train is listed under train, even
            if it would have been held out for the test.
        classes: names of the classes, or None without labels. A label is a position in this tuple.
        parts: a hash of each part that a stage may read. `train`, `unlabelled` and `test` hash uris and
            contents, and scale and bands if there are any. `labels`, `train_labels` and `test_labels` are
            hashes of each image's split and uri, with its label and the label's name, or with the hash of its
            annotations. An absent part has the hash of nothing.
        known: schema `KNOWN`, to be passed to the next `make_manifest`.
        counts: `listed`, `read` (images that were not remembered), `rejected`, `train`, `unlabelled`, `test`,
            `labelled` (train images with a label), `test_labelled`, `leaked` (test images whose picture a
            training image shows; absent if there is none).
        notes: sentences for the user, such as about duplicates between train and test.
        guesses: sentences about what was guessed of the data.
        understood: what the data is, for `tasks.understood`: JSON values.
        twins: schema `TWINS`, all pairs of images that show the same picture.
        held_out: uri -> whether it is held out, for the next `make_manifest`. Empty if nothing is held out.
        reading: how the images are read, as JSON values. Empty if all images have 8 bits and no bands are
            chosen. `value_range` is there if images are wide (`data.wide`): the two values that become 0 and
            255. So is `clipped`: `share` is the share of the wide images' values outside this range, and
            `images` the number of images with such values. `bands`, if some are chosen. `channels`: C of the
            pixels.
    """

    images: pa.Table
    rejected: pa.Table
    classes: tuple[str, ...] | None
    parts: dict[str, str]
    known: pa.Table
    counts: dict[str, int]
    notes: list[str]
    guesses: list[str]
    understood: dict[str, Any]
    held_out: dict[str, bool]
    twins: pa.Table
    reading: dict[str, Any]


def make_manifest(
    train: str,
    test: str | None,
    unlabelled: str | None,
    *,
    seed: int,
    max_rejected: float,
    hold_out: bool = True,
    labels: str | None = None,
    known: pa.Table | None = None,
    held_out: Mapping[str, bool] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 0,
    reading: Reading = Reading(),  # noqa: B008  # it is immutable
    leaks: Leaks = "keep",
    compared: Path | None = None,
    packs: Path | None = None,
    shape: Shape | None = None,
) -> Manifest:
    """List the sources, and read and check every image that is not remembered.

    Args:
        train: source of train images, with labels if it has any.
        test: source of test images. None: the test split of train's source, if it has one; else see
            `hold_out`.
        unlabelled: source of more images to train on; its labels are ignored. None: the unlabelled split
            of train's source, if it has one.
        seed: seed of the held-out part.
        max_rejected: largest share of broken images among all listed; above it, an error is raised.
        hold_out: whether a part of train becomes test if there is no other test image.
        labels: table of labels (`data.own_labels`) in place of the sources' own, or None.
        known: the `known` of an earlier manifest of the same sources; unchanged images are not read again.
        held_out: the `held_out` of an earlier manifest of the same sources and seed.
        report: called with the number of images done and the number of all images.
        workers: number of processes that read and decode, and of threads that compare.
        reading: bands and limits; and the scale of wide images, or None to choose it.
        leaks: what happens to a train or unlabelled image that shows the picture of a test image.
        compared: a folder that remembers which images show the same picture.
        packs: a folder for the squares of the images that are read (`data.packs`), or None.
        shape: the shape of these squares. `shape.reading.value_range` is not used.

    Raises:
        ConfigError: a source is not known.
        DataError: a source is missing or empty, too many images are broken, no train or test images are left,
            a row of the table of labels names no image, or test has a class that train lacks.
    """
    asked = _Asked(train, test, unlabelled, seed, max_rejected, hold_out, labels, reading, leaks)
    sources = open_sources(train, test, unlabelled, hold_out=hold_out)
    wanted = None if packs is None or shape is None else (packs, shape)
    measured, read = measure_all(sources, known, report, workers, reading, wanted)

    def compare(rows: list[Row]) -> list[Pair]:
        pictures = [Picture(row.label, row.measured.pixels, row.measured.thumbnail) for row in rows]
        return find(pictures, lambda wanted: decode_again(sources, rows, wanted, reading), compared, workers)

    return _assemble(asked, sources, measured, read, held_out or {}, compare)


@dataclass(frozen=True)
class Survey:
    """What a look at the sources shows without reading all images.

    Attributes:
        manifest: the manifest that results if all images that were not read can be decoded.
        read: number of images that were read.
        seconds: mean time to read, hash and decode one image; 0 if none was read.
    """

    manifest: Manifest
    read: int
    seconds: float


def survey(
    train: str,
    test: str | None,
    unlabelled: str | None,
    *,
    seed: int,
    max_rejected: float,
    hold_out: bool = True,
    labels: str | None = None,
    reading: Reading = Reading(),  # noqa: B008  # it is immutable
    seconds: float | None = 5.0,
) -> Survey:
    """List the sources, and read images for some seconds. The arguments are those of `make_manifest`.

    Args:
        train: as in `make_manifest`.
        test: as in `make_manifest`.
        unlabelled: as in `make_manifest`.
        seed: as in `make_manifest`.
        max_rejected: as in `make_manifest`; it is checked only if all images are read.
        hold_out: as in `make_manifest`.
        labels: as in `make_manifest`.
        reading: as in `make_manifest`.
        seconds: how long images are read. None: until all are read.

    Raises:
        ConfigError: as in `make_manifest`.
        DataError: as in `make_manifest`.
    """
    asked = _Asked(train, test, unlabelled, seed, max_rejected, hold_out, labels, reading, "keep")
    sources = open_sources(train, test, unlabelled, hold_out=hold_out)
    found = {
        role: [Measured(f"not read: {role}/{entry.uri}", 0, 0, None) for entry in source.entries()]
        for role, source in sources.items()
    }
    # Files that may not be images are read first, because they decide which folders are taken as classes. The
    # others are read in batches from all over the sources.
    unsure: list[tuple[Split, list[int]]] = []
    batches: list[tuple[Split, list[int]]] = []
    for role, source in sources.items():
        position = {entry.uri: i for i, entry in enumerate(source.entries())}
        unsure += [(role, [i]) for i, entry in enumerate(source.entries()) if not source.certain(entry)]
        mine = [[position[e.uri] for e in batch] for batch in source.batches(source.entries(), _LOOK)]
        order = np.random.default_rng(0).permutation(len(mine))
        batches += [(role, [i for i in mine[at] if source.certain(source.entries()[i])]) for at in order]
    batches = [batches[i] for i in np.random.default_rng(0).permutation(len(batches))]
    began, read = time.monotonic(), 0
    for role, rows in [*unsure, *batches]:
        if seconds is not None and time.monotonic() - began > seconds:
            break
        entries = [sources[role].entries()[i] for i in rows]
        for i, measured in zip(rows, measure_batch(Batch(sources[role], entries, reading)), strict=True):
            found[role][i] = measured
        read += len(rows)
    took = (time.monotonic() - began) / read if read else 0.0
    return Survey(_assemble(asked, sources, found, read, {}, equal_pixels), read, took)


@dataclass(frozen=True)
class _Asked:
    """The arguments of `make_manifest` that decide its content."""

    train: str
    test: str | None
    unlabelled: str | None
    seed: int
    max_rejected: float
    hold_out: bool
    labels: str | None
    reading: Reading
    leaks: Leaks


def _assemble(
    asked: _Asked,
    sources: dict[Split, Source],
    measured: dict[Split, list[Measured]],
    read: int,
    held_out: Mapping[str, bool],
    compare: Callable[[list[Row]], list[Pair]],
) -> Manifest:
    """Make the manifest of measured images.

    Args:
        asked: what decides the content.
        sources: the open sources by role.
        measured: one per entry of each source.
        read: number of images that were read.
        held_out: as in `make_manifest`.
        compare: finds the images that show the same picture.
    """
    own = None if asked.labels is None else read_labels(asked.labels)
    test, unlabelled = asked.test, asked.unlabelled
    total = listed = sum(len(source.entries()) for source in sources.values())
    guesses: list[str] = []
    notes: list[str] = []
    rejected: list[tuple[str, str, str]] = []
    broken = 0
    named: dict[Split, Named] = {}
    usable: dict[Split, list[tuple[Entry, Measured]]] = {}
    for role, source in sources.items():
        pairs = list(zip(source.entries(), measured[role], strict=True))
        good = [(entry, found) for entry, found in pairs if found.reason is None]
        ignored = [entry for entry, found in pairs if found.reason == NO_IMAGE and not source.certain(entry)]
        if ignored:
            notes.append(
                f"{role}: {counted(len(ignored), 'file is no image', 'files are not images')}, "
                f"first {ignored[0].uri!r}"
            )
        broken += len(pairs) - len(good) - len(ignored)
        total -= len(ignored)
        named[role] = source.named([entry for entry, _ in good])
        reasons = {entry.uri: found.reason for entry, found in pairs if found.reason is not None}
        reasons |= named[role].left_out
        rejected += [(role, entry.uri, reasons[entry.uri]) for entry, _ in pairs if entry.uri in reasons]
        usable[role] = good
        of_classes = named[role].guesses if role != "unlabelled" and own is None else ()
        guesses += [f"{role}: {text}" for text in (*source.guesses, *of_classes)]
        notes += [f"{role}: {text}" for text in source.remarks if own is None or _ASK not in text]
    if not any(found.width == 0 and found.reason is None for items in measured.values() for found in items):
        _bound_rejected(rejected, broken, total, asked.max_rejected)
    names = _class_names(sources, named, usable, own)
    classes = _classes(sources, names, notes)
    every: list[Row] = []
    for role, source in sources.items():
        told = source.annotations([entry for entry, _ in usable[role]]) if role != "unlabelled" else None
        position = {name: label for label, name in enumerate(classes or ())}
        for i, (entry, found) in enumerate(usable[role]):
            if entry.uri not in named[role].left_out:
                name = names[role][i] if role in names else None
                label = None if name is None else position.get(name)
                every.append(Row(role, entry, found, label, told[i] if told else None))
    test_from = "source" if test is not None else "split" if "test" in sources else None
    sides: dict[str, bool] = {}
    splits: list[Split | None] = [row.role for row in every]
    twins = compare(every)
    group = together(len(every), twins)
    if test_from is None and asked.hold_out:
        test_from, sides = "held out", _hold_out(every, splits, group, asked.seed, held_out)
    notes += same_pictures(every, splits, twins, group, classes)
    rejected += leave_out(every, splits, group, asked.leaks)
    trained = {int(group[i]) for i, split in enumerate(splits) if split in TRAINED}
    leaked_tests = sum(split == "test" and int(group[i]) in trained for i, split in enumerate(splits))
    rows = {split: [r for r, own in zip(every, splits, strict=True) if own == split] for split in SPLITS}
    for split in ("train", "test"):
        if not rows[split] and (split == "train" or test_from is not None):
            raise DataError(
                _none_left(split, rows, sources["train"].spec, None if test is None else mask(test))
            )
    notes += _observations(rows, classes)
    learned, tested = (
        [row.measured.values for split in splits for row in rows[split] if row.measured.width]
        for splits in (TRAINED, ("test",))
    )
    settled = settle(learned, tested, asked.reading)
    notes += settled.notes
    if broken:
        notes.append(f"{broken} of {total} images can't be used and are left out; see rejected.parquet")
    unlabelled_from = "source" if unlabelled is not None else "split" if "unlabelled" in sources else None
    return Manifest(
        images=_images_table(rows),
        rejected=pa.Table.from_arrays(
            [pa.array([row[i] for row in rejected], pa.string()) for i in range(3)], schema=REJECTED
        ),
        classes=classes,
        parts=_parts(rows, classes, settled.reading.recorded()),
        known=known_table(sources, measured),
        counts={
            "listed": listed,
            "read": read,
            "rejected": len(rejected),
            **{split: len(rows[split]) for split in SPLITS},
            "labelled": sum(row.label is not None for row in rows["train"]),
            "test_labelled": sum(row.label is not None for row in rows["test"]),
            **({"leaked": leaked_tests} if leaked_tests else {}),
        },
        notes=notes,
        guesses=guesses,
        understood=_understood(rows, classes, rejected, test_from, unlabelled_from),
        held_out=sides,
        twins=twins_table(every, splits, twins),
        reading=settled.recorded,
    )


def open_sources(
    train: str, test: str | None, unlabelled: str | None, *, hold_out: bool
) -> dict[Split, Source]:
    """Open the sources by role. Without a source for test or unlabelled, train's own split is used."""
    specs: dict[Split, str | None] = {"train": train, "unlabelled": unlabelled, "test": test}
    sources = {role: open_source(spec, role) for role, spec in specs.items() if spec}
    own = sources["train"].splits if hold_out or test is not None else ()
    sources |= {role: open_source(train, role) for role in own if role not in sources}
    return {role: sources[role] for role in SPLITS if role in sources}


def _class_names(
    sources: dict[Split, Source],
    named: dict[Split, Named],
    usable: dict[Split, list[tuple[Entry, Measured]]],
    own: OwnLabels | None,
) -> dict[Split, list[str | None]]:
    """The class name of each usable image, by role. A role without any label is absent."""
    names: dict[Split, list[str | None]] = {}
    for role, found in named.items():
        if role != "unlabelled" and found.classes is not None:
            classes = found.classes
            names[role] = [None if label is None else classes[label] for label in found.labels]
    if own is None:
        return names
    roles = [role for role in usable if role != "unlabelled"]
    pairs = [(role, entry, measured) for role in roles for entry, measured in usable[role]]
    elsewhere = {
        f"data.unlabelled ({sources[role].spec})": [entry.uri for entry, _ in usable[role]]
        for role in usable
        if role == "unlabelled"
    }
    uris, hashes = [entry.uri for _, entry, _ in pairs], [measured.sha256 for *_, measured in pairs]
    given = match(own, uris, hashes, elsewhere)
    for role in roles:
        mine = [label for label, (other, *_) in zip(given, pairs, strict=True) if other == role]
        if role == "train" or any(label is not None for label in mine):
            names[role] = mine
    return names


def _classes(
    sources: dict[Split, Source], names: dict[Split, list[str | None]], notes: list[str]
) -> tuple[str, ...] | None:
    """The classes of train, or of test if train has none. Remarks about missing labels go to `notes`."""
    train, test = sources["train"], sources.get("test")
    own = _ordered(train, names.get("train"))
    if own is not None and len(own) < 2:
        notes.append(f"train: only one class ({own[0]}), so nothing can be learned from the labels")
    if test is None or "test" not in names:
        if test is not None and own is not None:
            notes.append("test: the images have no labels, so nothing can be scored on them")
        return own
    if own is None:
        notes.append("train: no labels; the labels of test are used only for scoring")
        return _ordered(test, names["test"])
    unknown = sorted({name for name in names["test"] if name is not None} - set(own))
    if unknown:
        raise DataError(
            f"test ({test.spec}) has {len(unknown)} classes that train ({train.spec}) lacks, "
            f"first {unknown[0]!r}; train has "
            f"{', '.join(own[:10])}{' ...' if len(own) > 10 else ''}. "
            "The class names must be the same in both"
        )
    return own


def _ordered(source: Source, names: list[str | None] | None) -> tuple[str, ...] | None:
    """The classes in the source's order, if all names are the source's own."""
    used = {name for name in names or () if name is not None}
    if not used:
        return None
    classes = source.classes
    return classes if classes is not None and used <= set(classes) else ordered(used)


def _bound_rejected(
    rejected: list[tuple[str, str, str]], broken: int, total: int, max_rejected: float
) -> None:
    if broken <= max_rejected * total:
        return
    examples = "; ".join(f"{uri} ({role}): {reason}" for role, uri, reason in rejected[:_EXAMPLES])
    raise DataError(
        f"{broken} of {total} images ({broken / total:.1%}) can't be used, more than "
        f"data.max_rejected ({max_rejected:.1%}) allows: {examples}. "
        "Repair or remove them, or raise data.max_rejected"
    )


def _hold_out(
    every: list[Row],
    splits: list[Split | None],
    group: NDArray[np.int64],
    seed: int,
    before: Mapping[str, bool],
) -> dict[str, bool]:
    """Change the split of the held-out train images to test. Return whether each uri is held out."""
    train = [position for position, split in enumerate(splits) if split == "train"]
    uris = [every[position].entry.uri for position in train]
    labels = [every[position].label for position in train]
    chosen = hold_out(seed, uris, labels, group[train], before).tolist()
    for position, out in zip(train, chosen, strict=True):
        splits[position] = "test" if out else "train"
    return dict(zip(uris, chosen, strict=True))


def _none_left(split: str, rows: dict[Split, list[Row]], train: str, test: str | None) -> str:
    left = [row.measured.sha256 for split in SPLITS for row in rows[split]]
    if test is None and len(left) > 1 and len(set(left)) == 1:
        return f"{train}: all {len(left)} images are equal, so none can be held out for test; set data.test"
    if test is None:
        return (
            f"{train}: too few usable images to hold out a fifth for test ({split} is empty); set data.test"
        )
    return f"{train if split == 'train' else test}: no usable images for {split}; all were rejected"


def _observations(rows: dict[Split, list[Row]], classes: tuple[str, ...] | None) -> list[str]:
    notes: list[str] = []
    per_train = Counter(row.label for row in rows["train"] if row.label is not None)
    per_test = Counter(row.label for row in rows["test"] if row.label is not None)
    if classes is not None and per_train:
        for split, counted in (("train", per_train), ("test", per_test)):
            empty = [name for label, name in enumerate(classes) if not counted[label]]
            if empty and (counted or split == "train"):
                more = " ..." if len(empty) > 5 else ""
                notes.append(f"{len(empty)} classes have no {split} images: {', '.join(empty[:5])}{more}")
        if len(classes) > 10 and 2 * len(per_train) > sum(per_train.values()):
            notes.append(
                f"{len(classes)} classes for {sum(per_train.values())} labelled images: fewer than two each. "
                "If the folders are not classes, put the images directly into one folder"
            )
    return notes


def _understood(
    rows: dict[Split, list[Row]],
    classes: tuple[str, ...] | None,
    rejected: list[tuple[str, str, str]],
    test_from: str | None,
    unlabelled_from: str | None,
) -> dict[str, Any]:
    measured = [row.measured for split in SPLITS for row in rows[split]]
    sides = [(found.width, found.height) for found in measured if found.width]
    counted = {
        split: Counter(row.label for row in rows[split] if row.label is not None)
        for split in ("train", "test")
    }
    widths, heights = [width for width, _ in sides], [height for _, height in sides]
    return {
        **({"width": [min(widths), max(widths)], "height": [min(heights), max(heights)]} if sides else {}),
        "classes": [
            {"name": name, "train": counted["train"][label], "test": counted["test"][label]}
            for label, name in enumerate(classes or ())
        ],
        "distinct": len(
            {row.measured.pixels or row.measured.sha256 for split in TRAINED for row in rows[split]}
        ),
        "test_from": test_from,
        "unlabelled_from": unlabelled_from,
        "left_out": dict(Counter(reason for *_, reason in rejected).most_common(_REASONS)),
    }


def _images_table(rows: dict[Split, list[Row]]) -> pa.Table:
    ordered = [(split, row) for split in SPLITS for row in rows[split]]
    columns = {
        "index": np.arange(len(ordered), dtype=np.int64),
        "uri": [row.entry.uri for _, row in ordered],
        "sha256": [row.measured.sha256 for _, row in ordered],
        "split": [split for split, _ in ordered],
        "label": [row.label for _, row in ordered],
        "width": [row.measured.width for _, row in ordered],
        "height": [row.measured.height for _, row in ordered],
    }
    return pa.Table.from_arrays(
        [pa.array(columns[field.name], field.type) for field in MANIFEST], schema=MANIFEST
    )


def _parts(
    rows: dict[Split, list[Row]], classes: tuple[str, ...] | None, reading: dict[str, Any]
) -> dict[str, str]:
    def labels(*splits: Split) -> str:
        kept = [(split, row) for split in splits for row in rows[split]]
        labelled = [
            (split, row.entry.uri, str(row.label), classes[row.label] if classes else "")
            for split, row in kept
            if row.label is not None
        ]
        annotated = [
            (split, row.entry.uri, row.annotation) for split, row in kept if row.annotation is not None
        ]
        return _hash([*labelled, *annotated])

    parts: dict[str, str] = {}
    for split in SPLITS:
        contents = [(row.entry.uri, row.measured.sha256) for row in rows[split]]
        if reading and contents:  # another scale gives other pixels
            contents.append(("reading", json.dumps(reading, sort_keys=True)))
        parts[split] = _hash(contents)
    return {
        **parts,
        "labels": labels(*SPLITS),
        "train_labels": labels("train"),
        "test_labels": labels("test"),
    }


def _hash(lines: Iterable[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(("\0".join(line) + "\n").encode())
    return digest.hexdigest()
