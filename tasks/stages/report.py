"""Report: one HTML file with what was done, what came out, and what the clusters look like."""

from __future__ import annotations

import json
from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="report", kind="report", version=4, process="plain")

_SHEET_IMAGE = 64
"""Side of the images on contact sheets, px, unless the stored ones are smaller."""


def plan(
    config: Config,
    manifest: Artifact,
    assigned: Artifact,
    scores: Artifact,
    clusters: Artifact | None = None,
    assignments: Artifact | None = None,
    codes: Artifact | None = None,
    labels: Artifact | None = None,
    *,
    not_needed: list[dict[str, Any]],
    **trained: Artifact,
) -> Request:
    """Ask for the report.

    Args:
        config: of the run; shown.
        manifest: of the run's images.
        assigned: manifest of the images that the pseudo-labels are of.
        scores: the table.
        clusters: and their centroids, where images were clustered.
        assignments: pseudo-labels, where images were clustered.
        codes: pseudo-labels, where the student learned those that the pretext method gave itself.
        labels: the draw, if there are labels.
        not_needed: stages that this run does without, as `document.NotNeeded` in JSON.
        **trained: checkpoints by stage label, for their logs.
    """
    optional = {"clusters": clusters, "assignments": assignments, "codes": codes, "labels": labels}
    inputs = {"manifest": manifest, "assigned": assigned, "scores": scores}
    shown = config.model_dump(mode="json", exclude={"store": True, "compute": {"device", "workers"}})
    return STAGE.request(
        settings={"config": shown, "not_needed": not_needed},
        inputs=inputs | {name: given for name, given in optional.items() if given} | trained,
        parts=("train", "unlabelled", "test", "labels"),
        outside={"sources": sources(config, config.assign.data or config.cluster.data)},
    )


