"""Every pretext method, every transfer method and every shape of chain runs in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from in_process import Made, photographs, run_chain

from data.errors import CollapsedError, ConfigError, Interrupted
from data.schemas import CODES
from data.store import Store
from data.tables import column, read_table, read_vectors
from flows.estimate import estimate
from flows.recipes import override
from models.configs import PRETEXT, TRANSFER
from models.configs.pretrained import Pretrained
from models.configs.shared import Teacher
from models.cost import operations, weight_bits
from models.methods.simclr import SimCLRMethod
from models.network import build_network
from tasks.config import Config, Until
from tasks.job import run as build
from tasks.report.numbers import bits, magnitude, narrow
from tasks.stage import Request
from tasks.stages import pretext as pretext_stage

QUICK = {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3}
SMALL: dict[str, dict[str, Any]] = {
    "deepcluster": {"clusters": 8},
    "deepcluster-v2": {"prototypes": 8},
    "dino": {"outputs": 64},
    "moco": {"queue": 64},
    "s2bnn": {"queue": 64},
    "seed": {"queue": 64},
    "jigsaw": {"tile": 8, "permutations": 20, "tile_features": 16},
    "jigsaw++": {"tile": 8, "permutations": 20, "tile_features": 16},
    "sela": {"clusters": 8},
    "swav": {"prototypes": 8},
}
"""Settings of our methods besides `QUICK`, for 160 images of 32 px. Other methods use their defaults."""
STUDENT = {"backbone": "smallconv", "width": 0.25}
STUDENTS = {"s2bnn": {"backbone": "reactnet", "width": 0.25}}
"""Settings of methods that need a certain kind of student."""
BY_LABELS = [name for name, model in TRANSFER.items() if model.reads == "assignments"]
BY_FEATURES = [name for name, model in TRANSFER.items() if model.reads == "features"]
BY_TEACHER = [name for name, model in TRANSFER.items() if model.reads == "teacher"]
WITH_CODES = [name for name, model in PRETEXT.items() if issubclass(model, Teacher) and model.codes]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 photographs with vectors, and a store that the runs share, so they reuse each other's stages."""
    import timm

    folder = tmp_path_factory.mktemp("methods")
    photographs(folder / "photographs")
    uris = sorted(
        str(path.relative_to(folder / "photographs")) for path in (folder / "photographs").rglob("*.png")
    )
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), folder / "resnet.pth")
    vectors = np.random.default_rng(0).normal(size=(len(uris), 12)).astype(np.float32)
    vectors[:, 0] += [8.0 * uri.startswith("temple") for uri in uris]
    pq.write_table(pa.table({"uri": uris, "vector": list(vectors)}), folder / "vectors.parquet")
    return folder


def small(place: Path, method: str = "simclr", by: str = "pseudo-labels", **over: Any) -> Config:
    """The configuration of a quick run. `over` maps sections to changed keys."""
    teacher: dict[str, Any] = {**STUDENT, **QUICK} if issubclass(PRETEXT[method], Teacher) else {}
    if method == "external":
        teacher = {"features": f"parquet:{place / 'vectors.parquet'}"}
    if method == "pretrained":
        teacher = {
            "weights": str(place / "resnet.pth"),
            "backbone": "timm:test_resnet",
            "input_size": 40,
        }
    values: dict[str, Any] = {
        "data": {"train": f"folder:{place / 'photographs'}", "image_size": 32, "labels_per_class": 5},
        "pretext": {"method": method, **teacher, **SMALL.get(method, {})},
        "cluster": {"k": 6},
        "transfer": {"method": by, **QUICK, **SMALL.get(by, {})},
        "student": STUDENTS.get(by, STUDENT),
        "finetune": {"steps": 3, "batch_size": 10, "baseline": False},
        "predict": {"neighbours": 5},
        "distill": {"epochs": 1, "batch_size": 32},
        "evaluate": {"knn_neighbours": [5], "protocols": ["knn", "few-label", "clusters"]},
        "compute": {"device": "cpu", "precision": "fp32"},
        "store": str(place / "store"),
    }
    for section, keys in over.items():
        values[section] = values.get(section, {}) | keys
    return override(Config(), values)


