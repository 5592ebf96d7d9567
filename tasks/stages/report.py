"""Report: writes one HTML file with the stages, the scores and pictures of the clusters."""

from __future__ import annotations

import json
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
    from pathlib import Path

    from data.checkpoints import LogRow
    from tasks.report.content import (
        Answers,
        Bought,
        ClassRow,
        ClusterQuality,
        Clusters,
        ClusterSheet,
        Counts,
        Group,
        ImageMap,
        Mistake,
        ModelCost,
        Ships,
        StageRow,
        Twins,
    )

STAGE = Stage(name="report", kind="report", version=12, process="plain")

_SHEET_IMAGE = 64
"""Side of the images on contact sheets, px, unless the stored ones are smaller."""
_TWINS_SHOWN = 24
_MISTAKES_SHOWN = 40
_STEPS = 10
"""Equal steps of confidence in which the test images are counted."""


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
    assigned = _Assigned(job, learned) if learned else None
    sheets = assigned.sheets() if assigned is not None else ()
    if sheets:
        _show(job, sheets)
    models = dict(MODELS)
    if "pretext" not in trained:
        models["teacher"] = f"Features of {config['pretext']['method']}, no teacher"
    if learned is None:
        models["student-transferred"] = "Student, on the teacher's output only"
    evaluations = {**EVALUATIONS, **job.settings["titles"]}
    card = _card(job)
    page = render(
        ReportData(
            recipe=config["recipe"],
            seed=config["seed"],
            stages=_stages(job, stages),
            counts=_counts(job, manifest),
            ships=_ships(job),
            answers=_answers(job, manifest["classes"]) if "answers" in job.request.inputs else None,
            map=_map(job, assigned) if "explore" in job.request.inputs else None,
            logs=_logs(job, trained),
            not_needed=tuple(NotNeeded(**gone | {"reads": tuple(gone["reads"])}) for gone in not_needed),
            warnings=tuple(warning for meta in metas for warning in meta.get("warnings", ())),
            clusters=_clusters(job, learned) if learned else None,
            codes=learned == "codes",
            sheets=sheets,
            quality=_quality(scores, "codes" if learned == "codes" else "clusters"),
            scores=tuple(
                Score(**row)
                for row in scores
                if row["evaluation"] in evaluations and not row["setting"].startswith("class=")
            ),
            costs=_costs(scores, models),
            bought=_bought(job, scores, trained, card),
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


def _ships(job: Job) -> Ships | None:
    """The model that ships, from its checkpoint's files."""
    from data.checkpoints import read_description
    from tasks.report.content import Ships

    told = job.settings["ships"]
    if told is None:
        return None
    artifact = Artifact(kind=told["kind"], fingerprint=told["fingerprint"])
    folder, meta = job.store.whole(artifact), job.store.meta(artifact)
    described, chosen = read_description(folder), meta.get("shipped", {})
    return Ships(
        model=told["model"],
        origin=chosen.get("model", told["model"]),
        stage=told["stage"],
        path=artifact.path,
        parameters=meta["rows"],
        size=(folder / "model.safetensors").stat().st_size,
        backbone=described["backbone"],
        image_size=described["image_size"],
        classes=len(described.get("class_names") or ()),
        temperature=described.get("temperature", 1.0),
        because=chosen.get("because", ""),
    )


def _answers(job: Job, names: list[str]) -> Answers:
    """What the model that ships says of the labelled test images."""
    import numpy as np

    from data.schemas import ANSWERS, SCORES
    from data.tables import column, read_table
    from models.evaluation import calibration, classes
    from tasks.report.content import Answered, Answers, ConfidenceBin

    table = read_table(job.path("answers") / "answers.parquet", ANSWERS)
    table = table.filter(column(table, "label") >= 0)
    label, predicted = (column(table, name).astype(np.int64) for name in ("label", "predicted"))
    confidence, right = column(table, "confidence").astype(np.float64), label == predicted
    matrix = classes.confusion(label, predicted, len(names))
    rows = read_table(job.path("answers") / "scores.parquet", SCORES).to_pylist()
    scores = {row["metric"]: row["value"] for row in rows if not row["setting"].startswith("class=")}
    shares = [float(row["setting"].removeprefix("share=")) for row in rows if "share=" in row["setting"]]
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES_SHOWN]
    return Answers(
        n=len(label),
        right=int(right.sum()),
        balanced=scores["balanced_accuracy"],
        macro_f1=scores["macro_f1"],
        confidence=scores["mean_confidence"],
        log_loss=scores["log_loss"],
        brier=scores["brier"],
        error=scores["calibration_error"],
        error_interval=(scores["calibration_error_low"], scores["calibration_error_high"]),
        bins=tuple(ConfidenceBin(**vars(each)) for each in calibration.bins(confidence, right)),
        histogram=tuple(np.histogram(confidence, _STEPS, (0, 1))[0].tolist()),
        answered=tuple(
            Answered(**vars(each)) for each in calibration.answered(confidence, right, tuple(shares))
        ),
        classes=_classes(job, matrix, names),
        names=tuple(names),
        matrix=matrix,
        pairs=tuple((names[a], names[b], n) for a, b, n in classes.confused(matrix)),
        mistakes=_mistakes(job, table, wrong, names),
    )


def _classes(job: Job, matrix: Any, names: list[str]) -> tuple[ClassRow, ...]:
    """A row for each class, those with the lowest recall first, and those without test images last."""
    import numpy as np

    from data import schemas
    from data.tables import column, read_table
    from tasks.report.content import ClassRow

    labels: list[int] | None = None
    if "labels" in job.request.inputs:
        draw = read_table(job.path("labels") / "labels.parquet", schemas.LABELS)
        labels = np.bincount(column(draw, "label"), minlength=len(names)).tolist()
    wrong = matrix - np.diag(matrix.diagonal())
    rows = []
    for c, name in enumerate(names):
        most = int(wrong[c].argmax())
        mostly = (names[most], int(wrong[c, most])) if wrong[c, most] else None
        n, right, answers = int(matrix[c].sum()), int(matrix[c, c]), int(matrix[:, c].sum())
        rows.append(ClassRow(name, n, right, answers, None if labels is None else labels[c], mostly))
    return tuple(sorted(rows, key=lambda row: (not row.n, row.recall or 0.0, -row.n)))


def _mistakes(job: Job, table: Any, wrong: Any, names: list[str]) -> tuple[Mistake, ...]:
    """The images of some rows of answers.parquet."""
    from data.tables import column
    from tasks.report.content import Mistake

    index = column(table, "index")[wrong]
    shown = _pixels(job, sorted(index.tolist()))
    columns = (column(table, name)[wrong].tolist() for name in ("label", "predicted", "confidence"))
    return tuple(
        Mistake(shown[i][0], names[true], names[answer], sure, shown[i][1])
        for i, true, answer, sure in zip(index.tolist(), *columns, strict=True)
    )


def _pixels(job: Job, wanted: list[int]) -> dict[int, tuple[str, Any]]:
    """Read some of the run's images: ascending indices -> index -> (uri, (h, w, 3) uint8)."""
    import numpy as np

    from data import images, schemas
    from data.preprocessing import stored_size
    from data.tables import read_table
    from tasks.report.sheets import colours

    if not wanted:
        return {}
    table = read_table(job.path("manifest") / "images.parquet", schemas.MANIFEST)
    some = table.take(np.searchsorted(table["index"].to_numpy(), wanted))
    where = {role: place for role, place in job.request.outside["own"].items() if place}
    side = min(_SHEET_IMAGE, stored_size(job.settings["config"]["data"]["image_size"]))
    reading = images.reading_of(table, job.meta("manifest"))
    opened = images.open_images(
        some, where, side, cache=job.store.cache("sheets"), reading=reading, checked=job.store.checked
    )
    pixels = colours(opened.read(np.arange(len(wanted))))
    return dict(zip(wanted, zip(some["uri"].to_pylist(), pixels, strict=True), strict=True))


def _map(job: Job, assigned: _Assigned | None) -> ImageMap:
    """The map of the images, with what is known of each image and each cluster."""
    import numpy as np

    from data.schemas import MANIFEST, MAP
    from data.tables import column, read_table
    from tasks.report.content import ImageMap

    folder, meta = job.path("explore"), job.meta("explore")
    table = read_table(folder / "points.parquet", MAP)
    images = read_table(job.path("manifest") / "images.parquet", MANIFEST)
    some = images.take(np.searchsorted(column(images, "index"), column(table, "index")))
    cluster = column(table, "cluster").astype(np.int64)
    shown = sorted(set(cluster[cluster >= 0].tolist()))
    return ImageMap(
        x=column(table, "x"),
        y=column(table, "y"),
        label=column(table, "label").astype(np.int64),
        labelled=column(table, "labelled"),
        split=some["split"].to_pylist(),
        cluster=cluster,
        distance=column(table, "distance"),
        predicted=column(table, "predicted").astype(np.int64),
        confidence=column(table, "confidence"),
        uri=some["uri"].to_pylist(),
        total=meta["of"],
        random=int(column(table, "random").sum()),
        projection=meta["config"]["projection"],
        explained=None if meta["explained"] is None else tuple(meta["explained"]),
        sprite=(folder / "sprite.webp").read_bytes(),
        side=meta["side"],
        columns=meta["columns"],
        groups=assigned.groups(shown) if assigned is not None else {},
    )


def _twins(job: Job) -> Twins | None:
    """Pairs of images that show the same picture. None if the manifest is older than this comparison."""
    from data import schemas
    from data.tables import read_table
    from tasks.report.content import TwinRow, Twins

    path = job.path("manifest") / "twins.parquet"
    if not path.exists():
        return None
    rows = read_table(path, schemas.TWINS).to_pylist()
    across = sum((row["first_split"] == "test") != (row["second_split"] == "test") for row in rows)
    first = rows[:_TWINS_SHOWN]
    shown = _pixels(
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


def _clusters(job: Job, learned: str) -> Clusters:
    import numpy as np

    from data.tables import column, read_table
    from tasks.report.content import Clusters

    if learned == "codes":
        table = read_table(job.path("codes"))
        sizes = np.bincount(column(table, "cluster")[column(table, "head") == 0])
        return Clusters(sizes, (), int(sizes.sum()), int(sizes.sum()))
    info = json.loads((job.path("clusters") / "clusters.json").read_text(encoding="utf-8"))
    sizes = column(read_table(job.path("clusters") / "centroids.parquet"), "size")
    return Clusters(sizes, tuple(info["objective"]), info["trained_on"], info["of"])


def _quality(scores: list[dict[str, Any]], evaluation: str) -> ClusterQuality | None:
    from tasks.report.content import ClusterQuality

    rows = [row for row in scores if row["evaluation"] == evaluation]
    # Codes may have several heads. The student learns from the first one.
    found = {row["metric"]: row for row in reversed(rows)}
    if not {"nmi", "ami", "ari", "purity"} <= found.keys():
        return None
    values = {name: found[name]["value"] for name in ("nmi", "ami", "ari", "purity")}
    return ClusterQuality(**values, n=found["nmi"]["n"])


def _costs(scores: list[dict[str, Any]], models: dict[str, str]) -> tuple[ModelCost, ...]:
    from tasks.report.content import FINAL, ModelCost

    rows = [row for row in scores if row["evaluation"] == "cost"]
    found = {(row["model"], row["metric"]): int(row["value"]) for row in rows}
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


def _card(job: Job) -> dict[str, Any] | None:
    """The card of the exported files; None without an export."""
    if "export" not in job.request.inputs:
        return None
    card: dict[str, Any] = json.loads((job.path("export") / "card.json").read_text(encoding="utf-8"))
    return card


def _bought(
    job: Job, scores: list[dict[str, Any]], trained: dict[str, Artifact], card: dict[str, Any] | None
) -> tuple[Bought, ...]:
    """The fine-tuned teacher, the model that ships and its files; empty if the latter was not measured.

    Accuracies, sizes and operations of the networks are the run's own. The export measured all else.
    """
    from data.intervals import wilson
    from models.export import FORMATS
    from tasks.phrases import together
    from tasks.report.content import Bought

    ships = job.settings["ships"]
    if ships is None:
        return ()
    right = {
        row["model"]: (row["value"], row["n"])
        for row in scores
        if (row["evaluation"], row["metric"]) == ("few-label", "top1")
    }
    cost = {(row["model"], row["metric"]): row["value"] for row in scores if row["evaluation"] == "cost"}
    compared = {row["role"]: row for row in (card or {}).get("compared", ())}
    rows = []
    for role, model, label in (
        ("teacher", "teacher-finetuned", "finetune-teacher"),
        ("student", ships["model"], ships["stage"]),
    ):
        if label not in trained or model not in right or (model, "real_operations") not in cost:
            continue
        value, n = right[model]
        folder, described = _described(job, trained[label])
        name = role if role == "teacher" else (described.get("shipped") or {}).get("model", role)
        rows.append(
            Bought(
                name=f"{name} ({described['backbone']})",
                accuracy=value,
                interval=wilson(value, n),
                size=(folder / "model.safetensors").stat().st_size,
                operations=together(*(cost[model, f"{kind}_operations"] for kind in ("real", "binary"))),
                rate_one_core=compared.get(role, {}).get("rate_one_core"),
                rate=compared.get(role, {}).get("rate"),
                final=role == "student",
            )
        )
    if not (rows and rows[-1].final):
        return ()
    student, binary = rows[-1].name.partition(" (")[0], cost[ships["model"], "binary_operations"] > 0
    for form, known in FORMATS.items():
        refused = (card or {}).get("formats", {}).get(form, {}).get("refused")
        if not known.beside or (known.binary and not binary):
            continue
        if form in compared:
            row = compared[form]
            rows.append(
                Bought(
                    name=row["name"],
                    accuracy=row.get("accuracy"),
                    interval=(row["low"], row["high"]) if "low" in row else None,
                    size=row["bytes"],
                    operations=together(row["real_operations"], row["binary_operations"]),
                    rate_one_core=row["rate_one_core"],
                    rate=row["rate"],
                )
            )
        elif refused is not None:
            rows.append(Bought(f"{student}, {known.beside}", refused=refused))
        elif form != "onnx":  # the row of int8 names the same command
            rows.append(Bought(f"{student}, {known.beside}", missing=True))
    return tuple(rows)


def _described(job: Job, checkpoint: Artifact) -> tuple[Path, dict[str, Any]]:
    """The folder of a checkpoint, and its model.json."""
    from data.checkpoints import read_description

    folder = job.store.whole(checkpoint)
    return folder, read_description(folder)


def _show(job: Job, sheets: tuple[ClusterSheet, ...]) -> None:
    """Show the contact sheets on the run's page."""
    from tasks.report.figures import contact_sheet_png

    codes = job.settings["learned"] == "codes"
    name = "code" if codes else "cluster"
    captions = [f"{name} {sheet.cluster}, {sheet.reason}: {sheet.size:,} images" for sheet in sheets]
    png = contact_sheet_png([sheet.images for sheet in sheets], captions)
    title = "Codes: some images of each" if codes else "Clusters: the images nearest to their centroids"
    job.figure("contact-sheet", title, png)


class _Assigned:
    """The images with pseudo-labels, for the contact sheets.

    Args:
        job: the stage's job.
        learned: which pseudo-labels: `assignments`, or the first head of `codes`.
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
            # Codes have no centroid, so each contact sheet shows random images of a code.
            drawn = uniform(key(0, "contact-sheet"), column(table, "index"), 1)
            self.distance = drawn[:, 0].astype(np.float32)
            self.k = int(column(table, "cluster").max()) + 1
        self.index, self.cluster = column(table, "index"), column(table, "cluster")
        self.manifest = read_table(job.path("assigned") / "images.parquet", schemas.MANIFEST)
        label = np.full(self.manifest.num_rows, -1, np.int64)
        label[column(self.manifest, "index")] = column(self.manifest, "label")
        self.label = label[self.index]
        self.names = job.meta("assigned")["classes"]
        self.sizes = np.bincount(self.cluster, minlength=self.k)
        known = self.label >= 0
        self.votes = np.zeros((self.k, len(self.names) if self.names else 1), np.int64)
        np.add.at(self.votes, (self.cluster[known], self.label[known]), 1)
        self.known = self.votes.sum(1)
        """Number of images of a known class in each cluster."""
        self.purity = self.votes.max(1) / np.maximum(self.known, 1) if known.any() else None

    def groups(self, wanted: list[int]) -> dict[int, Group]:
        """What some clusters hold."""
        from tasks.report.content import Group

        return {
            c: Group(
                size=int(self.sizes[c]),
                majority=int(self.votes[c].argmax()) if self.known[c] else None,
                purity=float(self.purity[c]) if self.purity is not None and self.known[c] else None,
                known=int(self.known[c]),
            )
            for c in wanted
        }

    def sheets(self) -> tuple[ClusterSheet, ...]:
        """Images of about a dozen clusters, in each cluster the nearest to the centroid first."""
        import numpy as np

        from data import images
        from data.preprocessing import stored_size
        from tasks.report.content import ClusterSheet
        from tasks.report.sheets import choose, colours, nearest

        sizes, votes, purity = self.sizes, self.votes, self.purity
        chosen = choose(sizes, purity, labelled=self.known)
        rows = nearest(self.cluster, self.distance, [c for c, _ in chosen])
        wanted = np.concatenate([rows[c] for c, _ in chosen])
        some = np.unique(self.index[wanted])
        table = self.manifest.take(np.searchsorted(self.manifest["index"].to_numpy(), some))
        side = min(_SHEET_IMAGE, stored_size(self.job.settings["config"]["data"]["image_size"]))
        where = {role: place for role, place in self.job.request.outside["sources"].items() if place}
        reading = images.reading_of(table, self.job.meta("assigned"))
        opened = images.open_images(
            table,
            where,
            side,
            cache=self.job.store.cache("sheets"),
            reading=reading,
            checked=self.job.store.checked,
        )
        pixels = colours(opened.read(np.searchsorted(some, self.index[wanted])))
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
                    labelled=int(votes[c].sum()),
                )
            )
            at += n
        return tuple(sheets)


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
