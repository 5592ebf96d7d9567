"""Report: writes one HTML file with the stages, the scores and pictures of the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data.errors import ArtifactError
from data.store import Meta
from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, images_of, imports
from tasks.sources import sources
from tasks.stage import NotNeeded, Outcome, Request, Stage

if TYPE_CHECKING:
    from data.checkpoints import LogRow
    from tasks.report.content import (
        ClusterQuality,
        Counts,
        StageRow,
        Twins,
    )

STAGE = Stage(name="report", kind="report", version=12, process="plain")

_TWINS_SHOWN = 24


def plan(
    config: Config,
    manifest: Artifact,
    assigned: Artifact,
    scores: Artifact,
    clusters: Artifact | None = None,
    assignments: Artifact | None = None,
    codes: Artifact | None = None,
    labels: Artifact | None = None,
    answers: Artifact | None = None,
    export: Artifact | None = None,
    explore: Artifact | None = None,
    *,
    not_needed: list[dict[str, Any]],
    titles: dict[str, str] | None = None,
    ships: dict[str, str] | None = None,
    **others: Artifact,
) -> Request:
    """Request the report.

    The page shows each stage whose artifact is given here once. It depends only on these artifacts and the
    settings, so it never shows values of an earlier run.

    Args:
        config: the run's configuration, which the page shows.
        manifest: the manifest of the run's images.
        assigned: the manifest of the images that have pseudo-labels; often the same one.
        scores: the table of scores.
        clusters: the clusters, if images were clustered.
        assignments: the pseudo-labels from these clusters.
        codes: the pseudo-labels from the pretext method, if it gave any.
        labels: the drawn labels, if the run draws labels.
        answers: what the model that ships says of the test images, if it was asked.
        export: the exported files, if there are any.
        explore: the map of the images, if one was drawn.
        not_needed: stages that this run leaves out, each a `NotNeeded` as JSON.
        titles: evaluation -> its name on the page, for evaluations that the report does not know.
        ships: the model that ships: its name in the scores as `model`, and the label of its `stage`, which is
            one of `others`. None if no network was trained.
        **others: all other artifacts of the run, by stage label and in the run's order. An artifact from
            above may appear again under its stage's label.
    """
    optional = {
        "clusters": clusters,
        "assignments": assignments,
        "codes": codes,
        "labels": labels,
        "answers": answers,
        "export": export,
        "explore": explore,
    }
    named = {"manifest": manifest, "assigned": assigned, "scores": scores}
    named |= {name: given for name, given in optional.items() if given is not None}
    learned = None
    if assignments is not None:
        learned = "assignments"
    elif codes is not None and config.transfers and config.transfer.learns_from == "codes":
        learned = "codes"
    shown = config.model_dump(mode="json", exclude={"store": True, "compute": {"device", "workers"}})
    stages = [{"label": label, **given.model_dump()} for given, label in _labels(named, others).items()]
    return STAGE.request(
        settings={
            "config": shown,
            "not_needed": not_needed,
            "titles": titles or {},
            "learned": learned,
            "stages": stages,
            "ships": None if ships is None else {**ships, **others[ships["stage"]].model_dump()},
        },
        inputs=named | {label: given for label, given in others.items() if given not in named.values()},
        parts=("train", "unlabelled", "test", "labels"),
        outside={
            "sources": sources(config, config.assign.data or config.cluster.data),
            "own": sources(config),
        },
    )


def _labels(named: dict[str, Artifact], others: dict[str, Artifact]) -> dict[Artifact, str]:
    """Artifact -> label of its stage, in the run's order. An artifact with several labels appears once."""
    usual = {"assigned": "manifest-assign", "clusters": "cluster", "assignments": "assign"}
    labels: dict[Artifact, list[str]] = {}
    for label, given in others.items():
        labels.setdefault(given, []).append(label)
    found: dict[Artifact, str] = {}
    for name in (*(name for name in named if name != "scores"), *others, "scores"):
        given = named.get(name) or others[name]
        label, known = usual.get(name, name), labels.get(given, [])
        found.setdefault(given, known[0] if name in usual and known and label not in known else label)
    return found


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    shown = images_of(inputs, "assigned").all if "clusters" in inputs else 0  # scaled for the contact sheets
    return Size(1, 1e6, seconds=shown * run.decoding, work=(imports(3), chores(1)))


