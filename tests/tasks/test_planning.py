"""The arithmetic of a plan: the minutes are used up, and what can't fit is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from data.errors import ConfigError
from data.types import Artifact
from flows.recipes import override, recipe
from models.pace import Pace
from models.trials import Measured
from models.work import Step, Work
from tasks.planning import (
    CHOICES,
    ENOUGH,
    FEW,
    KEPT,
    LARGE,
    LEAST,
    MANY,
    PASSES,
    PLENTY,
    SETS,
    SHARES,
    SIZES,
    SLACK,
    UNTRAINED,
    UNTRAINED_RARE,
    WIDER,
    Planned,
    Speed,
    batch_size,
    clusters,
    from_images,
    from_labels,
    labelled_batch,
    shares,
    shown,
    sizes,
)
from tasks.stages import plan as plan_stage
from tasks.stages import plan_labels

KIND = ("photographs", "there are colours")


def speed(size: int, factor: float = 1.0) -> Speed:
    """A machine on which everything takes as long as there are pixels."""
    step = factor * size**2 / 32**2 / 10
    return Speed(
        teacher=step,
        transfer=step / 3,
        tuned=step / 6,
        tuned_teacher=step / 4,
        distill=step / 3,
        forward=step / 300,
    )


def plan(minutes: float, images: int, tried: tuple[int, ...] = (32, 48, 64), factor: float = 1.0) -> dict:
    speeds = {size: speed(size, factor) for size in tried}
    told: dict[str, Any] = {"distinct": images, "fixed": 40.0, "reading": images / 500, "kind": KIND}
    found = from_images(minutes, images, speeds, **told, folds=3)
    assert len(found.because) >= 5
    return found.settings


def test_the_budget_is_used_up() -> None:
    """Whatever the first part leaves, the second part divides: together they take the minutes."""
    for minutes, images, labels in ((5, 300, 50), (5, 5000, 50), (20, 50_000, 50), (20, 50_000, 5000)):
        first = plan(minutes, images)
        used = speed(first["data.image_size"])
        spent = (
            40.0
            + images / 500
            + PASSES * images * used.forward
            + first["pretext.steps"] * used.teacher
            + first["transfer.steps"] * used.transfer
        )
        whole = 60 * minutes - 40 - images / 500 - PASSES * images * used.forward
        rest = from_labels(60 * minutes - spent, labels, images, used, 3, whole).settings
        slower = used.distill / used.tuned if rest["finetune.batch_size"] == 128 else 1
        tuned = used.tuned + (used.tuned_teacher if rest["ship.teacher"] else 0)
        spent += 4 * rest["finetune.steps"] * tuned * slower + rest["distill.steps"] * used.distill
        spent += (4 + CHOICES) * rest["finetune.baseline_steps"] * used.tuned * slower
        assert spent == pytest.approx(60 * minutes, rel=0.02)


def test_a_larger_size_needs_enough_steps() -> None:
    assert plan(2, 1000)["data.image_size"] == 32
    chosen = plan(30, 1000)
    assert chosen["data.image_size"] == 64
    assert chosen["pretext.steps"] >= ENOUGH


def test_more_minutes_never_mean_a_smaller_size_or_fewer_steps_at_the_same_size() -> None:
    before = plan(1.5, 1000)
    for minutes in (2, 3, 5, 8, 13, 21, 34):
        now = plan(minutes, 1000)
        assert now["data.image_size"] >= before["data.image_size"]
        if now["data.image_size"] == before["data.image_size"]:
            assert now["pretext.steps"] >= before["pretext.steps"]
        before = now


def test_too_few_minutes_are_refused_with_the_least_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"plan.minutes = 0.7 is too short for 1,000 images") as caught:
        plan(0.7, 1000)
    least = float(str(caught.value).rsplit(" ", 1)[1])
    assert plan(least, 1000)["pretext.steps"] >= 1
    with pytest.raises(ConfigError, match="too short"):
        plan(least - 0.15, 1000)


def test_a_run_accepts_what_a_dry_run_accepts_although_it_measures_slower_steps() -> None:
    """What is just enough for a dry run is planned by a run up to twice as slow, and refused beyond that."""

    def at(factor: float, least: int) -> int:
        speeds = {32: speed(32, factor)}
        told: dict[str, Any] = {"distinct": 300, "fixed": 40.0, "reading": 0.0, "kind": KIND}
        found = from_images(1.0, 300, speeds, **told, least=least, load="measured under load: a lot")
        return found.settings["pretext.steps"]

    enough = (
        SHARES["pretext"] * 20 / LEAST / 0.1 * 0.9
    )  # 20 s are left for training, and a few for the features
    assert at(enough, LEAST) >= LEAST
    assert at(1.8 * enough, LEAST // 2) >= LEAST // 2
    for factor, least in ((1.3, LEAST), (2.6, LEAST // 2)):
        with pytest.raises(ConfigError, match=r"too short .* \(measured under load: a lot\)$"):
            at(factor * enough, least)


def test_images_are_decoded_again_only_in_another_size() -> None:
    told: dict[str, Any] = {"distinct": 300, "fixed": 40.0, "reading": 60.0, "kind": KIND, "folds": 3}
    again, *others = (
        from_images(5.0, 300, {32: speed(32)}, **told | more).settings["pretext.steps"]
        for more in ({"decoded": 64}, {"decoded": 32}, {"reading": 0.0})
    )
    assert others[0] == others[1]
    assert others[0] - again == pytest.approx(SHARES["pretext"] * 60 / speed(32).teacher, abs=1)


def settings(**keep: Any) -> dict[str, Any]:
    """The settings of the stage plan for the recipe photos, with keys that a user set."""
    over: dict[str, Any] = {}
    for key, value in keep.items():
        section, _, name = key.partition("__")
        over.setdefault(section, {})[name] = value
    config = override(recipe("photos"), over)
    return plan_stage.plan(config, Artifact(kind="manifest", fingerprint="m")).settings


def test_plans_that_were_made_before_there_was_mixup_keep_their_names() -> None:
    assert settings(finetune__mixup=0.1, finetune__baseline_mixup=0.2)["config"] == settings()["config"]
    assert not {"mixup", "baseline_mixup"} & settings()["config"]["finetune"].keys()


def test_steps_are_measured_with_the_views_of_the_kind_and_the_users_batches() -> None:
    asked = settings(distill__flip=0.25, pretext__batch_size=16)
    before = {name: dict(values) for name, values in asked["config"].items()}
    found = plan_stage._sections(asked, "symbols", 1000)
    assert found["pretext"].view_size == found["transfer"].view_size == found["finetune"].view_size == 1.0
    assert (found["transfer"].flip, found["distill"].flip) == (0.0, 0.25)
    batches = {name: config.batch_size for name, config in found.items()}
    assert batches == {"pretext": 16, "transfer": 128, "finetune": 32, "distill": 128}
    own = plan_stage._sections(asked, None, 1000)
    assert own["pretext"].view_size == recipe("photos").pretext.model_dump()["view_size"]
    assert asked["config"] == before
    given = {"distinct": 1000, "fixed": 40.0, "reading": 0.0, "kind": KIND}
    told = from_images(5, 1000, {32: speed(32)}, **given, batch=16).because["pretext.steps"]
    assert "16 images per step" in told


@pytest.mark.parametrize(
    ("transfer", "phases"),
    [("pseudo-labels", [None]), ("seed", [None]), ("s2bnn", ["activations", "weights"])],
)
def test_steps_of_transfer_are_measured_as_they_are(transfer: str, phases: list[str | None]) -> None:
    """With the teacher that the student learns from, and in every phase. Sweeps between epochs count."""
    asked: list[Work] = []

    def trial(work: Work) -> Measured:
        asked.append(work)
        return Measured(work, 2.0, between=0.01, load=2.0)

    student = "reactnet" if transfer == "s2bnn" else "smallconv"
    given = settings(transfer__method=transfer, student__backbone=student, student__width=0.25)
    sections = plan_stage._sections(given, None, 1000)
    found = plan_stage._speed(given, sections, Pace(trial=trial, clock=lambda: 0.0), 32, 5)
    steps = [work for work in asked if isinstance(work, Step) and work.section == "transfer"]
    assert [work.phase for work in steps] == phases
    assert all((work.teacher is None) == (transfer == "pseudo-labels") for work in steps)
    each = SLACK * (2.0 + 128 * 0.01) / 2  # half of the time, others used the machine
    assert found.transfer == pytest.approx(len(phases) * each)
    assert found.teacher == pytest.approx(each)


def foreign(size: int, look: float) -> Speed:
    """The same machine with a foreign teacher, which takes equally long at all sizes of the student."""
    return replace(speed(size), teacher=0.0, foreign=look, tuned_teacher=96 * look)


@pytest.mark.parametrize("look", [0.001, 0.02])
def test_a_foreign_teacher_leaves_its_share_to_the_student(look: float) -> None:
    """Its features, transfer, the trainings on labels and distillation take the minutes together."""
    images, tested, labels, minutes = 5000, 1000, 50, 20
    speeds = {size: foreign(size, look) for size in (32, 48, 64)}
    looks = shown(images, images, tested)
    found = from_images(
        minutes, images, speeds, distinct=images, fixed=40.0, reading=10.0, kind=KIND, looks=looks, folds=3
    )
    assert set(found.settings) <= SETS
    assert not [key for key in found.settings if key.startswith("pretext.")]
    used = speeds[found.settings["data.image_size"]]
    spent = 40.0 + 2 * 10.0 + PASSES * images * used.forward + looks * look  # decoded for both networks
    spent += found.settings["transfer.steps"] * used.transfer
    whole, again = 60 * minutes - 60.0 - PASSES * images * used.forward - looks * look, images + tested
    rest = from_labels(60 * minutes - spent, labels, images, used, 3, whole, again=again).settings
    assert set(rest) <= SETS
    tuned = used.tuned + (used.tuned_teacher if rest["ship.teacher"] else 0)
    spent += again * look if rest["ship.teacher"] else 0
    spent += 4 * rest["finetune.steps"] * tuned + rest["distill.steps"] * used.distill
    spent += (4 + CHOICES) * rest["finetune.baseline_steps"] * used.tuned
    assert spent == pytest.approx(60 * minutes, rel=0.02)
    assert sum(shares(used, whole, 3).values()) == pytest.approx(1)


def test_a_foreign_teacher_makes_no_difference_to_the_students_size_unless_it_takes_the_time() -> None:
    """A larger size needs enough steps of transfer, of the time that the teacher's features leave."""

    def chosen(look: float) -> int:
        speeds = {size: foreign(size, look) for size in (32, 48, 64)}
        kept = {"distinct": 1000, "fixed": 40.0, "reading": 2.0, "kind": KIND, "looks": 5000}
        size: int = from_images(20, 1000, speeds, **kept).settings["data.image_size"]
        return size

    assert chosen(0.001) == 64
    assert chosen(0.21) < 64