def complete(ran: Made, config: Config) -> None:
    """Check what holds for every finished run, and that a dry run then finds all its stages."""
    record = json.loads((ran.folder / "run.json").read_text())
    assert record["status"] == "done"
    assert [row["stage"] for row in record["stages"]] == list(ran.made)
    assert not set(ran.result["not_needed"]) & set(ran.made)
    report = (ran.folder / "report.html").read_text()
    for stage in ran.result["not_needed"]:
        assert report.count(f">{stage}<") == 2, stage  # in the drawing and in the table
    top1 = {row["model"]: row["value"] for row in ran.result["scores"] if row["metric"] == "top1"}
    assert {"teacher", "student-transferred", "student-finetuned", "student"} <= top1.keys()
    assert all(0 <= value <= 1 for value in top1.values())
    index, _ = read_vectors(ran.path("embed"))
    assert np.array_equal(index, np.arange(train_images(ran)))
    found_again(ran, config)


def found_again(ran: Made, config: Config) -> None:
    planned = estimate(config)
    assert [row.stage for row in planned.rows] == list(ran.made)
    assert [row.stage for row in planned.rows if not row.in_store] == []
    assert {stage.stage: stage.because for stage in planned.not_needed} == ran.result["not_needed"]


def train_images(ran: Made) -> int:
    count: int = ran.store.meta(ran.made["manifest"])["counts"]["train"]
    return count


@pytest.mark.parametrize("method", PRETEXT)
def test_every_pretext_method(method: str, place: Path) -> None:
    config = small(place, method)
    ran = run_chain(config, method)
    complete(ran, config)
    if isinstance(config.pretext, Pretrained):
        assert not ran.result["not_needed"]
        assert ran.inputs("embed")["checkpoint"] == ran.made["pretext"]
    elif isinstance(config.pretext, Teacher):
        assert not ran.result["not_needed"]
        assert ("codes" in ran.made) == config.pretext.codes
        assert read_table(ran.path("pretext") / "log.parquet").num_rows > 0
    else:
        assert ran.result["not_needed"] == dict.fromkeys(
            ("pretext", "finetune-teacher"), f"pretext.method is {method}"
        )
        assert ran.inputs("predict")["checkpoint"] == ran.made["finetune-student"]
        assert "checkpoint" not in ran.inputs("evaluate-teacher")
    again = run_chain(config, method)
    assert again.made == ran.made
    assert all(row["cached"] for row in again.result["stages"])


@pytest.mark.parametrize("method", WITH_CODES)
def test_a_student_learns_the_codes_of_every_method_that_gives_some(method: str, place: Path) -> None:
    config = small(place, method, transfer={"labels": "codes"})
    ran = run_chain(config, method)
    complete(ran, config)
    assert ran.result["not_needed"] == dict.fromkeys(("cluster", "assign"), "transfer.labels is codes")
    assert ran.inputs("transfer")["codes"] == ran.made["codes"]
    table = read_table(ran.path("codes"), CODES)
    first = column(table, "head") == 0
    assert np.array_equal(np.sort(column(table, "index")[first]), np.arange(train_images(ran)))
    used = len(np.unique(column(table, "cluster")[first]))
    assert json.loads((ran.path("transfer") / "model.json").read_text())["classes"] == used
    steps = column(read_table(ran.path("transfer") / "log.parquet"), "step").max()
    assert steps == train_images(ran) // 32  # each image once per epoch, whatever the number of heads
    measured = {row["evaluation"] for row in ran.result["scores"]}
    assert "codes" in measured
    assert "clusters" not in measured


@pytest.mark.parametrize("end", get_args(Until))
def test_a_chain_that_ends_early_still_reports(end: str, place: Path) -> None:
    config = override(small(place), {"until": end})
    ran = run_chain(config, f"until-{end}")
    found_again(ran, config)
    assert json.loads((ran.folder / "run.json").read_text())["status"] == "done"
    last = {
        "pretext": "teacher",
        "head": "teacher-head",
        "transfer": "student-transferred",
        "finetune": "student-finetuned",
        "distill": "student",
    }
    measured = {row["model"] for row in ran.result["scores"] if row["metric"] == "top1"}
    assert last[end] in measured
    assert measured.isdisjoint(list(last.values())[list(last).index(end) + 1 :])
    assert (ran.result["headline"] == {}) == (end not in ("head", "finetune", "distill"))
    assert (ran.result["shipped"] is None) == (end not in ("head", "finetune", "distill"))
    assert all(row["cached"] for row in run_chain(config, f"until-{end}").result["stages"])


@pytest.mark.parametrize("method", BY_LABELS)
def test_every_transfer_method_that_learns_labels(method: str, place: Path) -> None:
    config = small(place, by=method)
    ran = run_chain(config, method)
    complete(ran, config)
    assert ran.inputs("transfer")["assignments"] == ran.made["assign"]


