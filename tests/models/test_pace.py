"""How the pace of a machine is measured, and what is computed from it. No test looks at a real clock."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from models.configs import PRETEXT, TRANSFER
from models.configs.distill import Distill
from models.configs.evaluations import NonLinear
from models.configs.finetune import Finetune
from models.configs.shared import Teacher
from models.cost import Cost, classifier_cost, network_cost, network_of, pretext_cost, transfer_cost
from models.method import make_pretext
from models.pace import IGNORED, Pace
from models.trials import ALONE, LARGEST, ROUNDS, Lap, Measured, calmest, method_of, parts
from models.work import Chores, Describe, Imports, Pass, Portion, Products, Shape, Step, Work, timed


def shape(backbone: str = "smallconv", forward: float = 1e6, parameters: int = 1000) -> Shape:
    return Shape(backbone=backbone, width=1.0, image_size=16, parameters=parameters, forward=forward)


def step(network: Shape, batch_size: int = 8, **settings: Any) -> Step:
    return Step(
        section="finetune",
        settings=timed(settings),
        network=network,
        batch_size=batch_size,
        precision="fp32",
        operations=3 * network.forward * batch_size,
    )


def passed(network: Shape) -> Pass:
    return Pass(network=network, batch_size=8, precision="fp32", operations=network.forward)


class Trials:
    """Says how long work takes, without doing it, and moves its clock on by one second per trial."""

    def __init__(self, seconds: Callable[[Work], float | None]) -> None:
        self.seconds, self.asked, self.now = seconds, list[Work](), 0.0

    def __call__(self, work: Work) -> Measured | None:
        self.asked.append(work)
        self.now += 1
        found = self.seconds(work)
        return None if found is None else Measured(work, found, between=found / 10)

    def pace(self, budget: float = 100.0) -> Pace:
        return Pace(budget, self, lambda: self.now)


def test_seconds_are_steps_and_images_between_epochs() -> None:
    pace = Trials(lambda work: 0.5).pace()
    work = step(shape())
    pace.measure([Portion(work, 1)])
    assert pace.seconds(Portion(work, 30, swept=400)) == pytest.approx(30 * 0.5 + 400 * 0.05)


def test_the_same_step_is_measured_once_whatever_its_rates_and_epochs() -> None:
    trials = Trials(lambda work: 0.5)
    pace = trials.pace()
    for settings in ({"learning_rate": 0.1, "steps": 3}, {"learning_rate": 0.2, "warmup": 0.5}):
        pace.measure([Portion(step(shape(), **settings), 100)])
    assert len(trials.asked) == 1
    pace.measure([Portion(step(shape(), jitter=0.3), 1000)])  # other views take another time
    assert len(trials.asked) == 2


def test_what_takes_longest_is_measured_first_and_what_does_not_matter_is_not() -> None:
    trials = Trials(lambda work: 1.0)
    pace = trials.pace()
    first, second, little = (step(shape(forward=1e9 * n)) for n in (1, 2, 3))
    pace.measure([Portion(second, 50), Portion(first, 1000), Portion(little, 1000 * IGNORED / 40)])
    assert trials.asked == [first, second]
    # At the pace of `second`, which is more like it than `first`: 3 / 2 of its operations.
    assert pace.seconds(Portion(little, 2)) == pytest.approx(2 * 1.5)


def test_a_network_that_nothing_is_known_of_is_measured_although_it_has_few_operations() -> None:
    large, small = step(shape("resnet18", forward=1e9)), step(shape("mobilenet_v3", forward=1e6))
    for share, measured in ((0.1, True), (0.01, False)):
        trials = Trials(lambda work: 1.0)
        pace = trials.pace()
        # `small` takes this share of what may be ignored, at the pace of `large`, 20 times that in doubt.
        pace.measure([Portion(large, 100), Portion(small, share * IGNORED * 100 * 1e9 / 1e6)])
        assert trials.asked[0] == large
        assert pace.measured(small) == measured


def test_no_measurement_begins_after_the_budget() -> None:
    trials = Trials(lambda work: 1.0)
    pace = trials.pace(budget=2.5)
    works = [step(shape(forward=1e9 * 2**n)) for n in range(10)]
    pace.measure([Portion(work, 10) for work in works])
    assert len(trials.asked) == 3
    assert pace.spent == 3
    pace.measure([Portion(work, 10) for work in works])
    assert len(trials.asked) == 3


def test_work_that_cannot_be_tried_has_the_pace_of_the_same_backbone() -> None:
    untried = passed(shape("resnet18", forward=1e9))
    trials = Trials(lambda work: None if work == untried else 2.0)
    pace = trials.pace()
    alike, other = step(shape("resnet18", forward=7e9)), passed(shape("smallconv", forward=1e9))
    pace.measure([Portion(alike, 1), Portion(other, 1000), Portion(untried, 1000)])
    assert untried in trials.asked
    assert not pace.measured(untried)
    assert pace.seconds(Portion(untried, 10)) == pytest.approx(10 * 1e9 * 2.0 / alike.operations)


def test_without_any_measurement_there_is_still_a_figure() -> None:
    pace = Trials(lambda work: None).pace()
    described = Describe(settings={"method": "hog"}, image_size=16)
    works = (step(shape()), passed(shape()), described, Products(), Chores(), Imports())
    portions = [Portion(work, 10) for work in works]
    pace.measure(portions)
    assert all(pace.seconds(portion) > 0 for portion in portions)
    assert pace.seconds(Portion(Imports(), 7)) == 7


def test_imports_are_told() -> None:
    pace = Pace()
    pace.imported(8.0)
    assert pace.seconds(Portion(Imports(), 3)) == pytest.approx(6)


def test_a_pace_is_kept_as_json() -> None:
    trials = Trials(lambda work: None if isinstance(work, Pass) else 0.25)
    pace = trials.pace()
    portions = [Portion(step(shape()), 10, swept=3), Portion(passed(shape()), 5), Portion(Products(), 1e9)]
    pace.measure(portions)
    kept = json.loads(json.dumps(pace.as_json()))

    def never(work: Work) -> Measured | None:
        raise AssertionError("it is known")

    again = Pace(trial=never)
    again.learn(kept)
    again.measure(portions)
    assert [again.seconds(each) for each in portions] == [pace.seconds(each) for each in portions]
    assert again.as_json() == kept
    assert again.spent == 0


def test_load_is_the_time_in_which_the_thread_did_not_run() -> None:
    assert Lap(2.0, 2.0).load == 1
    assert Lap(2.0, 2.0 * ALONE).load == pytest.approx(1)
    assert Lap(2.0, 1.0 * ALONE).load == pytest.approx(2)
    assert Lap(2.0, 1.0 * ALONE, limited=True).load == 1


def test_work_is_tried_again_while_others_disturb_it_and_the_fastest_trial_counts() -> None:
    for seconds, counts, trials in (
        ((1.0, 5.0), 1.0, 1),
        ((4.0, 1.0, 5.0), 1.0, 2),
        ((4.0, 2.0, 3.0, 1.0), 2.0, ROUNDS),
    ):
        laps = [Lap(each, 1.0) for each in seconds]
        assert calmest(iter(laps).__next__).seconds == counts
        assert laps.index(Lap(counts, 1.0)) < trials
        again = iter(laps)
        calmest(again.__next__)
        assert len([*again]) == len(laps) - trials


def test_a_limit_on_the_cpu_time_is_no_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container may not use is not there, now or later. So its machine is as slow as it looks."""
    stat, stops = tmp_path / "cpu.stat", 7
    monkeypatch.setattr("models.trials.LIMITS", (str(tmp_path / "missing"), str(stat)))

    def trial(more: int) -> Lap:
        nonlocal stops
        stops += more
        stat.write_text(f"usage_usec 5\nnr_throttled {stops}\nthrottled_usec 3\n")
        return Lap(4.0, 1.0)

    trial(0)
    assert calmest(lambda: trial(1)).load == 1
    assert calmest(lambda: trial(0)).load == pytest.approx(4 * ALONE)