@pytest.mark.parametrize(
    ("side", "found"),
    [
        (8, [16]),
        (20, [16, 24]),
        (28, [24, 32]),
        (40, [32, 48]),
        (64, [32, 48, 64]),
        (1000, [size for size in SIZES if size >= 32]),
    ],
)
def test_sizes_neither_enlarge_images_much_nor_leave_nothing_of_them(side: int, found: list[int]) -> None:
    assert sizes(side) == found


@pytest.mark.parametrize(("images", "batch"), [(3, 2), (100, 50), (256, 128), (1_300_000, 128)])
def test_a_batch_has_at_most_half_of_the_images(images: int, batch: int) -> None:
    assert batch_size(images) == batch


def test_there_are_never_more_clusters_than_different_images() -> None:
    assert clusters(1437, 1437) == 57
    assert clusters(50_000, 50_000) == 335
    assert clusters(50_000, 40) == 40
    assert clusters(2, 2) == 2


@pytest.mark.parametrize("seconds", [1.0, 30.0, 100.0, 10_000.0])
def test_few_labels_get_few_steps(seconds: float) -> None:
    found = from_labels(seconds, 50, 1000, speed(64), 3, 0.0).settings
    assert FEW <= found["finetune.steps"] <= MANY
    assert found["distill.steps"] >= FEW
    assert found["finetune.baseline_steps"] == UNTRAINED * found["finetune.steps"]


