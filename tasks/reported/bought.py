"""Reads the model that ships, its files and what they cost, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.checkpoints import read_description
from data.intervals import wilson
from data.types import Artifact
from models.export import FORMATS
from tasks.job import Job
from tasks.phrases import together
from tasks.report.content import FINAL, Bought, ModelCost, Ships


def read_ships(job: Job) -> Ships | None:
    """The model that ships, from its checkpoint's files."""
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


def read_costs(scores: list[dict[str, Any]], models: dict[str, str]) -> tuple[ModelCost, ...]:
    """What the networks cost, from the rows of the evaluation `cost`."""
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


def read_card(job: Job) -> dict[str, Any] | None:
    """The card of the exported files; None without an export."""
    if "export" not in job.request.inputs:
        return None
    card: dict[str, Any] = json.loads((job.path("export") / "card.json").read_text(encoding="utf-8"))
    return card


def read_bought(
    job: Job, scores: list[dict[str, Any]], trained: dict[str, Artifact], card: dict[str, Any] | None
) -> tuple[Bought, ...]:
    """The fine-tuned teacher, the model that ships and its files; empty if the latter was not measured.

    Accuracies, sizes and operations of the networks are the run's own. The export measured all else.
    """
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
    folder = job.store.whole(checkpoint)
    return folder, read_description(folder)