def test_seconds_are_those_of_now_and_alone_leaves_out_what_others_took() -> None:
    busy, calm, untried = (step(shape(forward=1e6 * n)) for n in (1, 2, 3))

    def trial(work: Work) -> Measured:
        return Measured(work, 2.0, between=0.5, load=4.0 if work == busy else 1.0)

    pace = Pace(trial=trial, clock=lambda: 0.0)
    assert pace.taken == 0
    pace.know(busy)
    pace.know(calm)
    assert pace.seconds(Portion(busy, 3, swept=8)) == pytest.approx(10)
    assert pace.alone(Portion(busy, 3, swept=8)) == pytest.approx(2.5)
    assert pace.alone(Portion(calm, 3)) == pace.seconds(Portion(calm, 3))
    assert pace.taken == pytest.approx((0.75 + 0) / 2)
    # Work that is not measured is like the nearest one, which was not disturbed.
    assert pace.alone(Portion(untried, 3)) == pace.seconds(Portion(untried, 3)) == pytest.approx(9)
    kept = pace.as_json()
    again = Pace()
    again.learn(json.loads(json.dumps(kept)))
    assert again.alone(Portion(busy, 3)) == pace.alone(Portion(busy, 3))
    for row in kept["measured"]:
        del row["load"]  # as older versions wrote it
    older = Pace()
    older.learn(kept)
    assert older.taken == 0