@pytest.mark.parametrize("look", [0.0, 0.001])
def test_what_few_labels_cannot_use_goes_to_the_first_training(look: float) -> None:
    """With much time, all trainings on the few labels get their most steps, and the teacher the rest."""
    used = foreign(32, look) if look else speed(32)
    first = "transfer" if look else "pretext"
    short, long = (shares(used, seconds, 3) for seconds in (60.0, 6000.0))
    assert sum(short.values()) == pytest.approx(1)
    assert sum(long.values()) == pytest.approx(1)
    assert short["contenders"] / short["distill"] == pytest.approx(SHARES["contenders"] / SHARES["distill"])
    assert (short["distill"], short[first] < long[first]) == (pytest.approx(long["distill"]), True)
    # These are the steps that 5 labels per class get at most, and the plan of the labels takes no more.
    steps = 4 * MANY * (used.tuned + (0 if look else used.tuned_teacher))
    steps += (4 + CHOICES) * MANY * UNTRAINED_RARE * used.tuned
    assert long["contenders"] * 6000 == pytest.approx(steps)
    rest = from_labels(6000 * (1 - long["pretext" if not look else first]), 50, 1000, used, 3, 6000.0)
    assert rest.settings["finetune.steps"] == MANY


@pytest.mark.parametrize("look", [0.0, 0.002])
def test_short_budgets_keep_the_fewest_steps_of_the_few_labels(look: float) -> None:
    """The first training gives what they need. So a run takes its minutes on slow machines, too."""
    used = foreign(32, look) if look else speed(32)
    needed = FEW * (4 + (4 + CHOICES) * UNTRAINED_RARE) * used.tuned
    seconds = (1.4 if look else 2) * needed
    parts = shares(used, seconds, 3)
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["contenders"] * seconds == pytest.approx(needed)
    assert 0 < parts["transfer" if look else "pretext"] < SHARES["pretext"]
    left = seconds * (parts["contenders"] + parts["distill"])
    rest = from_labels(left, 50, 1000, used, 3, seconds, classes=10).settings
    spent = (4 * rest["finetune.steps"] + 6 * rest["finetune.baseline_steps"]) * used.tuned
    spent += rest["distill.steps"] * used.distill
    assert rest["finetune.steps"] == FEW
    assert spent <= 1.02 * left


