"""The flow `compare`: several runs that share stages, and one leaderboard."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.exceptions import MissingContextError
from pydantic import Field

from data.errors import DataError
from data.store import Store
from data.types import Artifact
from flows.knowledge_transfer import Recipe, knowledge_transfer
from flows.run import to_yaml
from flows.variants import configurations, file_name, parts


def _flow_run_name() -> str:
    return f"compare-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@flow(
    name="compare",
    flow_run_name=_flow_run_name,
    validate_parameters=True,
    persist_result=False,
    result_serializer="json",
)
def compare(
    recipes: list[Recipe],
    vary: dict[str, list[str]] | None = None,
    settings: dict[str, str] | None = None,
    seeds: Annotated[int, Field(ge=1, le=100)] = 1,
    store: str = "store",
) -> dict[str, Any]:
    """Run several configurations and put them into one leaderboard. Stages they share are computed once.

    Args:
        recipes: Names of recipes, or YAML files.
        vary: Key of the configuration -> values to try, such as pretext.method: [simclr, swav]; of several keys all
            combinations.
        settings: Keys changed in all of them, such as cluster.k: 50.
        seeds: Runs of each (1 to 100), with the seeds 0, 1, ...; from two on differences are taken seed by seed.
        store: Folder of the store.

    Returns:
        winner (a name, or None), board, folder.
    """
    from tasks.report.leaderboard import Entry, leaderboard, table, write

    opened = Store(store)
    folder = opened.root / "comparisons" / str(runtime.flow_run.name or _flow_run_name())
    entries = []
    for name, config in configurations(recipes, vary or {}, settings or {}).items():
        entry = Entry(name, parts(config))
        path = folder / "recipes" / f"{file_name(name)}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_yaml(config))
        for seed in range(seeds):
            result = knowledge_transfer(recipe=str(path), seed=seed, store=store)
            made = [Artifact(kind=row["kind"], fingerprint=row["fingerprint"]) for row in result["stages"] if row["stage"].startswith("evaluate-")]  # fmt: skip
            outcomes = [opened.folder(artifact) / "outcomes.parquet" for artifact in made]
            entry.enter(result["run"], seed, result["scores"], outcomes)
        entries.append(entry)
    try:
        board = leaderboard(entries)
    except ValueError as error:
        raise DataError(f"compare: {error}") from None
    write(board, folder)
    rows = table(board)
    _show(rows, board.winner, folder)
    return {"winner": board.winner, "board": rows, "folder": str(folder)}


def _show(rows: list[dict[str, Any]], winner: str | None, folder: Path) -> None:
    try:
        create_table_artifact(json.loads(json.dumps(rows)), key="leaderboard", description="Runs by accuracy")
        called = f"**{winner}** is ahead of all others, beyond chance." if winner else "No winner beyond chance."
        text = (
            f"{called}\n\nLeaderboard: `{folder / 'leaderboard.html'}`, all scores: `{folder / 'leaderboard.parquet'}`"
        )
        create_markdown_artifact(text, key="comparison", description="What came out, and where it lies")
    except MissingContextError:
        return
