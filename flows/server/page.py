"""Fill the run's page in Prefect: progress of the stages, then tables, plots and the path of the report."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from data.store import Meta
from data.types import Artifact
from flows.phrases import amount, left_out, status, tested
from flows.run import Run
from flows.server import events, history
from tasks.phrases import duration, percent

UPDATE, SPEAK = 1.0, 30.0
"""Seconds between two updates of a progress bar, and between two log lines about a stage.

A stage that ends within `UPDATE` gets no progress bar.
"""


@dataclass
class _Bar:
    """The progress bar of a stage. It is created only if the stage takes long enough."""

    updated: float
    spoken: float
    id: UUID | None = None


class Page:
    """A watcher that fills the page. If it fails, it logs a warning and the run continues."""

    def __init__(self) -> None:
        self._bars: dict[str, _Bar] = {}
        self._filling = ThreadPoolExecutor(
            1, thread_name_prefix="page"
        )  # so that stages don't wait for the page
        self._drawing = threading.Lock()  # matplotlib's settings are global

    def begin(self, run: Run) -> None:
        """Log the run's name and folder."""
        self._run = run
        _say(f"run {run.name}: {run.folder}")
        for name in run.died:
            _guarded(partial(events.died, run, name))

    def event(self, label: str, event: dict[str, Any]) -> None:
        """Show progress, log messages, and describe each finished stage."""
        match event["event"]:
            case "progress" if event.get("total"):
                _guarded(lambda: self._progress(label, event))
            case "log":
                _say(event["text"])
            case "damaged":
                _say(event["text"], warning=True)
            case "figure":
                _guarded(
                    lambda: _markdown(
                        event["key"], _picture(event["title"], base64.b64decode(event["png"])), event["title"]
                    )
                )
            case "understood":
                for line in event["lines"]:
                    _say(line)
                _guarded(
                    lambda: _markdown("data", _listed(event["lines"]), "What was understood of the images")
                )
            case "planned":
                for line in event["lines"]:
                    _say(f"plan: {line}")
                _guarded(lambda: _markdown("plan", _listed(event["all"]), "The plan, and its reasons"))
            case "decided":
                _say(f"rerun: {'pinned, ' if event['pinned'] else ''}{event['because']}")
                _guarded(
                    lambda: _markdown("rerun", _decision(event), "Whether earlier networks are kept, and why")
                )
            case "waiting":
                _say(event["text"], warning=True)
                text = f"**{event['text'][:1].upper()}{event['text'][1:]}.**"
                _guarded(lambda: _markdown("review", text, "The run waits for you"))
                _guarded(lambda: events.waiting(self._run, event["text"], event["until"]))
            case "skipped":
                _say(f"{label}: left out because {event['because']}")
            case "made":
                took = "cached" if event["cached"] else f"made in {duration(event['seconds'])}"
                _say(f"{label}: {took}, {amount(event)}, {event['path']}")
                for text in event["warnings"]:
                    _say(text, warning=True)
                self._filling.submit(copy_context().run, _guarded, lambda: self._made(label, event))

    def end(self, run: Run, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """Show the scores, their changes, past runs and the report's path, and emit the run's events."""
        self._filling.shutdown()
        if result is not None:
            _guarded(lambda: self._results(run, result))
        elif isinstance(error, Exception):
            _guarded(lambda: events.failed(run, error))

    def _results(self, run: Run, result: dict[str, Any]) -> None:
        record = run.record
        runs = (
            history.past(run.store, record) if record["deployment"] else []
        )  # other runs have no page to look at
        now = history.of(run.store, record, result["scores"])
        before = runs[-1] if runs else None
        _results(result, before)
        events.finished(run, result)
        if before is not None:
            if events.score_dropped(run, now, before, run.config.evaluate.alert):
                _say(
                    f"the score fell by more than {percent(run.config.evaluate.alert)} since {before.name}",
                    warning=True,
                )
            _table("history", history.table([*runs, now]), "Runs of this recipe, newest first")
            plot = self._draw("history_png", [*runs, now])
            _markdown("history-plot", _picture("Runs over time", plot), "Score, images and drift over time")

    def _progress(self, label: str, event: dict[str, Any]) -> None:
        now, share, text = time.monotonic(), 100 * event["done"] / event["total"], f"{label}: {status(event)}"
        bar = self._bars.setdefault(label, _Bar(now, now))
        if now - bar.updated >= UPDATE:
            bar.updated = now
            if bar.id is None:
                made = create_progress_artifact(share, description=text)
                assert isinstance(made, UUID)
                bar.id = made
            else:
                update_progress_artifact(bar.id, share, description=text)
        if now - bar.spoken >= SPEAK:
            bar.spoken = now
            _say(text)

    def _made(self, label: str, event: dict[str, Any]) -> None:
        bar = self._bars.get(label)
        if bar is not None and bar.id is not None:
            update_progress_artifact(bar.id, 100.0, description=f"{label}: done")
        store = self._run.store
        made = Artifact(kind=event["kind"], fingerprint=event["fingerprint"])
        meta = store.meta(made)
        lines = [
            f"### {label}",
            "",
            "| | |",
            "| --- | --- |",
            f"| result | {made.kind} `{made.fingerprint[:12]}`, {amount(event)} |",
            f"| state | {_state(event)} |",
            *(
                f"| reads {name} | {given['kind']} `{given['fingerprint'][:12]}` |"
                for name, given in meta["inputs"].items()
            ),
            # Two rows, because the whole path is wider than the column.
            f"| place | `{store.folder(made).relative_to(store.root)}` |",
            f"| store | `{store.root}` |",
            *(f"| **warning** | {text} |" for text in event["warnings"]),
        ]
        if not event["cached"]:  # skipping the plots keeps reruns quick; the report has them
            lines += ["", *self._plots(made, meta)]
        _markdown(f"stage-{label}", "\n".join(lines), f"What stage {label} made")

    def _plots(self, made: Artifact, meta: Meta) -> list[str]:
        from data.tables import column, read_table

        folder = self._run.store.whole(made)
        if made.kind == "clusters":
            sizes = column(read_table(folder / "centroids.parquet"), "size")
            return [_picture("Cluster sizes", self._draw("cluster_sizes_png", sizes))]
        if made.kind == "checkpoint":
            log = read_table(folder / "log.parquet").select(["step", "epoch", "name", "value"]).to_pylist()
            return [_picture("Loss", self._draw("loss_curve_png", log))] if log else []
        return []

    def _draw(self, name: str, values: Any) -> bytes:
        from data.checkpoints import LogRow
        from tasks.report import figures

        if name == "loss_curve_png":
            values = [LogRow(**row) for row in values]
        if name == "history_png":
            values = [_past_run(run) for run in values]
        with self._drawing:
            drawn: bytes = getattr(figures, name)(values)
        return drawn


def _past_run(run: history.Past) -> Any:
    from tasks.report.figures import PastRun

    score = None if run.leading is None else run.leading[1]
    shares = {name: run.figure(name) for name in ("share", "shift", "far")}
    return PastRun(run.time, run.images, score, **shares, pinned=bool(run.rerun.get("pinned")))


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _decision(event: dict[str, Any]) -> str:
    kept = ""
    if event["earlier"]:
        kept = (
            f"The networks of run `{event['earlier']}` are **{'kept' if event['pinned'] else 'not kept'}**: "
        )
    lines = [f"{kept}{event['because']}.", "", "| | |", "| --- | --- |"]
    for name, value in event["figures"].items():
        lines.append(f"| {name} | {value if isinstance(value, int) else f'{value:.4g}'} |")
    return "\n".join(lines)


def _results(result: dict[str, Any], before: history.Past | None) -> None:
    columns = ("evaluation", "model", "metric", "split", "setting")
    rows = []
    for row in result["scores"]:
        known = before.scores.get(tuple(row[name] for name in columns)) if before else None
        change = {} if known is None else {"change": round(row["value"] - known, 4)}
        rows.append(
            {name: row[name] for name in columns} | {"value": round(row["value"], 4), **change, "n": row["n"]}
        )
    than = f" change: difference from {before.name}." if before else ""
    _table("scores", rows, f"All scores of the run, as shares between 0 and 1 unless named otherwise.{than}")
    head = result["headline"]
    lines = []
    stages = len(result["stages"])
    if all(row["cached"] for row in result["stages"]):
        lines.append(f"**Nothing had to be computed**: all {stages} stages were in the store.")
    if "student" in head:
        n = tested(result["scores"])
        lines.append(f"**{percent(head['student'])}** of {n:,} test images right: the final student.")
    if "gain" in head:
        lines.append(
            f"{percent(head['scratch'])} by the same student from scratch: {100 * head['gain']:+.1f} points."
        )
    lines += [f"**Warning:** {text}" for text in result["warnings"]]
    lines += [f"{', '.join(stages)}: left out because {because}" for because, stages in left_out(result)]
    lines.append(f"Run folder: `{result['folder']}`")
    if result["report"]:
        lines.append(f"Report, with the clusters' images, curves and configuration: `{result['report']}`")
    _markdown("report", "\n\n".join(lines), "The main results, and the path of the report")


def _state(event: dict[str, Any]) -> str:
    computed = duration(event["computed_in"])
    return f"cached: made earlier, in {computed}" if event["cached"] else f"made in {computed}"


def _picture(title: str, png: bytes) -> str:
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    create_table_artifact(rows, key=key, description=description)


def _markdown(key: str, text: str, description: str) -> None:
    create_markdown_artifact(text, key=re.sub(r"[^a-z0-9-]+", "-", key.lower()), description=description)


def _guarded(show: Callable[[], None]) -> None:
    try:
        show()
    except Exception as error:  # a failure of the page must not end the run
        _say(f"the run's page could not be updated: {type(error).__name__}: {error}", warning=True)


def _say(text: str, warning: bool = False) -> None:
    try:
        logger = get_run_logger()
    except MissingContextError:
        return
    (logger.warning if warning else logger.info)("%s", text)