def build(job: Job) -> Outcome:
    """Gather plain values from the artifacts and render them."""
    from data import schemas
    from data.tables import read_table
    from tasks.report.document import EVALUATIONS, MODELS, NotNeeded, Rejected, ReportData, render
    from tasks.report.scoreboard import Score

    config = job.settings["config"]
    run = job.request.outside["run"]
    meta = job.meta("manifest")
    rejected = read_table(job.path("manifest") / "rejected.parquet", schemas.REJECTED).to_pylist()
    scores = read_table(job.path("scores") / "scores.parquet", schemas.SCORES).to_pylist()
    learned = (
        "assignments" if "assignments" in job.request.inputs else "codes" if "codes" in job.request.inputs else None
    )
    sheets = _Assigned(job, learned).sheets() if learned else ()
    if sheets:
        _show(job, sheets)
    models = dict(MODELS)
    if "pretext" not in job.request.inputs:
        models["teacher"] = f"Features of {config['pretext']['method']}, no teacher"
    if learned is None:
        models["student-transferred"] = "Student, on the teacher's output only"
    page = render(
        ReportData(
            run=run["name"],
            started=run["started"],
            recipe=config["recipe"],
            seed=config["seed"],
            stages=_stages(job, run["stages"]),
            counts=_counts(job, meta),
            logs=_logs(job),
            not_needed=tuple(
                NotNeeded(stage["stage"], stage["because"], tuple(stage["reads"]))
                for stage in job.settings["not_needed"]
            ),
            warnings=_warnings(job),
            clusters=_clusters(job, learned) if learned else None,
            codes=learned == "codes",
            sheets=sheets,
            quality=_quality(scores, "codes" if learned == "codes" else "clusters"),
            scores=tuple(
                Score(**row)
                for row in scores
                if row["evaluation"] in EVALUATIONS and not row["setting"].startswith("class=")
            ),
            costs=_costs(scores, models),
            models=models,
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
    from tasks.report.document import StageRow

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
    from data.tables import column, read_table
    from tasks.report.document import Counts

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
    from data.tables import read_table
    from tasks.report.figures import LogRow

    found = {}
    for label, given in job.request.inputs.items():
        if given.kind == "checkpoint":
            table = read_table(job.path(label) / "log.parquet", schemas.LOG)
            found[label] = [
                LogRow(*row.values()) for row in table.select(["step", "epoch", "name", "value"]).to_pylist()
            ]
    return found


def _warnings(job: Job) -> tuple[str, ...]:
    """What training stages found wrong."""
    trained = [name for name, given in job.request.inputs.items() if given.kind == "checkpoint"]
    return tuple(text for name in trained for text in job.meta(name).get("warnings", ()))


def _clusters(job: Job, learned: str) -> Any:
    import numpy as np

    from data.tables import column, read_table
    from tasks.report.document import Clusters

    if learned == "codes":
        table = read_table(job.path("codes"))
        sizes = np.bincount(column(table, "cluster")[column(table, "head") == 0])
        return Clusters(sizes, (), int(sizes.sum()), int(sizes.sum()))
    info = json.loads((job.path("clusters") / "clusters.json").read_text())
    sizes = column(read_table(job.path("clusters") / "centroids.parquet"), "size")
    return Clusters(sizes, tuple(info["objective"]), info["trained_on"], info["of"])


def _quality(scores: list[dict[str, Any]], evaluation: str) -> Any:
    from tasks.report.document import ClusterQuality

    rows = [row for row in scores if row["evaluation"] == evaluation]
    found = {row["metric"]: row for row in reversed(rows)}  # of several heads the first, which the student learned
    if not {"nmi", "ami", "ari", "purity"} <= found.keys():
        return None
    values = {name: found[name]["value"] for name in ("nmi", "ami", "ari", "purity")}
    return ClusterQuality(**values, n=found["nmi"]["n"])


def _costs(scores: list[dict[str, Any]], models: dict[str, str]) -> tuple[Any, ...]:
    from tasks.report.document import FINAL, ModelCost

    found = {(row["model"], row["metric"]): int(row["value"]) for row in scores if row["evaluation"] == "cost"}
    return tuple(
        ModelCost(
            shown,
            weight_bits=found[model, "weight_bits"],
            real_operations=found[model, "real_operations"],
            binary_operations=found[model, "binary_operations"],
            final=model == FINAL,
        )
        for model, shown in models.items()
        if (model, "weight_bits") in found
    )


def _show(job: Job, sheets: tuple[Any, ...]) -> None:
    """The contact sheets on the run's page too."""
    from tasks.report.figures import contact_sheet_png

    clusters = "assignments" in job.request.inputs
    name = "cluster" if clusters else "code"
    captions = [f"{name} {sheet.cluster}, {sheet.reason}: {sheet.size:,} images" for sheet in sheets]
    png = contact_sheet_png([sheet.images for sheet in sheets], captions)
    title = "Clusters: the images nearest to their centroids" if clusters else "Codes: some images of each"
    job.figure("contact-sheet", title, png)


class _Assigned:
    """The images with pseudo-labels, for the contact sheets.

    Args:
        job: of the stage.
        learned: which pseudo-labels: `assignments`, or `codes`, of which the first head counts.
    """

    def __init__(self, job: Job, learned: str) -> None:
        import numpy as np

        from data import schemas
        from data.draws import key, uniform
        from data.tables import column, read_table

        self.job = job
        if learned == "assignments":
            table = read_table(job.path("assignments"), schemas.ASSIGNMENTS)
            self.distance = column(table, "distance")
            self.k = int(job.meta("clusters")["rows"])
        else:
            table = read_table(job.path("codes"), schemas.CODES)
            table = table.filter(column(table, "head") == 0)
            # Codes have no centroid: any order that mixes the images shows what they have in common.
            self.distance = uniform(key(0, "contact-sheet"), column(table, "index"), 1)[:, 0].astype(np.float32)
            self.k = int(column(table, "cluster").max()) + 1
        self.index, self.cluster = column(table, "index"), column(table, "cluster")
        self.manifest = read_table(job.path("assigned") / "images.parquet", schemas.MANIFEST)
        label = np.full(self.manifest.num_rows, -1, np.int64)
        label[column(self.manifest, "index")] = column(self.manifest, "label")
        self.label = label[self.index]
        self.names = job.meta("assigned")["classes"]

    def sheets(self) -> tuple[Any, ...]:
        """Images of about a dozen clusters, those nearest to the centroid first."""
        import numpy as np

        from data import decode, images
        from tasks.report.document import ClusterSheet
        from tasks.report.sheets import choose, nearest

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
        side = min(_SHEET_IMAGE, decode.stored_size(self.job.settings["config"]["data"]["image_size"]))
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
