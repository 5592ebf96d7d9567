"""Format numbers and results for the terminal and the run's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.wording import counted
from tasks.phrases import UNITS, duration, percent
from tasks.stages.answers import EVALUATION as SHIPPED


def amount(row: dict[str, Any]) -> str:
    """A stage's `rows` with their unit, which depends on its `kind`: 1797 -> `1,797 images`."""
    unit = UNITS.get(row["kind"], "rows")
    return counted(row["rows"], unit.removesuffix("s"), unit)


def storage(size: float) -> str:
    """12300000 bytes -> `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def status(event: dict[str, Any]) -> str:
    """One line about a stage's progress, with the values that the progress event has."""
    return ", ".join(part for part in (progress(event), left(event)) if part)


def left(event: dict[str, Any]) -> str:
    """The time that a stage still needs; empty if the progress event does not have it."""
    return f"{duration(event['eta'])} left" if event.get("eta") is not None else ""


def progress(event: dict[str, Any]) -> str:
    """One line about what a stage has done and how fast. The time left is in `left`."""
    known = event.get
    parts = [f"{event['done']:,} of {event['total']:,}"]
    if known("epochs", 1) > 1 and known("epoch") is not None:
        parts.append(f"epoch {min(event['epoch'] + 1, event['epochs'])}/{event['epochs']}")
    if known("loss") is not None:
        parts.append(f"loss {event['loss']:.3f}")
    if known("rate"):
        parts.append(f"{event['rate']:,.0f} images/s")
    if known("data_share") is not None:
        parts.append(f"{100 * event['data_share']:.0f} % on data")
    return ", ".join(parts)


def summary(result: dict[str, Any]) -> list[str]:
    """The last lines of a run: its headline, folder and report, and whether anything was computed.

    Args:
        result: the result of `Run.finish`.
    """
    head, stages = result["headline"], result["stages"]
    lines = []
    shipped, of = result.get("shipped"), f"of {tested(result['scores']):,} test images right"
    if "student" in head:
        lines.append(f"score   {percent(head['student'])} {of}: the final student")
    if shipped and shipped["model"] != "student" and "shipped" in head:
        lines.append(f"score   {percent(head['shipped'])} {of}: {shipped['model']}, which is shipped")
    if "gain" in head:
        lines.append(
            f"        {percent(head['scratch'])} from scratch on the same labels: "
            f"{100 * head['gain']:+.1f} points"
        )
    if not head:
        lines += [
            f"score   {_score(row)}"
            for row in result["scores"]
            if (row["split"] == "test" or row["metric"] == "nmi") and row["evaluation"] != SHIPPED
        ]
    if result.get("unlabelled"):
        lines.append(f"labels  {result['unlabelled']}")
    lines += [f"warning {text}" for text in result["warnings"]]
    if shipped:
        place = Path(result["folder"]).parent.parent / shipped["path"]
        lines += [f"model   {place}", f"        {shipped['model']}: {shipped['because']}"]
        lines.append(f"        ask it: knowledge-transfer predict {result['folder']} IMAGES...")
    lines.append(f"run     {result['folder']}")
    if result["report"]:
        lines.append(f"report  {result['report']}")
    cached = sum(row["cached"] for row in stages)
    made = (
        "nothing had to be computed"
        if cached == len(stages)
        else f"{cached} of them were in the store already"
    )
    lines.append(f"stages  {len(stages)}; {made}")
    lines += [
        f"        {', '.join(labels)}: left out because {because}" for because, labels in left_out(result)
    ]
    return lines


def tested(rows: list[dict[str, Any]]) -> int:
    """The number of test images behind the headline, from rows of a scores table."""
    return max(
        (row["n"] for row in rows if (row["evaluation"], row["metric"]) == ("few-label", "top1")), default=0
    )


def left_out(result: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The reasons for which a run leaves out stages, each with these stages.

    Args:
        result: the result of `Run.finish`.
    """
    found: dict[str, list[str]] = {}
    for stage, because in result["not_needed"].items():
        found.setdefault(because, []).append(stage)
    return list(found.items())


def _score(row: dict[str, Any]) -> str:
    setting = f" ({row['setting']})" if row["setting"] else ""
    measured = f"{row['evaluation']}{setting}, {row['n']:,} images"
    return f"{row['value']:.4f} {row['metric']} of {row['model']}, {measured}"
