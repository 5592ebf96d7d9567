"""Ask a model about images: what `knowledge-transfer predict` and Python's `predict` do.

Everything that the user gave is checked before torch is imported.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.errors import ConfigError
from data.reading import MAX_PIXELS
from data.sources import Source
from flows.model_folder import Usable, usable_model, whole_model
from tasks.config import Compute, Config

if TYPE_CHECKING:
    from models.opened import Opened

FEW = 20
"""Number of images that the terminal shows."""
SHOWN = 50
"""Number of images on the sheet of neighbours."""
LISTED = 5
"""Number of bad images that are named."""
_KEPT = 4
"""Number of opened models that a process keeps for the next question."""
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Question:
    """What a user wants to know.

    Attributes:
        model: the model.
        sources: the images.
        classes: whether to name classes; if not, only vectors are wanted.
        top: number of most likely classes, at least 1.
        every: whether to give the probability of every class.
        embeddings: whether to give the features of the last layer below the classifier.
        neighbours: number of similar training images; 0: none.
        out: the file to write, .parquet or .csv; None: nothing is written.
        keep: number of rows to return.
        device: where to compute.
        max_pixels: images with more pixels are bad images; it bounds memory.
    """

    model: Usable
    sources: Sequence[Source]
    classes: bool = True
    top: int = 2
    every: bool = False
    embeddings: bool = False
    neighbours: int = 0
    out: Path | None = None
    keep: float = FEW
    device: Device = "auto"
    max_pixels: int = MAX_PIXELS


def question(
    model: str,
    images: Sequence[str],
    *,
    store: str | None = None,
    top: int = 2,
    every: bool = False,
    embeddings: bool = False,
    neighbours: int = 0,
    out: str | None = None,
    keep: float = FEW,
    device: Device = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Question:
    """Understand what a user asks in words, and check it before any work.

    Args:
        model: a run's name or folder, a checkpoint's folder, or an exported file.
        images: see `data.sources.given.open_given`.
        store: the store that has the run; None: the default one.
        top: see `Question`.
        every: see `Question`.
        embeddings: see `Question`.
        neighbours: see `Question`.
        out: path of the file to write, or None.
        keep: see `Question`.
        device: see `Question`.
        max_pixels: see `Question`.

    Raises:
        ConfigError: there is no such model or image, or a number or the file is not allowed.
        DataError: a source can't be reached.
    """
    from data.sources.given import open_given

    asked = Question(
        model=usable_model(model, Path(store or Config().store).expanduser().absolute()),
        sources=open_given(images),
        top=top,
        every=every,
        embeddings=embeddings,
        neighbours=neighbours,
        out=Path(out).expanduser() if out else None,
        keep=keep,
        device=device,
        max_pixels=max_pixels,
    )
    check(asked)
    return asked


@dataclass
class _Tally:
    """What was seen so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    left_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)


