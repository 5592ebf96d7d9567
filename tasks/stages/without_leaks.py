"""Without leaks: the accuracies on the test images whose picture no training image shows."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, scored
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="without_leaks", kind="scores", version=1, process="plain")

EVALUATION, TITLE = "without-leaks", "Without leaked test images"


def plan(config: Config, manifest: Artifact, **evaluations: Artifact) -> Request:
    """Request the accuracies.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images; its twins.parquet says which images show the same picture.
        **evaluations: artifacts with outcomes.parquet, by stage label.
    """
    return STAGE.request(
        settings={},
        inputs={"manifest": manifest, **evaluations},
        parts=("train", "unlabelled", "test"),
        seed=config.seed,
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    return scored(len(inputs) - 1)


def build(job: Job) -> Outcome:
    """Average what each model got right over the test images that are not leaked."""
    import numpy as np

    from data.schemas import OUTCOMES, SCORES, TWINS
    from data.tables import column, read_table, write_table

    leaked = leaked_tests(read_table(job.path("manifest") / "twins.parquet", TWINS).to_pylist())
    rows: dict[str, list[Any]] = {name: [] for name in SCORES.names}
    for name in job.request.inputs:
        path = job.path(name) / "outcomes.parquet"
        if name == "manifest" or not path.exists():
            continue
        table = read_table(path, OUTCOMES)
        right, kept = column(table, "right"), ~np.isin(column(table, "index"), sorted(leaked))
        named = zip(*(table[key].to_pylist() for key in ("evaluation", "model", "setting")), strict=True)
        of = np.array(["\n".join(each) for each in named])
        for key in dict.fromkeys(of.tolist()):
            chosen = (of == key) & kept
            evaluation, model, setting = key.split("\n")
            if chosen.any():
                told = f"{evaluation} {setting}".strip()
                value, n = float(right[chosen].mean()), int(chosen.sum())
                row = (EVALUATION, model, "top1", "test", told, value, job.seed, n)
                for field, cell in zip(SCORES.names, row, strict=True):
                    rows[field].append(cell)
    return Outcome(rows=write_table(job.out / "scores.parquet", rows, SCORES), meta={"leaked": len(leaked)})


def leaked_tests(twins: list[dict[str, Any]]) -> set[int]:
    """Indices of the test images whose picture a training image shows, directly or through another image.

    Args:
        twins: rows of twins.parquet.
    """
    import numpy as np

    from data.twins import groups

    nodes: dict[tuple[str, str], int] = {}
    index: dict[int, int] = {}
    pairs = []
    for row in twins:
        ends = []
        for side in ("first", "second"):
            key = (row[f"{side}_split"], row[f"{side}_uri"])
            ends.append(nodes.setdefault(key, len(nodes)))
            if row[side] is not None:
                index[ends[-1]] = row[side]
        pairs.append(ends)
    group = groups(len(nodes), np.array(pairs, np.int64).reshape(-1, 2)).tolist()
    trained = {group[node] for (split, _), node in nodes.items() if split != "test" and node in index}
    return {
        index[node]
        for (split, _), node in nodes.items()
        if split == "test" and node in index and group[node] in trained
    }
