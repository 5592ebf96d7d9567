"""The report stage: which stages and scores the page shows, and that nothing else changes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from data.checkpoints import LogRow
from data.schemas import LOG, REJECTED, SCORES
from data.store import Store, digest
from data.tables import write_table
from data.types import Artifact
from tasks.config import Config
from tasks.job import run
from tasks.overlay import resolve
from tasks.stage import NotNeeded, Request
from tasks.stages.report import plan

ROW = {"model": "teacher", "metric": "top1", "split": "test", "setting": "", "value": 0.5, "seed": 0, "n": 8}


class Shelf:
    """A store, and small artifacts in it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def put(self, label: str, kind: str, files: dict[str, Any] | None = None, **inputs: Artifact) -> Artifact:
        """An artifact with the given tables and a meta.json as every stage writes it."""
        made = Artifact(kind=kind, fingerprint=digest(label))
        with self.store.draft(made, interrupted=lambda: False, waiting=lambda: None) as draft:
            for name, (rows, schema) in (files or {}).items():
                columns = {column: [row[column] for row in rows] for column in schema.names}
                write_table(draft / "out" / name, columns, schema)
            meta = {
                "rows": 7,
                "seconds": 1.5,
                "inputs": {name: given.model_dump() for name, given in inputs.items()},
            }
            if kind == "manifest":
                counts = {"train": 20, "unlabelled": 0, "test": 8}
                parts = dict.fromkeys(("train", "unlabelled", "labels"), digest(label.partition("+")[0]))
                parts["test"] = digest(label)
                meta |= {"counts": counts, "classes": None, "notes": [], "parts": parts}
            if kind == "checkpoint":
                meta |= {"libraries": {"torch": "2"}, "device": "cpu", "warnings": [f"{label}: all alike"]}
            self.store.publish(made, draft, meta)
        return made

    def manifest(self, label: str = "manifest") -> Artifact:
        return self.put(label, "manifest", {"rejected.parquet": ([], REJECTED)})

    def checkpoint(self, label: str, **inputs: Artifact) -> Artifact:
        rows = [LogRow(step, step / 5, "loss", 1 / step)._asdict() for step in range(1, 6)]
        return self.put(label, "checkpoint", {"log.parquet": (rows, LOG)}, **inputs)

    def scores(self, *evaluations: str, label: str = "scores", **inputs: Artifact) -> Artifact:
        rows = [{"evaluation": evaluation, **ROW} for evaluation in evaluations]
        return self.put(label, "scores", {"scores.parquet": (rows, SCORES)}, **inputs)

    def page(self, request: Request) -> str:
        """Build the report of a request in the form that the child process receives."""
        sent = Request.model_validate_json(request.model_dump_json())
        made, _ = run(sent, self.store, Config().compute, lambda event: None, lambda: False, {})
        return (self.store.folder(made) / "report.html").read_text()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "store")


def table(page: str) -> dict[str, str]:
    """The table of stages, as stage -> what it reads."""
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>.*?<td class="reads">([^<]*)</td>', page)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def drawn(page: str) -> list[str]:
    """The stages of the drawing, from top to bottom."""
    return re.findall(r'<text class="label"[^>]*>([^<]*)</text>', page)


def test_the_stages_shown_are_those_given_each_once_and_after_what_it_reads(shelf: Shelf) -> None:
    images = shelf.manifest()
    teacher = shelf.checkpoint("pretext", manifest=images)
    export = shelf.put("export-teacher", "onnx", checkpoint=teacher)
    features = shelf.put("embed", "features", manifest=images, checkpoint=teacher)
    evaluated = shelf.scores("knn", label="evaluate-teacher", train=features)
    scores = shelf.scores("knn", manifest=images, **{"evaluate-teacher": evaluated})
    others = {
        "manifest-cluster": images,  # the same artifact under another label
        "export-teacher": export,  # listed before its input
        "pretext": teacher,
        "embed": features,
        "embed-drift": features,
        "evaluate-teacher": evaluated,
    }
    gone = {"stage": "assign", "because": "transfer.method is seed", "reads": ["embed"]}
    page = shelf.page(plan(Config(), images, images, scores, not_needed=[gone], **others))
    assert table(page) == {
        "manifest": "–",
        "pretext": "manifest",
        "export-teacher": "pretext",
        "embed": "manifest, pretext",
        "evaluate-teacher": "embed",
        "scores": "manifest, evaluate-teacher",
        "assign": "left out because transfer.method is seed",
    }
    assert drawn(page) == [
        "manifest",
        "pretext",
        "export-teacher",
        "embed",
        "assign",
        "evaluate-teacher",
        "scores",
    ]
    assert "The run has 6 stages. Building what they made took 9.0\u202fs" in page
    assert "in 5 steps" in page
    assert "pretext: all alike" in page


