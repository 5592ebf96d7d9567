"""The manifest's contents: every image listed, hashed, checked, and given a row; every broken one with its reason.

Nothing here depends on where sources lie: the same images elsewhere give the same manifest.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data import draws
from data.decode import content_sha256, decode
from data.errors import DataError
from data.schemas import MANIFEST, REJECTED
from data.sources import UNKNOWN_TIME, Entry, Pixels, Source, open_source
from data.spread import spread
from data.types import SPLITS, Split

HELD_OUT = 0.2
"""Share of train that becomes test where no test source is given."""

KNOWN = pa.schema([
    pa.field("role", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("mtime", pa.int64(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("reason", pa.string()),
])  # fmt: skip
"""What is remembered of each image that was read, good or broken (`reason`), by (role, uri, size, mtime)."""

_BATCH = 256
_INLINE = 2048  # images; fewer are checked sooner than worker processes start
_EXAMPLES = 3  # rejected images named in an error


class Measured(NamedTuple):
    """What one reading of an image tells. Of a broken one, sizes are 0; sha256 is "" if it couldn't be read at all."""

    sha256: str
    width: int
    height: int
    reason: str | None


class _Row(NamedTuple):
    entry: Entry
    measured: Measured
    label: int | None
    annotation: str | None


@dataclass(frozen=True)
class Manifest:
    """What the manifest stage publishes.

    Attributes:
        images: schema `MANIFEST`: index 0..N-1; train, unlabelled, test, each by uri. Sizes are after EXIF orientation.
        rejected: schema `REJECTED`, in the same order; under train also those that would have been held out.
        classes: names of the classes; labels are positions in it. None without labels.
        parts: hashes of what stages may read: `train`, `unlabelled`, `test` (uri and content), `labels`,
            `train_labels`, `test_labels` (split, uri, label with its name, or the hash of its annotations). An absent part has the hash of nothing.
        known: schema `KNOWN`, to be given to the next making.
        counts: `listed`, `read` (not remembered), `rejected`, `train`, `unlabelled`, `test`, `labelled` (train images
            with a label), `test_labelled`.
        notes: sentences for the user: duplicates between train and test, classes without test images ...
    """

    images: pa.Table
    rejected: pa.Table
    classes: tuple[str, ...] | None
    parts: dict[str, str]
    known: pa.Table
    counts: dict[str, int]
    notes: list[str]


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
) -> Manifest:
    """Lists the sources and checks every image that isn't remembered.

    Args:
        train: source of train images, with labels if it has any.
        test: source of test images; None: see `hold_out`.
        unlabelled: source of more images to train on; its labels are left aside.
        seed: of the held-out part.
        max_rejected: the share of broken images, of all listed, up to which the rest is used.
        hold_out: without a test source, whether a part of train becomes test (`held_out`).
        known: the `known` of an earlier manifest of the same sources: what is unchanged is not read again.
        report: called with images done, and all.
        workers: processes that read and decode.

    Raises:
        ConfigError: a source isn't one.
        DataError: a source is missing or empty, too many images are broken, none are left of train or test, or test
            has a class that train hasn't.
    """
    specs: dict[Split, str | None] = {"train": train, "unlabelled": unlabelled, "test": test}
    sources = {role: open_source(spec, role) for role, spec in specs.items() if spec}
    measured, read = _measure_all(sources, known, report, workers)
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
    if rejected:
        notes.append(f"{len(rejected)} of {total} images can't be used and are left out: see rejected.parquet")
    return Manifest(
        images=_images_table(rows),
        rejected=pa.Table.from_arrays(
            [pa.array([row[i] for row in rejected], pa.string()) for i in range(3)], schema=REJECTED
        ),
        classes=classes,
        parts=_parts(rows, classes),
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
    )


def held_out(seed: int, uris: Sequence[str]) -> NDArray[np.bool_]:
    """Which train images become test where there is no test source: each with probability `HELD_OUT`.

    An image's fate is a function of the seed and its uri alone, so that adding or removing images never moves another
    from one side to the other. Every class therefore gives `HELD_OUT` of its images in expectation, with the spread of
    a binomial: of 1,000 images 200 +- 13.

    Returns:
        (N,) bool.
    """
    keys = (hashlib.blake2b(uri.encode(), digest_size=8, key=_seed_key(seed)).digest() for uri in uris)
    hashed = np.frombuffer(b"".join(keys), "<u8")
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < HELD_OUT


def _seed_key(seed: int) -> bytes:
    return draws.key(seed, "held out").to_bytes(8, "little")


def read_known(path: Path) -> pa.Table | None:
    """What an earlier making remembered; None if there was none, or if it isn't readable: then all is read again."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(KNOWN) else None


def write_known(path: Path, known: pa.Table) -> None:
    """Remembers, replacing the file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    pq.write_table(known, draft, compression="zstd")
    draft.replace(path)


# Reading


def _measure_all(
    sources: dict[Split, Source], known: pa.Table | None, report: Callable[[int, int], None], workers: int
) -> tuple[dict[Split, list[Measured]], int]:
    """What is known of each entry, and how many had to be read."""
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
        tasks = ((source, batch) for batch in batches)
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
    columns = [own[name].to_pylist() for name in ("size", "mtime", "sha256", "width", "height", "reason")]
    sizes, times, hashes, widths, heights, reasons = columns
    found: list[Measured | None] = []
    for entry in entries:
        row = row_of.get(entry.uri)
        if row is None or (sizes[row], times[row]) != (entry.size, entry.mtime) or entry.mtime == UNKNOWN_TIME:
            found.append(None)
        else:
            found.append(Measured(hashes[row], widths[row], heights[row], reasons[row]))
    return found