def build(job: Job) -> Outcome:
    """Gather plain values from the artifacts and render them."""
    from data import schemas
    from data.tables import read_table
    from tasks.report.content import EVALUATIONS, MODELS, Rejected, ReportData
    from tasks.report.document import render
    from tasks.report.scoreboard import Score
    from tasks.reported.answered import read_answers
    from tasks.reported.assigned import Assigned, read_clusters, read_map, show
    from tasks.reported.bought import read_bought, read_card, read_costs, read_ships

    config, learned, not_needed = (job.settings[name] for name in ("config", "learned", "not_needed"))
    stages = {
        stage["label"]: Artifact(kind=stage["kind"], fingerprint=stage["fingerprint"])
        for stage in job.settings["stages"]
    }
    trained = {label: given for label, given in stages.items() if given.kind == "checkpoint"}
    metas = [job.store.meta(given) for given in stages.values()]
    manifest = job.meta("manifest")
    rejected = read_table(job.path("manifest") / "rejected.parquet", schemas.REJECTED).to_pylist()
    scores = read_table(job.path("scores") / "scores.parquet", schemas.SCORES).to_pylist()
    assigned = Assigned(job, learned) if learned else None
    sheets = assigned.sheets() if assigned is not None else ()
    if sheets:
        show(job, sheets)
    models = dict(MODELS)
    if "pretext" not in trained:
        models["teacher"] = f"Features of {config['pretext']['method']}, no teacher"
    if learned is None:
        models["student-transferred"] = "Student, on the teacher's output only"
    evaluations = {**EVALUATIONS, **job.settings["titles"]}
    card = read_card(job)
    page = render(
        ReportData(
            recipe=config["recipe"],
            seed=config["seed"],
            stages=_stages(job, stages),
            counts=_counts(job, manifest),
            ships=read_ships(job),
            answers=read_answers(job, manifest["classes"]) if "answers" in job.request.inputs else None,
            map=read_map(job, assigned) if "explore" in job.request.inputs else None,
            logs=_logs(job, trained),
            not_needed=tuple(NotNeeded(**gone | {"reads": tuple(gone["reads"])}) for gone in not_needed),
            warnings=tuple(warning for meta in metas for warning in meta.get("warnings", ())),
            clusters=read_clusters(job, learned) if learned else None,
            codes=learned == "codes",
            sheets=sheets,
            quality=_quality(scores, "codes" if learned == "codes" else "clusters"),
            scores=tuple(
                Score(**row)
                for row in scores
                if row["evaluation"] in evaluations and not row["setting"].startswith("class=")
            ),
            costs=read_costs(scores, models),
            bought=read_bought(job, scores, trained, card),
            cores=card["float"]["cores"] if card else None,
            models=models,
            evaluations=evaluations,
            classes=tuple(manifest["classes"] or ()),
            rejected=Rejected(len(rejected), tuple((row["uri"], row["reason"]) for row in rejected[:10])),
            twins=_twins(job),
            notes=tuple(manifest["notes"]),
            understood=(*_understood(config, manifest), *_planned(metas), *_foreign(metas, config)),
            config=_yaml(config),
            environment=_environment(job, trained),
        )
    )
    (job.out / "report.html").write_text(page, encoding="utf-8")
    return Outcome(rows=1)