def test_the_teacher_of_small_images_is_wider_if_there_is_time() -> None:
    """It then still has at least PLENTY steps. What the user has set stays."""

    def trial(work: Work) -> Measured:
        seconds = {"step": 0.05, "pass": 1e-4}.get(work.kind, 1e-12)
        if isinstance(work, Step) and work.section == "pretext":
            seconds *= work.network.forward / 5e7
        return Measured(work, 1.0 if work.kind == "chores" else seconds)

    def widths(minutes: float, side: int, images: int = 1000, **keep: Any) -> tuple[Any, ...]:
        pace = Pace(trial=trial, clock=lambda: 0.0)
        asked = settings(**keep) | {"minutes": minutes}
        told = (images, images, 5, side, KIND, 1.0, 1.0, pace, LEAST)
        found = plan_stage._plan(asked, *told, train=images, teacher=None)["settings"]
        return tuple(found.get(f"pretext.{name}") for name in ("width", "batch_size", "steps"))

    for images, expected in ((1000, 128), (50_000, LARGE)):
        width, batch, steps = widths(60, 32, images)
        assert (width, batch) == (WIDER, expected)
        assert steps >= PLENTY
    assert widths(60, 32, 50_000, pretext__batch_size=64)[:2] == (WIDER, None)
    assert widths(3, 32)[0] is None
    assert widths(60, 500)[0] is None  # larger images come first
    assert widths(60, 32, pretext__width=1.0)[0] is None
    assert widths(60, 32, pretext__steps=5000) == (None, 128, None)


def test_late_trainings_keep_most_of_their_share() -> None:
    """If the first trainings took all the time, the others still get 0.8 and 0.5 of their shares."""
    used, whole = speed(32), 240.0
    late = from_labels(5.0, 50, 1000, used, 3, whole).settings
    steps = late["finetune.steps"] + (4 + CHOICES) / 4 * late["finetune.baseline_steps"]
    taken = 4 * steps * used.tuned + 4 * late["ship.teacher"] * late["finetune.steps"] * used.tuned_teacher
    assert taken == pytest.approx(KEPT["contenders"] * SHARES["contenders"] * whole, rel=0.1)
    assert late["distill.steps"] * used.distill == pytest.approx(
        KEPT["distill"] * SHARES["distill"] * whole, rel=0.05
    )


def test_rounds_share_the_time_of_distillation() -> None:
    one, two = (from_labels(100.0, 50, 1000, speed(64), 3, 0.0, rounds=r).settings for r in (1, 2))
    assert two["distill.steps"] == one["distill.steps"] // 2
    assert {**two, "distill.steps": 0} == {**one, "distill.steps": 0}
    assert from_labels(1.0, 50, 1000, speed(64), 3, 0.0, rounds=2).settings["distill.steps"] == FEW