def answer(
    question: Question, note: Callable[[str], None], progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Ask a model about images.

    Args:
        question: what the user wants to know.
        note: gets lines for the user, such as what was guessed of the images.
        progress: gets the number of images done, and of all images.

    Returns:
        JSON values: model (its folder), run (its name or None), classes (names), images (number of rows), bad
        (number of rows with a reason), reasons (reason -> number), first_bad (the first of them), left_out
        (number of files that are no images), counts (class -> number of images), out (path or None), sheet
        (path of the contact sheet or None), seconds, images_per_second, and predictions: the first `keep`
        rows.

    Raises:
        UserError: the model can't name classes, or has no features; or the images can't be listed or read.
        ArtifactError: the model's files can't be read.
    """
    check(question)
    total = sum(len(source.entries()) for source in question.sources)
    for source in question.sources:
        for line in (*source.guesses, *source.remarks):
            note(f"{source.spec}: {line}")

    from data.answered import AnswerFile, block
    from data.processes import keep_memory
    from data.schemas import predictions
    from tasks import predictions as asking

    keep_memory()
    model = opened(question.model.place, question.device, question.max_pixels)
    names = model.need_names() if question.classes else ()
    features = question.embeddings or question.neighbours > 0
    if features and model.dim is None:
        raise ConfigError(f"model {str(question.model.place)!r} gives no features; use the run it came from")
    tally, began = _Tally(), time.monotonic()
    with ExitStack() as stack:
        similar = _similar(question, model, stack, note)
        schema = predictions(
            names,
            top=question.top,
            every=question.every,
            dim=(model.dim or 0) if question.embeddings else 0,
            neighbours=question.neighbours,
        )
        file = stack.enter_context(AnswerFile(question.out, schema) if question.out else nullcontext())
        began, done = time.monotonic(), 0
        progress(0, total)
        for found in asking.ask(model, question.sources, workers=Compute().decoders, features=features):
            columns = asking.columns(found, names, question.top)
            if similar is not None:
                columns |= similar.columns(found)
            rows = block(schema, columns)
            if file is not None:
                file.write(rows)
            done += rows.num_rows + found.read.left_out
            _count(tally, rows, found.read.reasons, question)
            tally.left_out += found.read.left_out
            progress(done, total)
        sheet = None if similar is None else similar.write_sheet(question.out, tally.rows)
    seconds = time.monotonic() - began
    return {
        "model": str(question.model.place),
        "run": question.model.run.name if question.model.run else None,
        "classes": list(names),
        "images": tally.images,
        "bad": tally.reasons.total(),
        "reasons": dict(tally.reasons.most_common()),
        "first_bad": tally.bad,
        "left_out": tally.left_out,
        "counts": dict(tally.classes.most_common()),
        "out": str(question.out) if question.out else None,
        "sheet": str(sheet) if sheet else None,
        "seconds": round(seconds, 3),
        "images_per_second": round(tally.images / max(seconds, 1e-9), 1),
        "predictions": tally.rows[: int(min(question.keep, len(tally.rows)))],
    }


def check(question: Question) -> None:
    """Check a question before any work.

    Raises:
        ConfigError: a number or the file is not allowed, or the model's training images are not known.
    """
    from data.answered import check_path

    if question.top < 1:
        raise ConfigError(f"--top {question.top}: give 1 or more")
    if question.max_pixels < 1:
        raise ConfigError(f"--max-pixels {question.max_pixels}: give 1 or more")
    if question.neighbours < 0:
        raise ConfigError(f"--neighbours {question.neighbours}: give 0 or more")
    if question.out is not None:
        check_path(question.out, vectors=question.embeddings)
    if question.neighbours and question.model.run is None:
        raise ConfigError(
            "--neighbours: only a run knows which images its model was trained on; give the run as MODEL"
        )


_OPENED: dict[Any, Opened] = {}


def opened(place: Path, device: Device, max_pixels: int) -> Opened:
    """Open a model, or take the one that this process has open. A file that has changed is read again.

    Raises:
        DamagedError: a file of the model is not what was written.
    """
    files = sorted(place.glob("model.*")) if place.is_dir() else [place]
    key = (place, device, max_pixels, *(path.stat().st_mtime_ns for path in files))
    if key not in _OPENED:
        while len(_OPENED) >= _KEPT:
            _OPENED.pop(next(iter(_OPENED)))
        if place.is_dir():
            whole_model(place)
        from models.opened import open_model

        _OPENED[key] = open_model(place, device, max_pixels)
    return _OPENED[key]


def _count(tally: _Tally, rows: Any, reasons: Sequence[str | None], question: Question) -> None:
    tally.images += rows.num_rows
    tally.reasons.update(reason for reason in reasons if reason is not None)
    if len(tally.bad) < LISTED:
        named = zip(rows.column("uri").to_pylist(), reasons, strict=True)
        tally.bad += [f"{uri}: {reason}" for uri, reason in named if reason is not None]
        del tally.bad[LISTED:]
    if question.classes:
        tally.classes.update(each for each in rows.column("class").to_pylist() if each is not None)
    missing = max(question.keep, SHOWN if question.neighbours else 0) - len(tally.rows)
    if missing > 0:
        tally.rows += rows.slice(0, int(min(missing, rows.num_rows))).to_pylist()


def _similar(question: Question, model: Opened, stack: ExitStack, note: Callable[[str], None]) -> Any:
    if not question.neighbours:
        return None
    from flows.similar import Similar

    run, place = question.model.run, question.model.place
    assert run is not None
    similar = Similar(run, place, question.neighbours, model.rule, SHOWN, question.device, note)
    return stack.enter_context(similar)


def table(result: dict[str, Any]) -> Iterator[str]:
    """The lines that the terminal shows: a table of the first images, and a summary.

    Args:
        result: the result of `answer`.
    """
    rows = result["predictions"]
    if rows and not result["out"]:
        shown = [name for name in rows[0] if name not in ("source", "reason", "vector") and name[:2] != "p_"]
        cells = [[_cell(name, row) for name in shown] for row in rows]
        widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(shown)]
        for line in (shown, *cells):
            yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if result["images"] > len(rows):
            yield f"... and {result['images'] - len(rows):,} more; --out FILE.parquet or .csv has them all"
    if result["images"] > len(rows) or result["out"]:
        counts = list(result["counts"].items())
        if counts:
            told = ", ".join(f"{name} {number:,}" for name, number in counts[:10])
            yield f"classes {told}{', ...' if len(counts) > 10 else ''}"
    yield f"images  {result['images']:,} in {result['seconds']:.1f} s, {result['images_per_second']:,.0f}/s"
    if result["left_out"]:
        yield f"        {result['left_out']:,} other files are no images"
    if result["bad"]:
        yield f"bad     {result['bad']:,} can't be used"
        yield from (f"        {line}" for line in result["first_bad"])
        if result["bad"] > len(result["first_bad"]):
            yield f"        ... and {result['bad'] - len(result['first_bad']):,} more"
    if result["out"]:
        yield f"out     {result['out']}"
    if result["sheet"]:
        yield f"sheet   {result['sheet']}"
    yield f"model   {result['model']}"


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name == "class" and value is None:
        return "-"  # the lines below the table say why
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
