"""Report: one HTML file with what was done, what came out, and what the clusters look like."""

from __future__ import annotations

import json
from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.manifest import sources
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="report", kind="report", version=1, process="plain")

_SHEET_IMAGE = 64
"""Side of the images on contact sheets, px, unless the stored ones are smaller."""


def plan(
    config: Config,
    manifest: Artifact,
    assigned: Artifact,
    clusters: Artifact,
    assignments: Artifact,
    scores: Artifact,
    labels: Artifact | None = None,
    **trained: Artifact,
) -> Request:
    """Ask for the report.

    Args:
        config: of the run; shown.
        manifest: of the run's images.
        assigned: manifest of the images that the pseudo-labels are of.
        clusters: and their centroids.
        assignments: pseudo-labels.
        scores: the table.
        labels: the draw, if there are labels.
        **trained: checkpoints by stage label, for their logs.
    """
    inputs = {"manifest": manifest, "assigned": assigned, "clusters": clusters, "assignments": assignments, "scores": scores}  # fmt: skip
    if labels is not None:
        inputs["labels"] = labels
    return STAGE.request(
        settings={"config": config.model_dump(mode="json", exclude={"store": True, "compute": {"device", "workers"}})},
        inputs=inputs | trained,
        parts=("train", "unlabelled", "test", "labels"),
        outside={"sources": sources(config, config.assign.data or config.cluster.data)},
    )


def build(job: Job) -> Outcome:
    """Gather plain values from the artifacts and render them."""
    from data import schemas
    from data.report.document import EVALUATIONS, Rejected, ReportData, render
    from data.report.scoreboard import Score
    from data.tables import read_table

    config = job.settings["config"]
    run = job.request.outside["run"]
    meta = job.meta("manifest")
    rejected = read_table(job.path("manifest") / "rejected.parquet", schemas.REJECTED).to_pylist()
    scores = read_table(job.path("scores") / "scores.parquet", schemas.SCORES).to_pylist()
    sheets = _Assigned(job).sheets()
    _show(job, sheets)
    page = render(
        ReportData(
            run=run["name"],
            started=run["started"],
            recipe=config["recipe"],
            seed=config["seed"],
            stages=_stages(job, run["stages"]),
            counts=_counts(job, meta),
            logs=_logs(job),
            clusters=_clusters(job),
            sheets=sheets,
            quality=_quality(scores),
            scores=tuple(Score(**row) for row in scores if row["evaluation"] in EVALUATIONS),
            classes=tuple(meta["classes"] or ()),
            rejected=Rejected(len(rejected), tuple((row["uri"], row["reason"]) for row in rejected[:10])),
            notes=tuple(meta["notes"]),
            config=_yaml(config),
            environment=_environment(job),
        )
    )
    (job.out / "report.html").write_text(page, encoding="utf-8")
    return Outcome(rows=1)