def test_a_step_is_a_fixed_part_and_a_part_for_each_image() -> None:
    fixed, each = 0.2, 0.01  # of the optimizer, and of each image

    def taken(images: int) -> tuple[int, float]:
        return images, fixed + each * images

    assert parts(taken(16), taken(64)) == pytest.approx((each, fixed))
    # One trial: all of its time is that of its images.
    assert parts((16, 1.0), (16, 1.0)) == pytest.approx((1 / 16, 0))
    # Trials that contradict each other: a tenth of the time, or all of it, is that of the images.
    assert parts((16, 2.0), (32, 1.0)) == pytest.approx((0.1 / 32, 0.9))
    assert parts((16, 0.1), (32, 1.0)) == pytest.approx((1 / 32, 0))


def test_a_student_is_measured_once_whatever_labels_it_learns_and_however_many_images() -> None:
    network = shape(forward=1e6, parameters=100)
    few = step(network, 8, optimizer="muon", jitter=0.5)
    many = few.model_copy(update={"section": "distill", "batch_size": 64, "operations": few.operations * 8})
    asked: list[Work] = []

    def trial(work: Work) -> Measured:
        asked.append(work)
        return Measured(work, 1.0, fixed=0.6)

    pace = Pace(trial=trial, clock=lambda: 0.0)
    pace.measure([Portion(few, 100), Portion(many, 10)])
    assert asked == [few]
    assert pace.measured(many)
    assert pace.seconds(Portion(few, 1)) == 1.0
    assert pace.seconds(Portion(many, 1)) == pytest.approx(0.6 + 8 * 0.4)
    for other in (
        few.model_copy(update={"settings": {"optimizer": "sgd", "jitter": 0.5}}),
        few.model_copy(update={"settings": {"optimizer": "muon", "jitter": 0.0}}),
        few.model_copy(update={"network": shape(forward=2e6)}),
        few.model_copy(update={"teacher": network}),
    ):
        assert not pace.measured(other)


def test_networks_that_are_too_large_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.trials.network_of", lambda given: pytest.fail("built"))
    assert Pace().know(passed(shape(parameters=LARGEST + 1))) is None
    assert Pace().know(passed(shape(forward=1e15))) is None


SMALL: dict[str, Any] = {"width": 0.25, "batch_size": 8}
FITTING: dict[str, dict[str, Any]] = {
    "jigsaw++": {"backbone": "smallconv", "permutations": 4},
    "jigsaw": {"backbone": "smallconv", "permutations": 4},
    "deepcluster": {"clusters": 4},
    "deepcluster-v2": {"prototypes": 4},
    "moco": {"queue": 16},
    "swav": {"prototypes": 4},
    "sela": {"clusters": 4},
}
"""Settings that make a step of a method fast."""


def of(cost: Cost, section: Any, settings: dict[str, Any], batch_size: int = 8, **more: Any) -> Step:
    return Step(
        section=section,
        settings=timed(settings),
        network=cost.shape.model_copy(update={"pretext": None}) if section == "pretext" else cost.shape,
        batch_size=batch_size,
        precision="auto",
        operations=cost.step * batch_size,
        **more,
    )


@pytest.mark.parametrize("name", [name for name, model in PRETEXT.items() if issubclass(model, Teacher)])
def test_every_pretext_method_is_tried_on_random_images(name: str) -> None:
    config: Any = PRETEXT[name].model_validate(SMALL | FITTING.get(name, {}))
    work = of(pretext_cost(config, 32), "pretext", config.model_dump())
    found = Pace().know(work)
    assert found is not None
    assert found.seconds > 0
    assert found.between >= 0
    made, trained = method_of(work, 8), make_pretext(config, 32, seed=0)
    assert {n: p.shape for n, p in made.named_parameters()} == {
        n: p.shape for n, p in trained.named_parameters()
    }