@pytest.mark.parametrize("method", BY_FEATURES)
def test_every_transfer_method_that_learns_features(method: str, place: Path) -> None:
    """It reads what embed has stored, and no teacher. The clusters are there for the report."""
    config = small(place, by=method)
    ran = run_chain(config, method)
    complete(ran, config)
    assert ran.inputs("transfer")["features"] == ran.made["embed"]
    assert "teacher" not in ran.inputs("transfer")
    assert ran.inputs("report")["clusters"] == ran.made["cluster"]
    described = override(config, {"pretext": {"method": "hog"}})
    found = run_chain(described, f"{method}-hog")
    assert found.inputs("transfer")["features"] == found.made["embed"]


@pytest.mark.parametrize("method", BY_TEACHER)
def test_every_transfer_method_that_learns_from_the_teacher(method: str, place: Path) -> None:
    config = small(place, by=method)
    ran = run_chain(config, method)
    complete(ran, config)
    assert ran.result["not_needed"] == dict.fromkeys(("cluster", "assign"), f"transfer.method is {method}")
    *earlier, _ = labels = [*(f"transfer-{phase}" for phase in TRANSFER[method].phases[:-1]), "transfer"]
    for label in labels:
        assert ran.inputs(label)["teacher"] == ran.made["pretext"]
    for before, label in zip(earlier, labels[1:], strict=True):
        assert ran.inputs(label)["checkpoint"] == ran.made[before]
    assert "clusters" not in ran.inputs("propagate")


@pytest.mark.parametrize("by", BY_TEACHER)
def test_a_moco_teacher_shows_its_head_to_students_and_its_features_to_all_others(
    by: str, place: Path
) -> None:
    """As in the papers of SEED and S2-BNN, students learn the 128 coordinates of the head.

    SimReg's students predict them, and drop what predicts them.
    """
    config = small(place, "moco", by)
    ran = run_chain(config, by)
    found_again(ran, config)
    teacher = json.loads((ran.path("pretext") / "model.json").read_text())
    student = json.loads((ran.path("transfer") / "model.json").read_text())
    assert teacher["projection"] == 128
    assert student["projection"] == (None if by == "simreg" else 128)
    _, features = read_vectors(ran.path("embed"))
    assert features.shape[1] == teacher["feature_dim"] != 128
    tuned = json.loads((ran.path("finetune-teacher") / "model.json").read_text())
    assert tuned["projection"] is None


def test_what_a_binary_student_takes_stands_in_scores_and_report(place: Path) -> None:
    ran = run_chain(small(place, by="s2bnn"), "s2bnn")
    cost = {
        (row["model"], row["metric"]): row["value"]
        for row in ran.result["scores"]
        if row["evaluation"] == "cost"
    }
    network = build_network("reactnet", 32, seed=0, width=0.25, classes=2)
    assert cost["student", "binary_operations"] == operations(network).binary > 0
    assert cost["student", "real_operations"] == operations(network).real
    assert cost["student", "weight_bits"] == weight_bits(network)
    assert cost["teacher", "binary_operations"] == 0
    report = (ran.folder / "report.html").read_text()
    assert narrow(bits(weight_bits(network))) in report
    assert narrow(magnitude(cost["student", "binary_operations"])) in report


@pytest.mark.parametrize(
    ("pretext", "over"), [("hog", {}), ("external", {}), ("simclr", {}), ("swav", {"labels": "codes"})]
)
def test_without_labels_the_chain_ends_after_transfer(
    pretext: str, over: dict[str, Any], place: Path
) -> None:
    flat = place / "flat"
    if not flat.exists():
        flat.mkdir()
        for path in (place / "photographs").rglob("*.png"):
            (flat / f"{path.parent.name}-{path.name}").symlink_to(path)
        table = pq.read_table(place / "vectors.parquet")
        uris = [uri.replace("/", "-") for uri in table["uri"].to_pylist()]
        pq.write_table(pa.table({"uri": uris, "vector": table["vector"]}), place / "flat.parquet")
    config = small(place, pretext, data={"train": f"folder:{flat}", "labels_per_class": None}, transfer=over)
    if pretext == "external":
        config = override(config, {"pretext": {"features": f"parquet:{place / 'flat.parquet'}"}})
    ran = run_chain(config, "unlabelled")
    assert "labels" not in ran.made
    assert {"transfer", "scores", "report"} <= ran.made.keys()
    assert ran.result["headline"] == {}
    found_again(ran, config)