def _stages(job: Job, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    from data.report.document import StageRow

    label_of = {(row["kind"], row["fingerprint"]): row["stage"] for row in rows}
    found = []
    for row in rows:
        meta = job.store.meta(Artifact(kind=row["kind"], fingerprint=row["fingerprint"]))
        inputs = [label_of.get((given["kind"], given["fingerprint"])) for given in meta["inputs"].values()]
        upstream = tuple(dict.fromkeys(label for label in inputs if label is not None and label != row["stage"]))
        found.append(
            StageRow(
                row["stage"], row["kind"], row["fingerprint"], upstream, meta["seconds"], row["cached"], row["rows"]
            )
        )
    return tuple(found)


def _counts(job: Job, meta: dict[str, Any]) -> Any:
    from collections import Counter

    from data import schemas
    from data.report.document import Counts
    from data.tables import column, read_table

    counts = {name: meta["counts"][name] for name in ("train", "unlabelled", "test")}
    if "labels" not in job.request.inputs:
        return Counts(**counts)
    draw = read_table(job.path("labels") / "labels.parquet", schemas.LABELS)
    roles = Counter(column(draw, "role").tolist())
    classes = Counter(column(draw, "label").tolist()).values()
    return Counts(
        **counts,
        labelled=roles["train"],
        validation=roles["validation"],
        fewest=min(classes),
        most=max(classes),
    )


def _logs(job: Job) -> dict[str, list[Any]]:
    from data import schemas
    from data.report.figures import LogRow
    from data.tables import read_table

    found = {}
    for label, given in job.request.inputs.items():
        if given.kind == "checkpoint":
            table = read_table(job.path(label) / "log.parquet", schemas.LOG)
            found[label] = [
                LogRow(*row.values()) for row in table.select(["step", "epoch", "name", "value"]).to_pylist()
            ]
    return found


def _clusters(job: Job) -> Any:
    from data.report.document import Clusters
    from data.tables import column, read_table

    info = json.loads((job.path("clusters") / "clusters.json").read_text())
    sizes = column(read_table(job.path("clusters") / "centroids.parquet"), "size")
    return Clusters(sizes, tuple(info["objective"]), info["trained_on"], info["of"])


def _quality(scores: list[dict[str, Any]]) -> Any:
    from data.report.document import ClusterQuality

    found = {row["metric"]: row for row in scores if row["evaluation"] == "clusters"}
    if not {"nmi", "ami", "ari", "purity"} <= found.keys():
        return None
    values = {name: found[name]["value"] for name in ("nmi", "ami", "ari", "purity")}
    return ClusterQuality(**values, n=found["nmi"]["n"])


def _show(job: Job, sheets: tuple[Any, ...]) -> None:
    """The contact sheets on the run's page too."""
    from data.report.figures import contact_sheet_png

    captions = [f"cluster {sheet.cluster}, {sheet.reason}: {sheet.size:,} images" for sheet in sheets]
    png = contact_sheet_png([sheet.images for sheet in sheets], captions)
    job.figure("contact-sheet", "Clusters: the images nearest to their centroids", png)


class _Assigned:
    """The assigned images, for the contact sheets."""

    def __init__(self, job: Job) -> None:
        import numpy as np

        from data import schemas
        from data.tables import column, read_table

        self.job = job
        table = read_table(job.path("assignments"), schemas.ASSIGNMENTS)
        self.index, self.cluster = column(table, "index"), column(table, "cluster")
        self.distance = column(table, "distance")
        self.manifest = read_table(job.path("assigned") / "images.parquet", schemas.MANIFEST)
        label = np.full(self.manifest.num_rows, -1, np.int64)
        label[column(self.manifest, "index")] = column(self.manifest, "label")
        self.label = label[self.index]
        self.names = job.meta("assigned")["classes"]
        self.k = int(job.meta("clusters")["rows"])

    def sheets(self) -> tuple[Any, ...]:
        """The images nearest to the centroids of about a dozen clusters."""
        import numpy as np

        from data import images
        from data.report.document import ClusterSheet
        from data.report.sheets import choose, nearest

        sizes = np.bincount(self.cluster, minlength=self.k)
        known = self.label >= 0
        votes = np.zeros((self.k, len(self.names) if self.names else 1), np.int64)
        if known.any():
            np.add.at(votes, (self.cluster[known], self.label[known]), 1)
        purity = votes.max(1) / np.maximum(votes.sum(1), 1) if known.any() else None
        chosen = choose(sizes, purity)
        rows = nearest(self.cluster, self.distance, [c for c, _ in chosen])
        wanted = np.concatenate([rows[c] for c, _ in chosen])
        some = np.unique(self.index[wanted])
        table = self.manifest.take(np.searchsorted(self.manifest["index"].to_numpy(), some))
        side = min(_SHEET_IMAGE, images.stored_size(self.job.settings["config"]["data"]["image_size"]))
        where = {role: place for role, place in self.job.request.outside["sources"].items() if place}
        opened = images.open_images(table, where, side, cache=self.job.store.cache("sheets"))
        pixels = opened.read(np.searchsorted(some, self.index[wanted]))
        at, sheets = 0, []
        for c, reason in chosen:
            n = len(rows[c])
            sheets.append(
                ClusterSheet(
                    cluster=c,
                    reason=reason,
                    images=tuple(pixels[at : at + n]),
                    size=int(sizes[c]),
                    share=float(sizes[c] / len(self.cluster)),
                    majority=self.names[int(votes[c].argmax())] if votes[c].any() else None,
                    purity=float(purity[c]) if purity is not None and votes[c].any() else None,
                )
            )
            at += n
        return tuple(sheets)


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text


def _environment(job: Job) -> tuple[tuple[str, str], ...]:
    trained = [job.meta(name) for name, given in job.request.inputs.items() if given.kind == "checkpoint"]
    shown = dict(trained[0]["libraries"]) if trained else {}
    for name in ("device", "precision", "threads"):
        shown |= {name: ", ".join(sorted({str(meta[name]) for meta in trained if name in meta}))}
    return tuple(shown.items())
