"""Make the manifest: list, hash and check every image. Good ones get a row, broken ones a reason.

The manifest does not depend on where the sources are: the same images in another place give the same
manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data import draws
from data.decode import content_sha256, measure
from data.errors import DataError
from data.files import replacing
from data.reading import Reading
from data.schemas import MANIFEST, REJECTED
from data.sources import UNKNOWN_TIME, Entry, Pixels, Source, open_source
from data.spread import spread
from data.types import SPLITS, Split
from data.value_range import Values, settle
from data.wide import NeedsLibrary

HELD_OUT = 0.2
"""Share of the train images that become test images if no test source is given."""

KNOWN = pa.schema(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("quantiles", pa.binary(), nullable=False),
    ]
)
"""What is remembered of each image that was read, with (role, uri, size, mtime) as the key.

`reason` says why an image is broken; it is null for a good one. `kind` and `quantiles` are `Values`.
"""

_BATCH = 256
_INLINE = 2048  # below this number of images, checking takes less time than starting worker processes
_EXAMPLES = 3  # how many rejected images an error names


class Measured(NamedTuple):
    """What is known of an image after reading it once.

    A broken image has a reason, and its width and height are 0. If it could not be read at all, sha256 is "".
    """

    sha256: str
    width: int
    height: int
    reason: str | None
    values: Values = Values(None, b"")


class _Row(NamedTuple):
    entry: Entry
    measured: Measured
    label: int | None
    annotation: str | None


@dataclass(frozen=True)
class Manifest:
    """What the manifest stage publishes.

    Attributes:
        images: schema `MANIFEST`, index 0..N-1. The order is train, unlabelled, test, and by uri within each.
            Widths and heights are those of the upright image.
        rejected: schema `REJECTED`, in the same order. Images that would have been held out are under train.
        classes: names of the classes, or None without labels. A label is a position in this tuple.
        parts: a hash of each part that a stage may read. `train`, `unlabelled` and `test` hash uris and
            contents, and scale and bands if there are any. `labels`, `train_labels` and `test_labels` hash
            split and uri with the label and its name, or with the hash of the annotations. An absent part has
            the hash of nothing.
        known: schema `KNOWN`, to be passed to the next `make_manifest`.
        counts: `listed`, `read` (images that were not remembered), `rejected`, `train`, `unlabelled`, `test`,
            `labelled` (train images with a label), `test_labelled`.
        notes: sentences for the user, such as about duplicates between train and test.
        reading: how the images are read, as JSON values. Empty if all images have 8 bits and no bands are
            chosen. `value_range`, if images are wide: what becomes 0 and 255. `clipped`: `share` of their
            values beyond it, and number of `images` with such values. `bands`, if some are chosen.
            `channels`: C of the pixels.
    """

    images: pa.Table
    rejected: pa.Table
    classes: tuple[str, ...] | None
    parts: dict[str, str]
    known: pa.Table
    counts: dict[str, int]
    notes: list[str]
    reading: dict[str, Any]


def make_manifest(
    train: str,
    test: str | None,
    unlabelled: str | None,
    *,
    seed: int,
    max_rejected: float,
    hold_out: bool = True,
    known: pa.Table | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 0,
    reading: Reading = Reading(),  # noqa: B008  # it is immutable
) -> Manifest:
    """List the sources, and read and check every image that is not remembered.

    Args:
        train: source of train images, with labels if it has any.
        test: source of test images, or None; see `hold_out`.
        unlabelled: source of more images to train on; its labels are ignored.
        seed: seed of the held-out part.
        max_rejected: largest share of broken images among all listed; above it, an error is raised.
        hold_out: whether a part of train becomes test (`held_out`) if there is no test source.
        known: the `known` of an earlier manifest of the same sources; unchanged images are not read again.
        report: called with the number of images done and the number of all images.
        workers: number of processes that read and decode.
        reading: bands and limits; and the scale of wide images, or None to choose it.

    Raises:
        ConfigError: a source is not known.
        DataError: a source is missing or empty, too many images are broken, no train or test images are left,
            or test has a class that train lacks.
    """
    specs: dict[Split, str | None] = {"train": train, "unlabelled": unlabelled, "test": test}
    sources = {role: open_source(spec, role) for role, spec in specs.items() if spec}
    measured, read = _measure_all(sources, known, report, workers, reading)
    total = sum(len(source.entries()) for source in sources.values())

    notes = [remark for source in sources.values() for remark in source.remarks]
    classes = _classes(sources, notes)
    rows: dict[Split, list[_Row]] = {split: [] for split in SPLITS}
    rejected: list[tuple[str, str, str]] = []
    for role, source in sources.items():
        label_of = _relabel(source.classes, classes) if role != "unlabelled" else {}
        told = source.annotations(source.entries()) if role != "unlabelled" else None
        for position, (entry, found) in enumerate(zip(source.entries(), measured[role], strict=True)):
            if found.reason is not None:
                rejected.append((role, entry.uri, found.reason))
            else:
                label = None if entry.label is None else label_of.get(entry.label)
                rows[role].append(_Row(entry, found, label, told[position] if told else None))
    _bound_rejected(rejected, total, max_rejected)
    if test is None and hold_out:
        _hold_out(rows, seed)
    for split in ("train", "test"):
        if not rows[split] and (split == "train" or test is not None or hold_out):
            raise DataError(_none_left(split, train, test))
    notes += _observations(rows, classes)
    learned, tested = (
        [row.measured.values for split in splits for row in rows[split]]
        for splits in (("train", "unlabelled"), ("test",))
    )
    settled = settle(learned, tested, reading)
    notes += settled.notes
    if rejected:
        notes.append(
            f"{len(rejected)} of {total} images can't be used and are left out; see rejected.parquet"
        )
    return Manifest(
        images=_images_table(rows),
        rejected=pa.Table.from_arrays(
            [pa.array([row[i] for row in rejected], pa.string()) for i in range(3)], schema=REJECTED
        ),
        classes=classes,
        parts=_parts(rows, classes, settled.reading.recorded()),
        known=_known_table(sources, measured),
        counts={
            "listed": total,
            "read": read,
            "rejected": len(rejected),
            **{split: len(rows[split]) for split in SPLITS},
            "labelled": sum(row.label is not None for row in rows["train"]),
            "test_labelled": sum(row.label is not None for row in rows["test"]),
        },
        notes=notes,
        reading=settled.recorded,
    )


def held_out(seed: int, uris: Sequence[str]) -> NDArray[np.bool_]:
    """Choose the train images that become test images if there is no test source.

    Each is chosen with probability `HELD_OUT`. The choice depends only on the seed and the image's uri, so
    adding or removing images never moves another image between train and test. The number chosen from a class
    is binomial: 200 +- 13 (standard deviation) of 1,000 images.

    Returns:
        (N,) bool, True for test.
    """
    keys = (hashlib.blake2b(uri.encode(), digest_size=8, key=_seed_key(seed)).digest() for uri in uris)
    hashed = np.frombuffer(b"".join(keys), "<u8")
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < HELD_OUT


def _seed_key(seed: int) -> bytes:
    return draws.key(seed, "held out").to_bytes(8, "little")


def read_known(path: Path) -> pa.Table | None:
    """Read what an earlier manifest remembered.

    Returns None if the file is missing or not readable. Then all images are read again.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(KNOWN) else None