@pytest.mark.parametrize("pretext", ["simclr", "hog", "external"])
def test_other_sources_are_clustered_and_labelled(pretext: str, place: Path) -> None:
    other = f"folder:{place / 'photographs' / 'temple'}"
    over = {"cluster": {"data": other}, "assign": {"data": other}}
    config = small(place, pretext, **over)
    if pretext == "external":  # the uris differ, so vectors are matched by content
        ours, theirs = run_chain(small(place), "ours"), place / "by-content.parquet"
        manifest = read_table(ours.path("manifest") / "images.parquet")
        vectors = np.random.default_rng(0).normal(size=(200, 5))
        pq.write_table(pa.table({"sha256": manifest["sha256"], "vector": list(vectors)}), theirs)
        config = override(config, {"pretext": {"features": f"parquet:{theirs}"}})
    ran = run_chain(config, "other")
    assert ran.inputs("cluster")["features"] == ran.made["embed-cluster"]
    assert len(read_table(ran.path("assign"))) == 100
    assert ran.inputs("transfer")["manifest"] == ran.made["manifest-cluster"]


@pytest.mark.skipif(not BY_TEACHER, reason="no method learns from the teacher")
def test_a_teacher_is_asked_about_images_of_another_source(place: Path) -> None:
    other = {"data": f"folder:{place / 'photographs' / 'flower'}"}
    config = small(place, by=BY_TEACHER[0], assign=other)
    ran = run_chain(config, "other")
    assert ran.inputs("transfer")["manifest"] == ran.made["manifest-assign"]
    assert "embed-assign" not in ran.made
    found_again(ran, config)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            {"transfer": {"labels": "codes"}},
            r"transfer\.labels = codes, but pretext\.method = simclr gives images no codes",
        ),
        (
            {"pretext": {"method": "hog"}, "transfer": {"labels": "codes"}},
            r"pretext\.method = hog gives images no codes",
        ),
        (
            {"pretext": {"method": "external", "features": "vectors.csv"}},
            r"pretext\.features = 'vectors\.csv'",
        ),
        ({"pretext": {"method": "external"}}, r"pretext\.features is missing"),
        *(
            (
                {"pretext": {"method": "hog"}, "transfer": {"method": name}},
                f"{name} learns from the teacher itself",
            )
            for name in BY_TEACHER
        ),
        *(
            (
                {"pretext": {"method": name}, "transfer": {"labels": "codes"}, "assign": {"data": "digits"}},
                r"assign\.data",
            )
            for name in WITH_CODES[:1]
        ),
    ],
)
def test_what_cannot_go_together_is_refused_before_any_work(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        override(Config(), over)
    assert "\n" not in str(caught.value)


def test_the_last_layer_goes_by_its_own_name(place: Path) -> None:
    ran = run_chain(small(place, embed={"layer": "last"}), "last")
    assert pq.read_schema(next(ran.path("embed").glob("part-*.parquet"))).metadata[b"layer"] == b"head1"
    settings = {
        row["setting"]
        for row in ran.result["scores"]
        if (row["evaluation"], row["model"]) == ("knn", "teacher")
    }
    assert settings == {"k=5 T=0.07 layer=head1"}


def test_another_layer_is_computed_anew(place: Path) -> None:
    run_chain(small(place), "features")
    ran = run_chain(small(place, embed={"layer": "head1"}), "head1")
    assert ran.store.meta(ran.made["embed"])["rows_computed"] == train_images(ran)


def test_a_layer_that_is_not_there_is_refused_before_training(place: Path) -> None:
    ran = run_chain(small(place), "simclr")
    request = pretext_stage.plan(
        small(place, embed={"layer": "head7"}, pretext={"epochs": 9}), ran.made["manifest"]
    )
    with pytest.raises(
        ConfigError,
        match=(
            r"embed\.layer = head7: a smallconv trained by simclr has no such layer; "
            r"choose one of .*conv1, .*head1"
        ),
    ):
        built(request, ran.store)


# A teacher that collapses: the warning, where it appears, and that a resumed training warns too.


@pytest.fixture
def collapsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """SimCLR whose outputs count as alike after every epoch."""
    measure = "spread of the outputs 0.001, healthy is 0.3 to 1"
    monkeypatch.setattr(SimCLRMethod, "collapsed", lambda self, means: measure)


def built(request: Request, store: Store, stop_after: int | None = None) -> list[str]:
    """Build a stage, stopping it after a number of polls -> its log."""
    polls, said = [0], []

    def interrupted() -> bool:
        polls[0] += 1
        return stop_after is not None and polls[0] >= stop_after

    def tell(event: dict[str, Any]) -> None:
        said.append(event.get("text", ""))

    build(request, store, Config().compute.model_copy(update={"device": "cpu"}), tell, interrupted, {})
    return said


def collapsing_request(place: Path, ran: Made, **more: Any) -> Request:
    return pretext_stage.plan(small(place, pretext={"epochs": 3, **more}), ran.made["manifest"])


@pytest.mark.usefixtures("collapsing")
def test_a_collapse_is_said_in_log_and_meta(place: Path) -> None:
    ran = run_chain(small(place), "simclr")
    request = collapsing_request(place, ran, weight_decay=0.1)
    said = built(request, ran.store)
    warning = (
        "pretext: all outputs were alike after 3 epochs, from 1 to 3 of 3: spread of the outputs 0.001,"
        " healthy is 0.3 to 1"
    )
    assert ran.store.meta(request.artifact(ran.store))["warnings"] == [warning]
    assert sum("all outputs were alike after epoch 1 of 3" in text for text in said) == 1
    with pytest.raises(CollapsedError, match=r"after epoch 1 of 3.* Try a lower learning_rate"):
        built(collapsing_request(place, ran, stop_on_collapse=True), ran.store)


@pytest.mark.usefixtures("collapsing")
@pytest.mark.parametrize("after", [-1, 0, 1])  # steps beyond an epoch
def test_a_resumed_training_still_says_that_it_collapsed(after: int, place: Path) -> None:
    ran = run_chain(small(place), "simclr")
    request = collapsing_request(place, ran, weight_decay=(2 + after) * 1e-6)
    with pytest.raises(Interrupted):
        built(request, ran.store, stop_after=train_images(ran) // 32 + after)
    assert any(text.startswith("resuming at step") for text in built(request, ran.store))
    (warning,) = ran.store.meta(request.artifact(ran.store))["warnings"]
    assert "after 3 epochs, from 1 to 3 of 3" in warning


@pytest.mark.usefixtures("collapsing")
def test_a_run_shows_its_warnings_in_the_end_and_in_the_report(place: Path) -> None:
    config = small(place, pretext={"weight_decay": 0.2})
    for _ in range(2):  # computed, then cached
        ran = run_chain(config, "collapsing")
        (warning,) = ran.result["warnings"]
        assert warning.startswith("pretext: all outputs were alike after epoch 1 of 1")
        assert ran.events["pretext"]["warnings"] == [warning]
        assert warning in (ran.folder / "report.html").read_text()


def test_a_closer_look_at_what_no_label_has_touched(place: Path) -> None:
    closer = {
        "protocols": ["layers", "nonlinear", "label-efficiency", "stability"],
        "layer_epochs": 1,
        "nonlinear": {"epochs": 1, "batch_size": 32, "hidden": 8},
        "label_fractions": [0.2],
        "labels_per_class": [3],
        "label_draws": 2,
        "stability_seeds": 2,
    }
    config = override(small(place, evaluate=closer), {"until": "transfer"})
    ran = run_chain(config, "closer")
    found_again(ran, config)
    rows = [
        (row["evaluation"], row["model"], row["setting"], row["seed"])
        for row in ran.result["scores"]
        if row["metric"] != "top1_at_rate"
    ]
    for model in ("teacher", "student-transferred"):
        assert [s for e, m, s, _ in rows if (e, m) == ("layers", model)] == [
            f"layer=conv{i}" for i in (1, 2, 3)
        ]
        assert [s for e, m, s, _ in rows if (e, m) == ("nonlinear", model)] == [
            "mlp hidden=8",
            "frozen up to conv2",
        ]
    drawn = {(s, seed) for e, m, s, seed in rows if (e, m) == ("label-efficiency", "student-transferred")}
    assert drawn == {
        (f"labels={n} {how}", draw)
        for n in ("20pc", "3each")
        for how in ("tuned", "frozen")
        for draw in (0, 1)
    }
    assert {s for e, _, s, _ in rows if e == "stability"} == {"k=6 seeds=2"}
    first, second = (read_table(ran.path(f"labels-3each-draw{draw}") / "labels.parquet") for draw in (0, 1))
    assert first.num_rows == second.num_rows == 6
    assert not first.equals(second)
    frozen, tuned = (ran.store.meta(ran.made[f"finetune-3each-draw0-{how}"]) for how in ("frozen", "tuned"))
    assert (frozen["config"]["finetune"]["freeze"], tuned["config"]["finetune"]["freeze"]) == (True, False)
    assert "Few labels, several draws" in (ran.folder / "report.html").read_text()