def test_named_artifacts_bear_the_labels_of_their_stages(shelf: Shelf) -> None:
    images, elsewhere = shelf.manifest(), shelf.manifest("elsewhere")
    clusters, assignments = (
        shelf.put("c", "clusters"),
        shelf.put("a", "assignments", clusters=shelf.put("c", "clusters")),
    )
    scores = shelf.scores("knn")
    request = plan(Config(), images, elsewhere, scores, clusters, assignments, not_needed=[])
    assert [stage["label"] for stage in request.settings["stages"]] == [
        *("manifest", "manifest-assign", "cluster", "assign", "scores"),
    ]
    also = {"cluster": clusters, "cluster-k20": clusters, "manifest-cluster": elsewhere}
    request = plan(Config(), images, elsewhere, scores, clusters, assignments, not_needed=[], **also)
    assert [stage["label"] for stage in request.settings["stages"]] == [
        *("manifest", "manifest-cluster", "cluster", "assign", "scores"),
    ]
    assert list(request.inputs) == ["manifest", "assigned", "scores", "clusters", "assignments"]


def test_what_the_page_shows_is_in_its_name(shelf: Shelf) -> None:
    images, scores = shelf.manifest(), shelf.scores("knn")
    teacher = shelf.checkpoint("pretext", manifest=images)

    def name(images: Artifact = images, **others: Artifact) -> str:
        request = plan(Config(), images, images, scores, not_needed=[], **others)
        return request.artifact(shelf.store).fingerprint

    assert name(pretext=teacher) == name(pretext=teacher)
    assert len({name(), name(pretext=teacher), name(teacher=teacher)}) == 3
    again = shelf.put("manifest+rejected", "manifest")  # the same images, but others were rejected
    meta = shelf.store.folder(again) / "meta.json"
    meta.write_text((shelf.store.folder(images) / "meta.json").read_text())
    assert name() != name(again)


def test_a_page_of_a_cached_stage_is_the_same_in_every_run(shelf: Shelf) -> None:
    images, scores = shelf.manifest(), shelf.scores("knn")
    request = plan(Config(), images, images, scores, not_needed=[])
    assert "run" not in request.outside
    page = shelf.page(request)
    assert shelf.page(request) == page
    assert "cached" not in page
    assert "started" not in page


def test_a_stage_that_an_earlier_manifest_was_enough_for_reads_the_run_s(shelf: Shelf) -> None:
    before, now, other = (
        shelf.manifest(),
        shelf.manifest("manifest+more test images"),
        shelf.manifest("other"),
    )
    teacher, stranger = shelf.checkpoint("pretext", manifest=before), shelf.checkpoint("kept", manifest=other)
    scores = shelf.scores("knn")
    page = shelf.page(plan(Config(), now, now, scores, not_needed=[], pretext=teacher, kept=stranger))
    assert table(page) == {"manifest": "–", "pretext": "manifest", "kept": "–", "scores": "–"}


def test_evaluations_with_a_title_are_shown(shelf: Shelf) -> None:
    images, scores = shelf.manifest(), shelf.scores("knn", "sharpness", "secret")
    titles = {"sharpness": "How <sharp> it is"}
    page = shelf.page(plan(Config(), images, images, scores, not_needed=[], titles=titles))
    assert "How &lt;sharp&gt; it is" in page
    assert "secret" not in page
    assert page.index("<span>kNN</span>") < page.index("How &lt;sharp&gt; it is")


def test_codes_are_shown_only_if_the_student_learned_them(shelf: Shelf) -> None:
    images, scores, codes = shelf.manifest(), shelf.scores("knn"), shelf.put("codes", "codes")
    values = {"pretext": {"method": "swav"}, "transfer": {"method": "pseudo-labels"}}
    for labels, learned in (("clusters", None), ("codes", "codes")):
        config = resolve(values | {"transfer": values["transfer"] | {"labels": labels}})
        request = plan(config, images, images, scores, codes=codes, not_needed=[])
        assert request.settings["learned"] == learned
        assert "codes" in [stage["label"] for stage in request.settings["stages"]]


def test_what_is_left_out_travels_as_json(shelf: Shelf) -> None:
    images, scores = shelf.manifest(), shelf.scores("knn")
    gone = NotNeeded("pretext", "pretext.method is hog", ("manifest",))
    page = shelf.page(plan(Config(), images, images, scores, not_needed=[vars(gone)]))
    assert table(page)["pretext"] == "left out because pretext.method is hog"
