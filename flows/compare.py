"""The flow `compare`: run several configurations and put their scores into one leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefect import runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.exceptions import MissingContextError
from pydantic import Field

from data.errors import DataError
from data.store import Store, digest
from data.types import Artifact
from flows.as_yaml import plain
from flows.knowledge_transfer import Recipe, knowledge_transfer
from flows.server.declare import our_flow, timed
from flows.variants import configurations, drawn, file_name, parts, refuse_both, sized

if TYPE_CHECKING:
    from tasks.report.leaderboard import Entry, Model


@our_flow("compare")
def compare(
    recipes: list[Recipe],
    vary: dict[str, list[str]] | None = None,
    settings: dict[str, str] | None = None,
    arms: dict[str, dict[str, str]] | None = None,
    seeds: Annotated[int, Field(ge=1, le=100)] = 1,
    draws: Annotated[int, Field(ge=1, le=100)] = 1,
    store: str = "store",
) -> dict[str, Any]:
    """Run several configurations and put them into one leaderboard. Shared stages are computed once.

    Args:
        recipes: Names of recipes, or YAML files.
        vary: Key of the configuration -> values to try, such as pretext.method: [simclr, swav]. With several
            keys, all combinations are run.
        settings: Keys to change in all configurations, such as cluster.k: 50.
        arms: Name of a configuration -> the keys that set it apart, such as own: {pretext.method: simclr}. In
            place of vary, for one recipe.
        seeds: Number of runs per configuration (1 to 100), with the recipe's seed, the next one, and so on.
            With two or more seeds, runs with the same seed are compared with each other.
        draws: Number of runs per configuration (1 to 100) with one seed and different draws of labels, in
            place of seeds. All configurations have the same draws, and runs with the same draw are compared.
        store: Folder of the store.

    Only runs with the same test images are ranked against each other.

    Returns:
        winner (a name, or None), board (the rows), arms (what each configuration gives a user), folder, apart
        (a sentence if there are several test sets, or None).

    Raises:
        ConfigError: a configuration is invalid, or there is only one.
        DataError: the scores can't be compared.
    """
    from tasks.report.leaderboard import Entry, apart, leaderboards, outlines, table, write

    chosen = configurations(recipes, vary or {}, settings or {}, arms)
    refuse_both(seeds, draws)
    opened = Store(store)
    folder = opened.root / "comparisons" / str(runtime.flow_run.name or timed("compare"))
    by: Literal["seeds", "draws"] = "draws" if draws > 1 else "seeds"
    entries = {name: Entry(name, parts(config), by=by) for name, config in chosen.items()}
    # Every configuration runs once before any runs again, so that one that can't run is known early.
    for number in range(max(seeds, draws)):
        for name, config in chosen.items():
            seed, this, end = config.seed + number, config, ""
            if draws > 1:
                seed, this, end = config.seed, drawn(config, number), f"-draw{number}"
            path = folder / "recipes" / f"{file_name(name)}{end}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(plain(this), encoding="utf-8")
            result = knowledge_transfer(recipe=str(path), seed=seed, store=store)
            _enter(entries[name], number if draws > 1 else seed, result, opened)
    try:
        boards = leaderboards([*entries.values()])
    except ValueError as error:
        raise DataError(f"compare: {error}") from None
    write(boards, folder)
    rows, warning = table(boards), apart(boards)
    winner = boards[0].winner if warning is None else None
    _show(rows, winner, warning, folder)
    return {
        "winner": winner,
        "board": rows,
        "arms": outlines(boards),
        "folder": str(folder),
        "apart": warning,
    }


def _enter(entry: Entry, number: int, result: dict[str, Any], store: Store) -> None:
    """Add a finished run to the board.

    Args:
        entry: the run's configuration.
        number: of its seed, or of its draw of labels.
        result: what the flow `knowledge_transfer` returned.
        store: the store with the run's artifacts.
    """
    made = [
        Artifact(kind=row["kind"], fingerprint=row["fingerprint"])
        for row in result["stages"]
        if row["stage"].startswith("evaluate-")
    ]
    outcomes = [store.whole(artifact) / "outcomes.parquet" for artifact in made]
    entry.enter(result["run"], number, result["scores"], outcomes, _test_set(store, result["stages"]))
    entry.seconds.append(sum(row["computed_in"] for row in result["stages"]))
    entry.ships += [result["shipped"]["model"]] if result["shipped"] else []
    entry.models = entry.models or _models(store, result["stages"])


MODELS = {"pretext": "teacher", "distill": "student", "ship": "shipped"}
"""Label of a stage that makes a network -> what a comparison calls the network."""


def _models(store: Store, stages: list[dict[str, Any]]) -> dict[str, Model]:
    """The sizes of a run's teacher, student and shipped model, as far as it has them."""
    from data.checkpoints import read_description
    from tasks.report.leaderboard import Model

    found = {}
    for row in stages:
        if row["stage"] in MODELS:
            place = store.whole(Artifact(kind=row["kind"], fingerprint=row["fingerprint"]))
            described = read_description(place)
            found[MODELS[row["stage"]]] = Model(
                network=sized(described["backbone"], described["width"]),
                image_size=described["image_size"],
                parameters=row["rows"],
                bytes=(place / "model.safetensors").stat().st_size,
            )
    return found


def _test_set(store: Store, stages: list[dict[str, Any]]) -> str:
    """A name of a run's test images and their classes, whatever the files are called."""
    from data.schemas import MANIFEST
    from data.tables import column, read_table

    made = next(row for row in stages if row["stage"] == "manifest")
    artifact = Artifact(kind=made["kind"], fingerprint=made["fingerprint"])
    table = read_table(store.whole(artifact) / "images.parquet", MANIFEST)
    table = table.filter(column(table, "split") == "test")
    names = store.meta(artifact)["classes"] or []
    classes = [names[label] if label >= 0 else None for label in column(table, "label").tolist()]
    images = zip(table["sha256"].to_pylist(), classes, strict=True)
    return digest(sorted(images, key=lambda image: (image[0], image[1] or "")))


def _show(rows: list[dict[str, Any]], winner: str | None, warning: str | None, folder: Path) -> None:
    try:
        create_table_artifact(json.loads(json.dumps(rows)), key="leaderboard", description="Runs by accuracy")
        called = warning or (
            f"**{winner}** is better than all others, by more than chance."
            if winner
            else "No winner: the differences may be chance."
        )
        text = (
            f"{called}\n\nLeaderboard: `{folder / 'leaderboard.html'}`, "
            f"all scores: `{folder / 'leaderboard.parquet'}`"
        )
        create_markdown_artifact(
            text, key="comparison", description="The winner, and where the leaderboard is"
        )
    except MissingContextError:
        return