def _measure(task: tuple[Source, list[Entry]]) -> list[Measured]:
    """Reads, hashes and decodes images, each once."""
    source, entries = task
    found: list[Measured] = []
    while len(found) < len(entries):
        try:
            for data in source.read(entries[len(found) :]):
                found.append(_measure_one(data))
        except OSError as error:  # of one entry; go on behind it
            found.append(Measured("", 0, 0, f"it can't be read ({error.strerror or error})"))
    return found


def _measure_one(data: bytes | Pixels) -> Measured:
    sha256 = content_sha256(data)
    try:
        height, width, _ = decode(data).shape
    except DataError as error:
        return Measured(sha256, 0, 0, str(error))
    return Measured(sha256, width, height, None)


# Rows


def _classes(sources: dict[Split, Source], notes: list[str]) -> tuple[str, ...] | None:
    """Train's classes, or test's if train has none. Appends to notes why there are none."""
    train, test = sources["train"], sources.get("test")
    classes = train.classes
    if classes is not None and len(classes) < 2:
        notes.append(f"{train.spec}: one class only ({classes[0]}); nothing can be learned from its labels")
    if test is None or test.classes is None:
        if test is not None and classes is not None:
            notes.append(f"{test.spec}: test images have no labels, so nothing can be scored on them")
        return classes
    if classes is None:
        notes.append(f"{train.spec}: no labels; those of test serve for scoring alone")
        return test.classes
    used = {entry.label for entry in test.entries() if entry.label is not None}
    unknown = [name for label, name in enumerate(test.classes) if label in used and name not in classes]
    if unknown:
        raise DataError(
            f"test ({test.spec}) has {len(unknown)} classes that train ({train.spec}) hasn't, first {unknown[0]!r}; "
            f"train has {', '.join(classes[:10])}{' ...' if len(classes) > 10 else ''}. Names must be the same in both"
        )
    return classes


def _relabel(own: tuple[str, ...] | None, classes: tuple[str, ...] | None) -> dict[int, int]:
    """A source's labels -> the manifest's, by name."""
    if own is None or classes is None:
        return {}
    position = {name: label for label, name in enumerate(classes)}
    return {label: position[name] for label, name in enumerate(own) if name in position}


def _bound_rejected(rejected: list[tuple[str, str, str]], total: int, max_rejected: float) -> None:
    if len(rejected) <= max_rejected * total:
        return
    examples = "; ".join(f"{uri} ({role}): {reason}" for role, uri, reason in rejected[:_EXAMPLES])
    raise DataError(
        f"{len(rejected)} of {total} images ({len(rejected) / total:.1%}) can't be used, more than data.max_rejected "
        f"({max_rejected:.1%}) allows: {examples}. Mend or remove them, or raise data.max_rejected"
    )


def _hold_out(rows: dict[Split, list[_Row]], seed: int) -> None:
    chosen = held_out(seed, [row.entry.uri for row in rows["train"]])
    train = rows["train"]
    rows["test"] = [row for row, out in zip(train, chosen, strict=True) if out]
    rows["train"] = [row for row, out in zip(train, chosen, strict=True) if not out]


def _none_left(split: str, train: str, test: str | None) -> str:
    if test is None:
        return f"{train}: too few usable images to hold out a fifth for test ({split} is empty); set data.test"
    return f"{train if split == 'train' else test}: no usable images for {split}; each was rejected"


def _observations(rows: dict[Split, list[_Row]], classes: tuple[str, ...] | None) -> list[str]:
    notes = []
    train = {row.measured.sha256 for row in rows["train"]}
    doubles = sum(row.measured.sha256 in train for row in rows["test"])
    if doubles:
        notes.append(f"{doubles} of {len(rows['test'])} test images are also in train, byte for byte: scores flatter")
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
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in MANIFEST], schema=MANIFEST)


def _parts(rows: dict[Split, list[_Row]], classes: tuple[str, ...] | None) -> dict[str, str]:
    def labels(*splits: Split) -> str:
        kept = [(split, row) for split in splits for row in rows[split]]
        told = [(split, row.entry.uri, str(row.label), classes[row.label] if classes else "") for split, row in kept if row.label is not None]  # fmt: skip
        return _hash(told + [(split, row.entry.uri, row.annotation) for split, row in kept if row.annotation is not None])  # fmt: skip

    parts: dict[str, str] = {}
    for split in SPLITS:
        parts[split] = _hash((row.entry.uri, row.measured.sha256) for row in rows[split])
    return {**parts, "labels": labels(*SPLITS), "train_labels": labels("train"), "test_labels": labels("test")}


def _hash(lines: Iterable[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(("\0".join(line) + "\n").encode())
    return digest.hexdigest()


def _known_table(sources: dict[Split, Source], measured: dict[Split, list[Measured]]) -> pa.Table:
    """Rows of all that was read and can be recognised; what could not be read at all is tried again."""
    rows = list(
        chain.from_iterable(
            (
                (role, entry.uri, entry.size, entry.mtime, *found)
                for entry, found in zip(source.entries(), measured[role], strict=True)
                if found.sha256 and entry.mtime != UNKNOWN_TIME
            )
            for role, source in sources.items()
        )
    )
    return pa.Table.from_arrays(
        [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(KNOWN)], schema=KNOWN
    )
