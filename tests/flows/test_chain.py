"""The layout of the chain, and which stages a change of configuration or data recomputes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError
from data.store import Store, write_json
from data.types import Artifact
from flows.chain import chain
from flows.layout import Hooks, Plan
from flows.recipes import override
from tasks.config import Config
from tasks.stage import NotNeeded, Request

PARTS = {"train": "a", "unlabelled": "b", "test": "c", "train_labels": "d", "test_labels": "e", "labels": "f"}
COUNTS = {"train": 10_000, "unlabelled": 0, "test": 20, "labelled": 10_000, "test_labelled": 20}


class Layout:
    """Lay out chains over a store that holds only manifests. Nothing is built."""

    def __init__(
        self, store: Store, config: Config, parts: dict[str, str], counts: dict[str, int] = COUNTS
    ) -> None:
        self.store, self.counts = store, counts
        self.manifest = Artifact(kind="manifest", fingerprint="-".join(parts.values()))
        folder = store.folder(self.manifest)
        folder.mkdir(parents=True, exist_ok=True)
        usual = {"stage": "manifest", "version": 1, "config": {}, "inputs": {}, "seconds": 0, "rows": 0}
        usual |= {"bytes": {}, "sha256": {}}
        write_json(folder / "meta.json", {**usual, "parts": parts, "counts": counts})
        self.requests: dict[str, Request] = {}
        self.after: dict[str, Artifact | None] = {}
        self.not_needed: list[NotNeeded] = []
        self.made: dict[str, Artifact] = chain(config, Hooks(self.step, self.look, self.not_needed.append))

    def look(self, images: Artifact) -> dict[str, Any]:
        return self.store.meta(images)

    def step(
        self, label: str, plan: Plan, /, *, after: Artifact | None = None, **inputs: Artifact
    ) -> Artifact:
        assert label not in self.requests
        request = plan(**inputs)
        assert isinstance(request, Request)
        self.requests[label], self.after[label] = request, after
        return self.manifest if request.stage == "manifest" else request.artifact(self.store)

    def renewed_against(self, other: Layout) -> set[str]:
        """Labels whose artifact differs in the other layout."""
        assert self.made.keys() == other.made.keys()
        return {label for label in self.made if self.made[label] != other.made[label]}

    def reads(self, label: str) -> set[str]:
        label_of = {artifact: name for name, artifact in self.made.items()}
        return {label_of[given] for given in self.requests[label].inputs.values()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def configured(**over: Any) -> Config:
    return override(Config(), {"data": {"test": "digits"}, **over})


def test_every_stage_once_and_wired_as_documented(store: Store) -> None:
    layout = Layout(store, configured(), PARTS)
    assert layout.reads("pretext") == {"manifest"}
    assert layout.reads("embed") == {"manifest", "pretext"}
    assert layout.reads("cluster") == {"embed"}
    assert layout.reads("assign") == {"cluster", "embed"}
    assert layout.reads("transfer") == {"manifest", "assign"}
    assert layout.reads("finetune-student") == {"manifest", "labels", "transfer"}
    assert layout.reads("finetune-teacher") == {"manifest", "labels", "pretext"}
    assert layout.reads("predict") == {"manifest", "finetune-teacher"}
    assert layout.reads("scratch") == {"manifest", "labels"}
    assert "distill" in layout.reads("evaluate-student")
    assert {"evaluate-student", "evaluate-scratch", "evaluate-teacher"} <= layout.reads("scores")
    assert "scores" in layout.reads("report")
    assert layout.reads("answers") == {"manifest", "ship"}
    assert "answers" in layout.reads("scores") & layout.reads("report")
    assert layout.requests["answers"].settings["model"] == "shipped"
    mapping = configured(evaluate={"protocols": ["few-label", "explore"]})
    layout = Layout(store, mapping, PARTS)
    mapped = {"manifest", "embed", "embed-teacher-test", "cluster", "assign", "labels", "answers"}
    assert layout.reads("explore") == mapped
    assert "explore" in layout.reads("report") - layout.reads("scores")


def test_without_training_features_enter_at_embed_and_the_student_predicts(store: Store) -> None:
    for pretext in ({"method": "hog"}, {"method": "external", "features": "parquet:vectors"}):
        layout = Layout(store, configured(pretext=pretext, predict={"student": True}), PARTS)
        assert layout.reads("embed") == layout.reads("embed-teacher-test") == {"manifest"}
        assert layout.reads("evaluate-teacher") == {"manifest", "embed", "embed-teacher-test"}
        assert layout.reads("predict") == {"manifest", "finetune-student"}
        assert {"pretext", "finetune-teacher", "evaluate-teacher-finetuned"}.isdisjoint(layout.made)
        because = f"pretext.method is {pretext['method']}"
        assert layout.not_needed == [
            NotNeeded("pretext", because, ("manifest",)),
            NotNeeded("finetune-teacher", because, ("manifest", "labels")),
        ]
        few = Layout(store, configured(pretext=pretext, evaluate={"protocols": ["few-label"]}), PARTS)
        assert {"embed-teacher-test", "evaluate-teacher"}.isdisjoint(few.made)  # there is nothing to measure
    unlabelled = Layout(store, configured(pretext={"method": "hog"}), PARTS, {**COUNTS, "labelled": 0})
    assert [stage.stage for stage in unlabelled.not_needed] == ["pretext"]


def test_codes_replace_clusters_only_where_they_are_asked_for(store: Store) -> None:
    swav = {"method": "swav"}
    clustered = Layout(store, configured(pretext=swav), PARTS)
    assert clustered.reads("codes") == {"pretext"}
    assert clustered.reads("transfer") == {"manifest", "assign"}
    assert {"codes", "cluster", "assign"} <= clustered.reads("scores")
    coded = Layout(
        store, configured(pretext=swav, transfer={"labels": "codes"}, predict={"neighbours": 3}), PARTS
    )
    assert coded.reads("transfer") == {"manifest", "codes"}
    assert coded.reads("propagate") == {"embed", "predict", "labels"}
    assert {"cluster", "assign"}.isdisjoint(coded.made)
    assert [stage.stage for stage in coded.not_needed] == ["cluster", "assign"]
    same = {"pretext", "codes", "embed", "labels", "finetune-teacher"}
    assert all(coded.made[label] == clustered.made[label] for label in same)
    elsewhere = Layout(store, configured(pretext=swav, assign={"data": "folder:c"}), PARTS)
    assert "codes" not in elsewhere.reads("scores")  # they are of other images than the assignments


def test_a_chain_ends_where_it_is_told_to_and_measures_what_there_is(store: Store) -> None:
    whole = Layout(store, configured(), PARTS)
    ends = {
        "pretext": ({"pretext", "embed"}, {"teacher"}),
        "transfer": ({"cluster", "assign", "transfer"}, {"student-transferred"}),
        "finetune": (
            {"labels", "finetune-student", "finetune-teacher", "scratch", "ship", "answers"},
            {"student-finetuned", "teacher-finetuned", "scratch", "shipped"},
        ),
        "distill": ({"predict", "distill"}, {"student"}),
    }
    stages, models = {"manifest", "scores", "report"}, set()
    ships = {"pretext": "teacher", "transfer": "student-transferred"}
    for end, (further, measured) in ends.items():
        stages, models = stages | further, models | measured
        layout = Layout(store, configured(until=end), PARTS)
        assert {name for name in layout.made if not name.startswith(("evaluate-", "embed-"))} == stages
        assert layout.requests["report"].settings["ships"]["model"] == ships.get(end, "shipped")
        assert layout.reads("scores") >= {f"evaluate-{name}" for name in models}
        assert sum(name.startswith("evaluate-") for name in layout.made) == len(models)
        same = set(layout.made) - {"ship", "evaluate-shipped", "answers", "scores", "report"}
        assert all(layout.made[label] == whole.made[label] for label in same)  # nothing is asked otherwise
    # If no student is trained, the images for its training don't matter.
    teacher = Layout(
        store, configured(until="pretext", pretext={"method": "swav"}, cluster={"data": "folder:c"}), PARTS
    )
    assert {"manifest-cluster", "embed-cluster"}.isdisjoint(teacher.made)
    assert "codes" in teacher.reads("scores")


def test_phases_of_a_transfer_are_stages_one_after_the_other(store: Store) -> None:
    config = configured(transfer={"method": "s2bnn"}, student={"backbone": "reactnet"})
    layout = Layout(store, config, PARTS)
    assert layout.reads("transfer-activations") == {"manifest", "pretext"}
    assert layout.reads("transfer") == {"manifest", "pretext", "transfer-activations"}
    assert [layout.requests[label].settings["phase"] for label in ("transfer-activations", "transfer")] == [
        "activations",
        "weights",
    ]
    assert {"transfer-activations", "transfer"} <= layout.reads("report")
    once = Layout(store, configured(), PARTS).requests["scratch"].settings["finetune"]["steps"]
    assert layout.requests["scratch"].settings["finetune"]["steps"] == once + (
        config.transfer.epochs * (COUNTS["train"] // config.transfer.batch_size)
    )
    twin = Layout(store, configured(transfer={"method": "seed"}), PARTS)
    assert twin.reads("transfer") == {"manifest", "pretext"}
    assert "phase" not in twin.requests["transfer"].settings


def test_which_labels_are_learned_is_said_by_the_inputs_alone(store: Store) -> None:
    layout = Layout(store, configured(), PARTS)
    assert "labels" not in layout.requests["transfer"].settings["transfer"]


def test_propagation_without_clusters_fits_the_same_space(store: Store) -> None:
    over = {"predict": {"neighbours": 3}, "cluster": {"pca": 7, "whitening": 0.5}}
    with_clusters = Layout(store, configured(**over), PARTS).requests["propagate"].settings
    without = (
        Layout(store, configured(**over, transfer={"method": "seed"}), PARTS).requests["propagate"].settings
    )
    assert without == with_clusters | {"space": {"pca": 7, "whitening": 0.5, "normalise": True}}


def test_rounds_of_distillation_propagate_over_what_the_student_sees(store: Store) -> None:
    rounds = {"predict": {"neighbours": 5, "joint": True}, "distill": {"rounds": 3, "init": "transferred"}}
    layout = Layout(store, configured(**rounds), PARTS)
    assert {"embed-teacher-finetuned", "predict"} <= layout.reads("propagate-round1")
    assert {"embed-student-round1", "predict"} <= layout.reads("propagate-round2")
    assert {"embed-student-round2", "predict"} <= layout.reads("propagate")
    assert {"propagate-round1", "transfer"} <= layout.reads("distill-round1")
    assert {"propagate-round2", "distill-round1"} <= layout.reads("distill-round2")
    assert {"propagate", "distill-round2"} <= layout.reads("distill")
    assert [layout.requests[f"distill{r}"].settings["fine_tuned"] for r in ("-round1", "-round2", "")] == [
        False,
        True,
        True,
    ]
    once = Layout(store, configured(), PARTS).requests["scratch"].settings["finetune"]["steps"]
    distill = configured().distill
    more = layout.requests["scratch"].settings["finetune"]["steps"] - once
    assert more == 2 * distill.epochs * (COUNTS["train"] // distill.batch_size)


def test_rounds_that_would_learn_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"distill\.rounds = 2.*predict\.joint"):
        configured(distill={"rounds": 2}, predict={"neighbours": 5})


def test_no_stage_before_the_labels_can_see_one(store: Store) -> None:
    layout = Layout(store, configured(), PARTS)
    for label in ("pretext", "embed", "cluster", "assign", "transfer"):
        assert set(layout.requests[label].parts) <= {"train", "unlabelled"}


def test_without_labels_the_chain_ends_after_transfer(store: Store) -> None:
    layout = Layout(store, configured(), PARTS, {**COUNTS, "labelled": 0, "test_labelled": 0})
    assert set(layout.made) == {
        "manifest",
        "pretext",
        "embed",
        "cluster",
        "assign",
        "transfer",
        "scores",
        "report",
    }


def test_a_new_test_image_leaves_the_training_alone(store: Store) -> None:
    before, after = Layout(store, configured(), PARTS), Layout(store, configured(), {**PARTS, "test": "C"})
    renewed = after.renewed_against(before)
    assert {"embed-student-test", "evaluate-student", "evaluate-scratch", "answers", "scores"} <= renewed
    assert "report" in renewed
    trained = {"pretext", "transfer", "finetune-student", "finetune-teacher", "distill", "scratch"}
    assert not renewed & (trained | {"embed", "cluster", "assign", "labels", "predict"})


def test_a_changed_label_renews_the_few_label_stages_and_scores_only(store: Store) -> None:
    before = Layout(store, configured(), PARTS)
    after = Layout(store, configured(), {**PARTS, "train_labels": "D", "labels": "F"})
    renewed = after.renewed_against(before)
    assert {"labels", "finetune-student", "scratch", "scores"} <= renewed
    assert not renewed & {"pretext", "embed", "cluster", "assign", "transfer"}


def test_another_k_renews_the_clusters_and_what_follows(store: Store) -> None:
    before, after = Layout(store, configured(), PARTS), Layout(store, configured(cluster={"k": 77}), PARTS)
    renewed = after.renewed_against(before)
    assert {"cluster", "assign", "transfer", "finetune-student", "scores", "report"} <= renewed
    assert not renewed & {
        "manifest",
        "pretext",
        "embed",
        "labels",
        "finetune-teacher",
        "predict",
        "embed-teacher-test",
    }


@pytest.mark.parametrize(
    "over",
    [
        {"store": "elsewhere"},
        {"compute": {"device": "cpu", "workers": 3}},
        {"data": {"train": "folder:elsewhere", "max_rejected": 0.5}},
    ],
)
def test_where_and_how_is_no_part_of_what(store: Store, over: dict[str, Any]) -> None:
    before, after = Layout(store, configured(), PARTS), Layout(store, configured(**over), PARTS)
    assert after.renewed_against(before) <= {"report"}  # the report shows the configuration


def test_seed_renews_what_is_drawn(store: Store) -> None:
    before, after = Layout(store, configured(), PARTS), Layout(store, configured(seed=1), PARTS)
    assert {
        "pretext",
        "labels",
        "transfer",
        "finetune-student",
        "distill",
        "scratch",
    } <= after.renewed_against(before)


def test_a_seed_of_its_own_is_the_stages_alone(store: Store) -> None:
    before, after = Layout(store, configured(), PARTS), Layout(store, configured(cluster={"seed": 5}), PARTS)
    renewed = after.renewed_against(before)
    assert "cluster" in renewed
    assert not renewed & {"pretext", "embed", "labels", "finetune-teacher"}


def test_pretrain_on_one_source_cluster_another_label_a_third(store: Store) -> None:
    over = {"cluster": {"data": "folder:b"}, "assign": {"data": "folder:c"}}
    requests = Layout(store, configured(**over), PARTS).requests
    assert requests["embed-cluster"].outside["sources"]["train"] == "folder:b"
    assert requests["embed-assign"].outside["sources"]["train"] == "folder:c"
    assert requests["transfer"].outside["sources"]["train"] == "folder:c"
    assert requests["pretext"].outside["sources"]["train"] == "digits"


def test_the_baseline_is_trained_after_the_chain(store: Store) -> None:
    layout = Layout(store, configured(), PARTS)
    assert layout.after["scratch"] == layout.made["distill"]


def test_classifiers_that_are_compared_and_what_each_of_them_reads(store: Store) -> None:
    layout = Layout(store, configured(ship={"compare": True}, until="distill"), PARTS)
    judged = {"finetune-student", "finetune-teacher", "linear-student", "linear-teacher", "scratch"}
    assert layout.reads("linear-teacher") == {"manifest", "labels", "pretext"}
    assert layout.reads("linear-student") == {"manifest", "labels", "transfer"}
    assert layout.reads("spread") >= {"manifest", "labels", "embed", "embed-student-transferred"}
    predicted = {f"predict-{name}" for name in ("teacher-linear", "student-linear", "scratch")}
    assert layout.reads("spread-scratch") == {"manifest", "labels", "embed-scratch", "scratch"}
    assert layout.reads("weigh") >= judged | predicted | {"labels", "spread", "spread-scratch"}
    assert layout.reads("distill") >= {"weigh", "manifest"}
    assert layout.reads("ship") == judged | {"manifest", "labels", "weigh", "distill"}
    assert not {"predict", "propagate"} & layout.requests.keys()


def test_students_that_are_compared_learn_in_rounds(store: Store) -> None:
    layout = Layout(store, configured(ship={"compare": True}, distill={"rounds": 2}), PARTS)
    assert layout.reads("respread-round1") == {"labels", "weigh", "embed-student-round1"}
    assert layout.reads("embed-student-round1") == {"manifest", "distill-round1"}
    assert layout.reads("distill") == {"manifest", "labels", "distill-round1", "respread-round1"}
    assert "distill" in layout.reads("ship")
    assert "distill-round1" not in layout.reads("ship")


def test_a_comparison_has_the_network_from_scratch_even_without_the_baseline(
    store: Store,
) -> None:
    config = configured(ship={"compare": True}, finetune={"baseline": False})
    assert "scratch" in Layout(store, config, PARTS).requests


def test_new_test_images_change_neither_the_mixture_nor_what_ships(store: Store) -> None:
    config = configured(ship={"compare": True})
    layout = Layout(store, config, PARTS)
    other = Layout(store, config, PARTS | {"test": "x", "test_labels": "y"})
    assert not {"weigh", "ship", "distill", "spread", "linear-student"} & layout.renewed_against(other)