def _understood(config: dict[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """What was understood of the images; nothing in manifests from before that was recorded."""
    from tasks.overlay import resolve
    from tasks.understood import describe

    return describe(resolve(config), manifest) if "understood" in manifest else []


def _planned(metas: list[Meta]) -> list[str]:
    """The lines of the plan, from the meta.json of all stages. Only plans have the key `because`."""
    return [f"plan: {line}" for meta in metas for line in meta.get("because", ())]


def _foreign(metas: list[Meta], config: dict[str, Any]) -> list[str]:
    """Where the weights of a foreign teacher come from, and their licence."""
    lines = []
    for weights in (meta["weights"] for meta in metas if meta.get("stage") == "pretrained"):
        licence = config["pretext"].get("licence") or weights["licence"]
        says = f"licence {licence}" if licence else "nobody said what licence they have"
        lines.append(f"teacher: weights {weights['name']}, sha256 {weights['sha256']}; {says}")
    return lines


def _twins(job: Job) -> Twins | None:
    """Pairs of images that show the same picture. None if the manifest is older than this comparison."""
    from data import schemas
    from data.tables import read_table
    from tasks.report.content import TwinRow, Twins
    from tasks.reported.shown import pixels

    path = job.path("manifest") / "twins.parquet"
    if not path.exists():
        return None
    rows = read_table(path, schemas.TWINS).to_pylist()
    across = sum((row["first_split"] == "test") != (row["second_split"] == "test") for row in rows)
    first = rows[:_TWINS_SHOWN]
    shown = pixels(
        job, sorted({row[side] for row in first for side in ("first", "second") if row[side] is not None})
    )
    found = []
    for row in first:
        pair = tuple(shown[row[side]][1] for side in ("first", "second") if row[side] in shown)
        ends = [f"{row[f'{side}_split']} {row[f'{side}_uri']}" for side in ("first", "second")]
        both = pair if len(pair) == 2 else ()
        found.append(TwinRow(ends[0], ends[1], row["kind"], row["correlation"], both))
    return Twins(len(rows), across, tuple(found))


def _stages(job: Job, stages: dict[str, Artifact]) -> tuple[StageRow, ...]:
    """One row per stage. Each row comes after the stages that it reads."""
    from tasks.report.content import StageRow
    from tasks.report.graph import ordered

    label_of = {given: label for label, given in stages.items()}
    rows = {}
    for label, made in stages.items():
        meta = job.store.meta(made)
        read = [_label(job, Artifact(**given), label_of) for given in meta["inputs"].values()]
        inputs = tuple(dict.fromkeys(source for source in read if source is not None))
        rows[label] = StageRow(label, made.kind, made.fingerprint, inputs, meta["seconds"], meta["rows"])
    return tuple(rows[label] for label in ordered({label: row.inputs for label, row in rows.items()}))


def _label(job: Job, given: Artifact, label_of: dict[Artifact, str]) -> str | None:
    """The label of the stage that made an artifact, or None if that stage is not in the run.

    A stage that reads only some parts of a manifest is not built again when other parts change. Its meta.json
    then names the earlier manifest. The run's manifest with the same training images takes its place.
    """
    if given in label_of or given.kind != "manifest":
        return label_of.get(given)
    try:
        train = job.store.meta(given)["parts"]["train"]
    except ArtifactError:  # the store no longer has it
        return None
    for made, label in label_of.items():
        if made.kind == "manifest" and job.store.meta(made)["parts"]["train"] == train:
            return label
    return None


def _counts(job: Job, manifest: dict[str, Any]) -> Counts:
    from collections import Counter

    from data import schemas
    from data.tables import column, read_table
    from tasks.report.content import Counts

    counts = {name: manifest["counts"][name] for name in ("train", "unlabelled", "test")}
    counts["leaked"] = manifest["counts"].get("leaked", 0)
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


def _logs(job: Job, trained: dict[str, Artifact]) -> dict[str, list[LogRow]]:
    from data import schemas
    from data.checkpoints import LogRow
    from data.tables import read_table

    found = {}
    for label, given in trained.items():
        table = read_table(job.store.whole(given) / "log.parquet", schemas.LOG)
        found[label] = [LogRow(**row) for row in table.select(LogRow._fields).to_pylist()]
    return found


def _quality(scores: list[dict[str, Any]], evaluation: str) -> ClusterQuality | None:
    from tasks.report.content import ClusterQuality

    rows = [row for row in scores if row["evaluation"] == evaluation]
    # Codes may have several heads. The student learns from the first one.
    found = {row["metric"]: row for row in reversed(rows)}
    if not {"nmi", "ami", "ari", "purity"} <= found.keys():
        return None
    values = {name: found[name]["value"] for name in ("nmi", "ami", "ari", "purity")}
    return ClusterQuality(**values, n=found["nmi"]["n"])


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text


def _environment(job: Job, trained: dict[str, Artifact]) -> tuple[tuple[str, str], ...]:
    """Library versions, device, precision and threads of the trainings. Different values are all listed."""
    metas = [job.store.meta(given) for given in trained.values()]
    shown = dict(metas[0]["libraries"]) if metas else {}
    for name in ("device", "precision", "threads"):
        shown |= {name: ", ".join(sorted({str(meta[name]) for meta in metas if name in meta}))}
    return tuple(shown.items())