@pytest.mark.parametrize("name", list(TRANSFER))
def test_every_transfer_method_is_tried_on_random_images(name: str) -> None:
    config: Any = TRANSFER[name].model_validate({"batch_size": 8} | ({"queue": 16} if name == "seed" else {}))
    teacher: Any = PRETEXT["simclr"].model_validate(SMALL)
    learned = pretext_cost(teacher, 32)
    backbone = "reactnet" if name == "s2bnn" else "smallconv"
    if config.reads == "teacher":
        cost, told = transfer_cost(config, backbone, 0.25, 32, learned.shape), {"teacher": learned.shape}
    else:
        cost, told = classifier_cost(backbone, 0.25, 32, 5), {}
    for phase in config.phases:
        more = told | ({"phase": phase} if len(config.phases) > 1 else {})
        found = Pace().know(of(cost, "transfer", config.model_dump(), **more))
        assert found is not None
        assert found.seconds > 0


def test_trainings_on_labels_are_tried() -> None:
    cost = classifier_cost("smallconv", 0.25, 32, 5)
    for section, config in (
        ("finetune", Finetune()),
        ("distill", Distill(alpha=0.5)),
        ("nonlinear", NonLinear()),
    ):
        found = Pace().know(of(cost, section, config.model_dump()))
        assert found is not None
        assert found.seconds > 0


def test_descriptors_products_and_chores_are_tried() -> None:
    pace = Pace()
    for work in (Describe(settings={"method": "hog"}, image_size=16), Products(), Chores()):
        found = pace.know(work)
        assert found is not None
        assert found.seconds > 0


@pytest.mark.parametrize("views", [None, {"jitter": 0.0}])
def test_passes_are_tried(views: dict[str, Any] | None) -> None:
    cost = classifier_cost("smallconv", 0.25, 32, 5)
    found = Pace().know(
        Pass(network=cost.shape, views=views, batch_size=8, precision="auto", operations=cost.forward)
    )
    assert found is not None
    assert found.seconds > 0


def test_a_network_is_built_like_the_one_that_its_shape_was_taken_from() -> None:
    config: Any = PRETEXT["jigsaw"].model_validate(SMALL | FITTING["jigsaw"])
    for cost in (classifier_cost("smallconv", 0.5, 32, 7), pretext_cost(config, 48)):
        built: nn.Module = network_of(cost.shape)
        assert sum(p.numel() for p in built.parameters()) == cost.parameters
    tile = make_pretext(config, 48, seed=0).network
    assert network_of(pretext_cost(config, 48).shape).description() == tile.description()


def test_a_foreign_network_is_measured_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its own size, in its own form, and with one image if many would take too long."""
    from models.network import Description, Network

    described = Description(backbone="resnet18", width=0.25, image_size=32, form=64, resized=40)
    cost = network_cost(Network(described))
    assert (cost.shape.form, cost.shape.resized) == (64, 40)
    built = network_of(cost.shape)
    assert built.own_input
    assert built.description() == Network(described).description()
    seen: list[int] = []
    features = Network.features

    def count(network: Network, x: Any, layer: str = "features") -> Any:
        seen.append(len(x))
        assert x.shape[2:] == (32, 32)
        return features(network, x, layer)

    monkeypatch.setattr(Network, "features", count)
    monkeypatch.setattr("models.trials.TRIAL", 0.0)
    work = passed(cost.shape)
    each = Pace().seconds(Portion(work, 1))
    monkeypatch.setattr("models.trials.LONGEST", 3.5 * each)
    found = Pace().know(work)
    assert found is not None
    assert seen == [1, 1]
    monkeypatch.setattr("models.trials.LONGEST", 2.5 * each)
    assert Pace().know(work) is None


@pytest.mark.parametrize("name", ["seed", "simreg", "s2bnn"])
def test_students_of_a_foreign_teacher_are_tried_on_random_images(name: str) -> None:
    from models.network import Description, Network

    teacher = network_cost(
        Network(Description(backbone="smallconv", width=0.25, image_size=48, resized=56))
    ).shape
    config: Any = TRANSFER[name].model_validate({"batch_size": 8} | ({"queue": 16} if name == "seed" else {}))
    cost = transfer_cost(config, "reactnet" if name == "s2bnn" else "smallconv", 0.25, 32, teacher)
    for phase in config.phases:
        more = {"phase": phase} if len(config.phases) > 1 else {}
        found = Pace().know(of(cost, "transfer", config.model_dump(), teacher=teacher, **more))
        assert found is not None
        assert found.seconds > 0