def write_known(path: Path, known: pa.Table) -> None:
    """Write what the next manifest needs to know. The file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as draft:
        pq.write_table(known, draft, compression="zstd")


# Reading


def _measure_all(
    sources: dict[Split, Source],
    known: pa.Table | None,
    report: Callable[[int, int], None],
    workers: int,
    reading: Reading,
) -> tuple[dict[Split, list[Measured]], int]:
    """Measure all entries, but read only those that are not remembered -> (measured, number read)."""
    found: dict[Split, list[Measured | None]] = {
        role: _recall(role, source.entries(), known) for role, source in sources.items()
    }
    total = sum(map(len, found.values()))
    unread = sum(item is None for items in found.values() for item in items)
    done = total - unread
    report(done, total)
    for role, source in sources.items():
        position = {entry.uri: i for i, entry in enumerate(source.entries()) if found[role][i] is None}
        entries = [source.entries()[i] for i in position.values()]
        batches = list(source.batches(entries, _BATCH))
        alone = len(entries) < _INLINE or not source.parallel
        tasks = ((source, batch, reading) for batch in batches)
        for batch, results in zip(batches, spread(_measure, tasks, 0 if alone else workers), strict=True):
            for entry, measured in zip(batch, results, strict=True):
                found[role][position[entry.uri]] = measured
            done += len(batch)
            report(done, total)
    return {role: [item for item in items if item is not None] for role, items in found.items()}, unread


def _recall(role: str, entries: Sequence[Entry], known: pa.Table | None) -> list[Measured | None]:
    if known is None:
        return [None] * len(entries)
    own = known.filter(pc.equal(known["role"], role))
    row_of = {uri: row for row, uri in enumerate(own["uri"].to_pylist())}
    columns = [own[name].to_pylist() for name in KNOWN.names[2:]]
    sizes, times, hashes, widths, heights, reasons, kinds, quantiles = columns
    found: list[Measured | None] = []
    for entry in entries:
        row = row_of.get(entry.uri)
        if (
            row is None
            or (sizes[row], times[row]) != (entry.size, entry.mtime)
            or entry.mtime == UNKNOWN_TIME
        ):
            found.append(None)
        else:
            values = Values(kinds[row], quantiles[row])
            found.append(Measured(hashes[row], widths[row], heights[row], reasons[row], values))
    return found


def _measure(task: tuple[Source, list[Entry], Reading]) -> list[Measured]:
    """Read, hash and decode each image once."""
    source, entries, reading = task
    found: list[Measured] = []
    while len(found) < len(entries):
        try:
            for data in source.read(entries[len(found) :]):
                found.append(_measure_one(data, reading))
        except OSError as error:  # only this entry failed: continue with the next one
            found.append(Measured("", 0, 0, f"it can't be read ({error.strerror or error})"))
    return found


def _measure_one(data: bytes | Pixels, reading: Reading) -> Measured:
    sha256 = content_sha256(data)
    try:
        found = measure(data, reading)
    except NeedsLibrary as error:  # not remembered: the library may be there next time
        return Measured("", 0, 0, str(error))
    except DataError as error:
        return Measured(sha256, 0, 0, str(error))
    quantiles = b"" if found.quantiles is None else found.quantiles.astype("<f8").tobytes()
    return Measured(sha256, found.width, found.height, None, Values(found.kind, quantiles))


# Rows


def _classes(sources: dict[Split, Source], notes: list[str]) -> tuple[str, ...] | None:
    """The classes of train, or of test if train has none. Remarks about missing labels go to `notes`."""
    train, test = sources["train"], sources.get("test")
    classes = train.classes
    if classes is not None and len(classes) < 2:
        notes.append(
            f"{train.spec}: only one class ({classes[0]}), so nothing can be learned from the labels"
        )
    if test is None or test.classes is None:
        if test is not None and classes is not None:
            notes.append(f"{test.spec}: test images have no labels, so nothing can be scored on them")
        return classes
    if classes is None:
        notes.append(f"{train.spec}: no labels; the labels of test are used only for scoring")
        return test.classes
    used = {entry.label for entry in test.entries() if entry.label is not None}
    unknown = [name for label, name in enumerate(test.classes) if label in used and name not in classes]
    if unknown:
        raise DataError(
            f"test ({test.spec}) has {len(unknown)} classes that train ({train.spec}) lacks, "
            f"first {unknown[0]!r}; train has "
            f"{', '.join(classes[:10])}{' ...' if len(classes) > 10 else ''}. "
            "The class names must be the same in both"
        )
    return classes


def _relabel(own: tuple[str, ...] | None, classes: tuple[str, ...] | None) -> dict[int, int]:
    """Map a source's labels to the manifest's labels by class name."""
    if own is None or classes is None:
        return {}
    position = {name: label for label, name in enumerate(classes)}
    return {label: position[name] for label, name in enumerate(own) if name in position}


def _bound_rejected(rejected: list[tuple[str, str, str]], total: int, max_rejected: float) -> None:
    if len(rejected) <= max_rejected * total:
        return
    examples = "; ".join(f"{uri} ({role}): {reason}" for role, uri, reason in rejected[:_EXAMPLES])
    raise DataError(
        f"{len(rejected)} of {total} images ({len(rejected) / total:.1%}) can't be used, more than "
        f"data.max_rejected ({max_rejected:.1%}) allows: {examples}. "
        "Repair or remove them, or raise data.max_rejected"
    )


def _hold_out(rows: dict[Split, list[_Row]], seed: int) -> None:
    chosen = held_out(seed, [row.entry.uri for row in rows["train"]])
    train = rows["train"]
    rows["test"] = [row for row, out in zip(train, chosen, strict=True) if out]
    rows["train"] = [row for row, out in zip(train, chosen, strict=True) if not out]


def _none_left(split: str, train: str, test: str | None) -> str:
    if test is None:
        return (
            f"{train}: too few usable images to hold out a fifth for test ({split} is empty); set data.test"
        )
    return f"{train if split == 'train' else test}: no usable images for {split}; all were rejected"


def _observations(rows: dict[Split, list[_Row]], classes: tuple[str, ...] | None) -> list[str]:
    notes = []
    train = {row.measured.sha256 for row in rows["train"]}
    doubles = sum(row.measured.sha256 in train for row in rows["test"])
    if doubles:
        notes.append(
            f"{doubles} of {len(rows['test'])} test images are also in train, byte for byte, "
            "so scores are too high"
        )
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


def _images_table(rows: dict[Split, list[_Row]]) -> pa.Table:
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
    rows: dict[Split, list[_Row]], classes: tuple[str, ...] | None, reading: dict[str, Any]
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


def _known_table(sources: dict[Split, Source], measured: dict[Split, list[Measured]]) -> pa.Table:
    """The table to remember: all images that were read and can be recognised next time.

    Images that could not be read at all are left out, so they are tried again.
    """
    rows = list(
        chain.from_iterable(
            (
                (role, entry.uri, entry.size, entry.mtime, *found[:-1], *found.values)
                for entry, found in zip(source.entries(), measured[role], strict=True)
                if found.sha256 and entry.mtime != UNKNOWN_TIME
            )
            for role, source in sources.items()
        )
    )
    return pa.Table.from_arrays(
        [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(KNOWN)], schema=KNOWN
    )
