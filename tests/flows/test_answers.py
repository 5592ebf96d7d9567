"""What the model that ships says of the test images, in a whole run: the file, its scores, and the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import Made, photographs, run_chain, small

from data.schemas import ANSWERS, SCORES
from data.tables import column, read_table
from data.types import Artifact
from flows.estimate import estimate
from flows.phrases import summary
from models.augment import centre
from models.saved import load
from tasks.config import Compute
from tasks.job import run
from tasks.rows import manifest_rows
from tasks.stages import answers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    photographs(folder / "photographs", each=60)
    return folder


@pytest.fixture(scope="module")
def ran(place: Path) -> Made:
    return run_chain(small(place), "answers")


def logits(ran: Made, checkpoint: Artifact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, class and logits of the test images, without the stage."""
    from data import images, schemas
    from data.preprocessing import stored_size

    folder = ran.path("manifest")
    index, label = manifest_rows(folder, ("test",))
    table = read_table(folder / "images.parquet", schemas.MANIFEST)
    source = f"folder:{ran.store.root.parent / 'photographs'}"
    opened = images.open_images(table, {"train": source}, stored_size(16), cache=ran.store.cache("images"))
    network = load(ran.store.folder(checkpoint)).eval()
    with torch.no_grad():
        outputs = network(centre(torch.from_numpy(opened.read(index)), 16))
    return index, label, outputs.double().numpy()


def test_answers_are_those_of_the_network(ran: Made) -> None:
    index, label, z = logits(ran, ran.made["ship"])
    table = read_table(ran.path("answers") / "answers.parquet", ANSWERS)
    assert column(table, "index").tolist() == index.tolist()
    assert column(table, "label").tolist() == label.tolist()
    assert column(table, "predicted").tolist() == z.argmax(1).tolist()
    assert column(table, "runner_up").tolist() == (1 - z.argmax(1)).tolist()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert column(table, "confidence") == pytest.approx(p.max(1), abs=1e-5)
    assert column(table, "runner_up_confidence") == pytest.approx(p.min(1), abs=1e-5)


def test_its_scores_are_in_the_run_s_table_beside_those_that_were_there(ran: Made) -> None:
    rows = read_table(ran.folder / "scores.parquet", SCORES).to_pylist()
    assert {"few-label", "cost", "shipped"} <= {row["evaluation"] for row in rows}
    shipped = {(row["metric"], row["setting"]): row for row in rows if row["evaluation"] == "shipped"}
    assert {row["model"] for row in shipped.values()} == {"shipped"}
    few = next(row["value"] for row in rows if (row["evaluation"], row["model"]) == ("few-label", "shipped"))
    assert shipped["top1", ""]["value"] == pytest.approx(few)
    assert shipped["selective_accuracy", "share=1"]["value"] == pytest.approx(few)
    recalls = [row for (metric, _), row in shipped.items() if metric == "recall"]
    assert {row["setting"] for row in recalls} == {"class=flower", "class=temple"}
    n = shipped["top1", ""]["n"]
    assert sum(row["n"] for row in recalls) == n
    assert shipped["balanced_accuracy", ""]["value"] == pytest.approx(np.mean([r["value"] for r in recalls]))
    bins = f"bins={min(10, n // 5)}"
    low, high = (shipped[f"calibration_error_{end}", bins]["value"] for end in ("low", "high"))
    assert 0 <= low <= high <= 1
    # The terminal lists test scores if there is no headline. It would drown in these.
    assert not any("class=" in line or "share=" in line for line in summary(ran.result))


def test_the_temperature_of_the_checkpoint_divides_its_logits(ran: Made, place: Path) -> None:
    tuned, store = ran.made["ship"], ran.store
    softer = Artifact(kind="checkpoint", fingerprint="0" * 32)
    with store.draft(softer, interrupted=lambda: False, waiting=lambda: None) as draft:
        bare = shutil.ignore_patterns("meta.json")
        shutil.copytree(store.folder(tuned), draft / "out", dirs_exist_ok=True, ignore=bare)
        described = json.loads((draft / "out" / "model.json").read_text())
        (draft / "out" / "model.json").write_text(json.dumps(described | {"temperature": 4.0}))
        meta = store.meta(tuned)
        store.publish(softer, draft, {k: v for k, v in meta.items() if k not in ("bytes", "sha256")})
    request = answers.plan(small(place), ran.made["manifest"], softer, model="shipped")
    made, _ = run(request, store, Compute(device="cpu"), lambda event: None, lambda: False, {})
    *_, z = logits(ran, tuned)
    p = np.exp(z / 4) / np.exp(z / 4).sum(1, keepdims=True)
    table = read_table(store.folder(made) / "answers.parquet", ANSWERS)
    assert column(table, "confidence") == pytest.approx(p.max(1), abs=1e-5)
    assert store.meta(made)["temperature"] == 4.0
    scores = read_table(store.folder(made) / "scores.parquet").to_pylist()
    assert {row["model"] for row in scores} == {"shipped"}


def test_the_report_shows_the_model_and_its_mistakes(ran: Made) -> None:
    page = (ran.folder / "report.html").read_text()
    path = ran.made["ship"].path
    assert f"{path}/model.safetensors" in page
    assert "<dd>Student, fine-tuned</dd>" in page
    table = read_table(ran.path("answers") / "answers.parquet", ANSWERS)
    wrong = int((column(table, "label") != column(table, "predicted")).sum())
    assert page.count("taken for <b") == min(40, wrong)
    assert wrong  # else nothing was tested
    for section in ("model", "next", "classes", "mistakes", "confidence"):
        assert f'<section id="{section}"' in page


def test_a_run_without_a_classifier_or_test_labels_has_no_answers_but_names_its_model(place: Path) -> None:
    early = run_chain(small(place, until="transfer", evaluate={"protocols": ["knn"]}), "early")
    assert "answers" not in early.made
    page = (early.folder / "report.html").read_text()
    assert f"{early.made['transfer'].path}/model.safetensors" in page
    assert "it gives features, no classes" in page


def test_the_dry_run_counts_the_stage(place: Path) -> None:
    known = next(stage for stage in estimate(small(place)).rows if stage.stage == "answers")
    assert known.kind == "answers"
    assert set(known.reads) == {"manifest", "ship"}
    assert known.rows > 0
    assert known.operations > 0