@pytest.mark.parametrize(
    ("labels", "images", "batch"), [(5, 1000, 5), (50, 1000, 32), (1600, 50_000, 100), (9000, 50_000, 128)]
)
def test_many_labels_get_larger_batches_and_more_steps(labels: int, images: int, batch: int) -> None:
    assert labelled_batch(labels, images) == batch
    found = from_labels(1e6, labels, images, speed(32), 3, 0.0).settings
    assert found["finetune.batch_size"] == batch
    assert found["finetune.steps"] == max(MANY, round(10 * labels / batch))


def test_with_one_label_per_class_no_folds_are_trained() -> None:
    """The time goes into longer trainings, and into distillation."""
    used = speed(32)
    for seconds in (20.0, 100.0, 400.0):
        found = from_labels(seconds, 10, 1000, used, 0, 0.0).settings
        steps = found["finetune.steps"]
        spent = steps * (used.tuned + found["ship.teacher"] * used.tuned_teacher)
        spent += found["finetune.baseline_steps"] * used.tuned + found["distill.steps"] * used.distill
        assert spent == pytest.approx(seconds, rel=0.02)
        assert (
            steps > from_labels(seconds, 10, 1000, used, 3, 0.0).settings["finetune.steps"] or steps == MANY
        )


def test_only_labels_that_fold_are_planned_for() -> None:
    config = override(recipe("photos"), {"finetune": {"batch_size": 64}})
    manifest, first = (Artifact(kind=kind, fingerprint="a") for kind in ("manifest", "plan"))
    one, two = (plan_labels.plan(config, manifest, first, labels=[1, n]).settings for n in (1, 2))
    assert (one["folds"], two["folds"]) == (0, config.ship.folds)
    assert (one["labels"], two["labels"]) == (2, 3)
    assert one["batch_size"] == 64
    assert "batch_size" not in plan_labels.plan(recipe("photos"), manifest, first, labels=[5]).settings


def test_larger_batches_of_the_user_get_fewer_steps() -> None:
    used = speed(32)
    usual, large = (from_labels(60.0, 200, 1000, used, 3, 0.0, batch).settings for batch in (None, 128))
    assert usual["finetune.batch_size"] == large["finetune.batch_size"] == 32  # the user's wins later
    # A step of 128 images takes as long as one of distillation, twice that of 32.
    assert large["finetune.steps"] == pytest.approx(usual["finetune.steps"] / 2, abs=1)


def test_the_teacher_is_fine_tuned_only_if_there_is_time() -> None:
    assert not from_labels(20.0, 50, 1000, speed(64), 3, 0.0).settings["ship.teacher"]
    assert from_labels(900.0, 50, 1000, speed(64), 3, 0.0).settings["ship.teacher"]


def test_with_few_labels_per_class_the_time_goes_to_networks_from_scratch() -> None:
    """The teacher is fine-tuned only when all others have as many steps as they can use."""
    used = speed(32)
    for seconds in (30.0, 100.0, 10_000.0):
        few, many = (from_labels(seconds, 50, 1000, used, 3, 0.0, classes=c).settings for c in (10, 5))
        assert few["finetune.baseline_steps"] == UNTRAINED_RARE * few["finetune.steps"]
        assert many["finetune.baseline_steps"] == UNTRAINED * many["finetune.steps"]
        assert few["finetune.baseline_steps"] > many["finetune.baseline_steps"]
        assert few["ship.teacher"] == (few["finetune.steps"] == MANY)
    told = from_labels(100.0, 50, 1000, used, 3, 0.0, classes=10).because
    assert "fewer than 10 labels per class" in told["finetune.baseline_steps"]
    assert told["ship.teacher"].endswith("would leave the others too few steps")


def test_what_the_user_set_is_neither_planned_nor_explained() -> None:
    """Epochs that the user set are not overruled by steps."""
    because = {"pretext.steps": "a share", "cluster.k": "a root", "ship.teacher": "it fits"}
    planned = Planned(
        {"pretext.steps": 10, "distill.steps": 5, "cluster.k": 3, "ship.teacher": True}, because
    )
    kept = planned.without({"pretext.epochs", "cluster.k"})
    assert kept.settings == {"distill.steps": 5, "ship.teacher": True}
    assert kept.lines == ["ship.teacher=true: it fits"]
