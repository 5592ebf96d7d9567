"""The results of past runs of the same recipe in the same deployment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from data.errors import ArtifactError, ConfigError, DamagedError
from data.store import Store
from data.tables import read_table
from data.types import Artifact
from flows.records import copied_scores, records
from tasks.phrases import percent
from tasks.report.content import RANKED_BY

LENGTH = 60
"""Maximum number of past runs."""

Key = tuple[str, str, str, str, str]
"""evaluation, model, metric, split, setting."""


@dataclass(frozen=True)
class Past:
    """A finished run.

    Attributes:
        name: the run's name.
        time: its scheduled time, or its start.
        images: number of its train + unlabelled images.
        computed: number of stages that were computed.
        cached: number of stages that were in the store.
        rerun: the decision about the rerun (`flows.pin.Decision`) as JSON, or empty.
        scores: all its scores.
    """

    name: str
    time: datetime
    images: int
    computed: int
    cached: int
    rerun: dict[str, Any]
    scores: dict[Key, float] = field(repr=False)

    @property
    def leading(self) -> tuple[str, float] | None:
        """The score that runs are ranked by, with its name; None if there is none."""
        for evaluation, model in RANKED_BY:
            for (e, m, metric, _, _), value in self.scores.items():
                if (e, m, metric) == (evaluation, model, "top1"):
                    return f"{evaluation} of {model}", value
        return None

    def figure(self, name: str) -> float | None:
        """A figure of growth or drift by its name; None if it was not measured."""
        return self.rerun.get("figures", {}).get(name)  # type: ignore[no-any-return]


def scores_of(rows: list[dict[str, Any]]) -> dict[Key, float]:
    """The values of a scores table by their keys."""
    return {(r["evaluation"], r["model"], r["metric"], r["split"], r["setting"]): r["value"] for r in rows}


def past(store: Store, record: Mapping[str, Any]) -> list[Past]:
    """Finished runs with the same recipe, pretext method and deployment, oldest first, at most `LENGTH`.

    Args:
        store: the store of the runs.
        record: run.json of the current run, which is not included.
    """
    found = []
    for folder, other in records(store):
        if other["status"] == "done" and other["name"] != record["name"] and _line(other) == _line(record):
            found.append(_read(store, folder, other))
            if len(found) == LENGTH:
                break
    return sorted(reversed(found), key=lambda run: run.time)


def of(store: Store, record: Mapping[str, Any], rows: list[dict[str, Any]]) -> Past:
    """Read a finished run.

    Args:
        store: the run's store.
        record: its run.json.
        rows: its scores.
    """
    stages = record["stages"]
    images = next((row["fingerprint"] for row in stages if row["stage"] == "manifest"), None)
    counts: Mapping[str, int] = {}
    with suppress(DamagedError):  # or gone: a run of long ago
        if images is not None:
            counts = store.meta(Artifact(kind="manifest", fingerprint=images))["counts"]
    cached = sum(row["cached"] for row in stages)
    return Past(
        record["name"],
        datetime.fromisoformat(record.get("scheduled") or record["started"]),
        counts.get("train", 0) + counts.get("unlabelled", 0),
        len(stages) - cached,
        cached,
        record.get("rerun") or {},
        scores_of(rows),
    )


def table(runs: list[Past]) -> list[dict[str, Any]]:
    """One row per run, newest first, for a table on the run's page."""
    rows = []
    for run in reversed(runs):
        leading = run.leading
        rows.append(
            {
                "time": run.time.isoformat(sep=" ", timespec="minutes"),
                "run": run.name,
                "images": run.images,
                "new, changed or gone": _percent(run.figure("share")),
                "shift": _percent(run.figure("shift")),
                "far": _percent(run.figure("far")),
                "pinned": bool(run.rerun.get("pinned")),
                "computed": run.computed,
                "cached": run.cached,
                "score": "" if leading is None else f"{100 * leading[1]:.2f} ({leading[0]})",
            }
        )
    return rows


def _percent(share: float | None) -> str:
    return "" if share is None else percent(share)


def _line(record: Mapping[str, Any]) -> tuple[Any, ...]:
    config = record["config"]
    return config["recipe"], config["pretext"]["method"], record.get("deployment")


def _read(store: Store, folder: Path, record: Mapping[str, Any]) -> Past:
    rows: list[dict[str, Any]] = []
    with suppress(ArtifactError, ConfigError):  # a damaged copy: this run is shown without scores
        scores = copied_scores(folder, record)
        rows = [] if scores is None else read_table(scores).to_pylist()
    return of(store, record, rows)
