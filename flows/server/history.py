"""What runs came to over time: the same recipe in the same deployment, night after night."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from data.store import Store
from data.tables import read_table
from tasks.report.leaderboard import DECIDING

LENGTH = 60
"""Runs looked back on."""

Key = tuple[str, str, str, str, str]
"""evaluation, model, metric, split, setting."""


@dataclass(frozen=True)
class Past:
    """A run that is done.

    Attributes:
        name: of the run.
        time: when it was scheduled for, or began.
        images: that trained, or would have.
        computed: stages computed.
        cached: stages found in the store.
        rerun: what was decided (`flows.pin.Decision`), or empty.
        scores: all of its scores.
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
        """The score that runs are ordered by, and what it is of."""
        for evaluation, model in DECIDING:
            for (e, m, metric, _, _), value in self.scores.items():
                if (e, m, metric) == (evaluation, model, "top1"):
                    return f"{evaluation} of {model}", value
        return None

    def figure(self, name: str) -> float | None:
        """Of growth or drift."""
        return self.rerun.get("figures", {}).get(name)  # type: ignore[no-any-return]


def scores_of(rows: list[dict[str, Any]]) -> dict[Key, float]:
    """A scores table by what each is of."""
    return {(r["evaluation"], r["model"], r["metric"], r["split"], r["setting"]): r["value"] for r in rows}


def past(store: Store, record: Mapping[str, Any]) -> list[Past]:
    """Runs that are done, of the same recipe, pretext method and deployment, the oldest first; at most `LENGTH`.

    Args:
        store: of the runs.
        record: run.json of the run that looks back; it is not among them.
    """
    found = []
    for path in sorted((store.root / "runs").glob("*/run.json"), key=lambda path: -path.stat().st_mtime):
        try:
            other = json.loads(path.read_text())
        except (OSError, ValueError):  # being written, or damaged
            continue
        if other["status"] == "done" and other["name"] != record["name"] and _line(other) == _line(record):
            found.append(_read(store, path.parent, other))
            if len(found) == LENGTH:
                break
    return sorted(reversed(found), key=lambda run: run.time)


def of(store: Store, record: Mapping[str, Any], rows: list[dict[str, Any]]) -> Past:
    """The run itself.

    Args:
        store: of the run.
        record: its run.json.
        rows: its scores.
    """
    stages = record["stages"]
    images = next((row["fingerprint"] for row in stages if row["stage"] == "manifest"), None)
    counts = {} if images is None else json.loads((store.root / "artifacts" / "manifest" / images / "meta.json").read_text())["counts"]  # fmt: skip
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
    """A row a run, the newest first, for a table on the run's page."""
    rows = []
    for run in reversed(runs):
        leading = run.leading
        rows.append({
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
        })  # fmt: skip
    return rows


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _line(record: Mapping[str, Any]) -> tuple[Any, ...]:
    config = record["config"]
    return config["recipe"], config["pretext"]["method"], record.get("deployment")


def _read(store: Store, folder: Path, record: Mapping[str, Any]) -> Past:
    scores = folder / "scores.parquet"
    return of(store, record, read_table(scores).to_pylist() if scores.exists() else [])
