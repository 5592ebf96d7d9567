"""The recipe photos: planned for the minutes, for this machine, and around what the user sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from in_process import Workers, photographs, run_chain
from PIL import Image

from data.errors import ConfigError
from data.kind import Suggestion
from flows.as_yaml import plain
from flows.estimate import Estimate, Looked, estimate
from flows.recipes import override, parse_settings, planned, recipe
from flows.run import Run
from models.pace import Pace
from models.trials import Measured
from models.work import Pass, Step, Work
from tasks.config import Config
from tasks.stages import manifest
from tasks.stages import plan as plan_stage


def given(work: Work) -> Measured:
    """A machine with 30 billion operations per second in training."""
    if isinstance(work, Step):
        return Measured(work, work.operations / 3e10)
    if isinstance(work, Pass):
        return Measured(work, 0.0005)
    return Measured(work, 1e-12 if work.kind == "products" else 1.0)


def configured(place: Path, *settings: str) -> Config:
    words = [f"data.train=folder:{place / 'photos'}", f"store={place / 'store'}", *settings]
    return override(recipe("photos"), parse_settings(words))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    photographs(tmp_path / "photos", each=150, side=70)
    return tmp_path


@pytest.fixture(autouse=True)
def _everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pace.IGNORED", 0.0)
    monkeypatch.setattr("models.pace._alike", lambda work, other: False)


def dry(config: Config, surveys: dict[str, Looked] | None = None) -> Estimate:
    pace = Pace(trial=given)
    pace.imported(4.0)
    return estimate(config, pace=pace, seconds=0.5, surveys=surveys)


def plan(found: Estimate) -> dict[str, str]:
    """key -> value of the plan's lines that begin with one."""
    lines = (line.removeprefix("plan: ") for line in found.understood if line.startswith("plan: "))
    begun = (line.partition(":")[0].split(" ")[0] for line in lines)
    return dict(words.split("=") for words in begun if "=" in words)


@pytest.mark.parametrize("minutes", [3, 5, 20, 60])
def test_the_dry_run_of_a_plan_takes_the_minutes(place: Path, minutes: int) -> None:
    """The plan and the dry run count independently: steps and passes on one side, stages on the other."""
    found = dry(configured(place, f"plan.minutes={minutes}"))
    assert found.seconds == pytest.approx(60 * minutes, rel=0.15)
    assert {"plan-images", "plan-labels", "weigh", "ship"} <= {row.stage for row in found.rows}


def test_what_the_user_sets_stays(place: Path) -> None:
    free = plan(dry(configured(place, "plan.minutes=5")))
    assert free["data.image_size"] in ("32", "48", "64")
    found = dry(configured(place, "plan.minutes=5", "data.image_size=40", "cluster.k=7"))
    assert found.seconds == pytest.approx(300, rel=0.15)
    config = configured(place, "plan.minutes=5", "data.image_size=40", "cluster.k=7")
    assert {"data.image_size", "cluster.k"} <= set(config.plan.keep)


def test_a_key_set_to_the_recipes_value_stays_too(place: Path) -> None:
    usual = recipe("photos").student.width
    assert "student.width" in configured(place, f"student.width={usual}").plan.keep


def test_a_kind_gives_all_stages_its_views_but_for_keys_set_by_hand(place: Path) -> None:
    config = configured(place, "distill.flip=0.25")
    found = planned(config, {"data.kind": "symbols", "pretext.steps": 10})
    assert (found.pretext.model_dump()["flip"], found.finetune.flip, found.distill.flip) == (0.0, 0.0, 0.25)
    assert found.pretext.model_dump()["steps"] == 10


def test_another_method_is_planned_as_well(place: Path) -> None:
    found = dry(configured(place, "plan.minutes=5", "pretext.method=moco", "pretext.queue=64"))
    assert found.seconds == pytest.approx(300, rel=0.2)


def test_steps_are_planned_with_the_views_that_they_will_have(place: Path) -> None:
    """What the plan has measured at the chosen size is what the stages do, so nothing is measured twice."""
    asked: list[Step] = []

    def trial(work: Work) -> Measured:
        asked.extend([work] if isinstance(work, Step) else [])
        return given(work)

    pace = Pace(trial=trial)
    pace.imported(4.0)
    found = estimate(configured(place, "plan.minutes=5"), pace=pace, seconds=0.5)
    size = int(plan(found)["data.image_size"])
    for section in ("pretext", "distill"):
        assert len([w for w in asked if w.section == section and w.network.image_size == size]) == 1


def test_a_dry_run_says_what_others_took_of_the_machine(place: Path) -> None:
    """The plan is for the machine alone, and the estimate for the machine as it is now."""
    looked: dict[str, Looked] = {}  # the time that reading takes is measured once
    calm = dry(configured(place, "plan.minutes=5"), looked)

    def busy(work: Work) -> Measured:
        found = given(work)
        load = 2.0 if isinstance(work, Step | Pass) else 1.0
        return replace(found, seconds=load * found.seconds, load=load)

    pace = Pace(trial=busy)
    pace.imported(4.0)
    found = estimate(configured(place, "plan.minutes=5"), pace=pace, seconds=0.5, surveys=looked)
    assert plan(calm) == plan(found)
    assert calm.seconds + 100 < found.seconds < 2 * calm.seconds
    told = "measured under load: at least 50 % of the CPU was taken by other programs"
    assert any(line.startswith(f"plan: {told}") for line in found.understood)
    assert told in found.as_text().split("to compute")[1]
    assert "under load" not in calm.as_text()


@pytest.mark.parametrize("size", [64, 24, 96])
def test_a_dry_run_looks_at_what_the_run_looks_at_and_follows_a_plan_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However slow the machine is in a later dry run: the run would measure nothing either."""
    noise = np.random.default_rng(0)  # no image shows another one's picture
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            image = Image.fromarray(noise.integers(0, 256, (70, 80, 3), np.uint8))
            image.save(tmp_path / "photos" / name / f"{number}.png")
    looked: list[np.ndarray] = []
    suggestion = Suggestion("satellite", "a test says so", True)
    monkeypatch.setattr("data.kind.suggest", lambda pixels: looked.append(pixels) or suggestion)
    monkeypatch.setattr("models.pace.Pace._try", lambda self, work: given(work))
    config = configured(tmp_path, "plan.minutes=20", f"data.image_size={size}")
    before = estimate(config, pace=Pace(trial=given), seconds=None)
    with Run(config, "run", []) as record:
        workers = Workers(config, record)
        record.workers = workers  # type: ignore[assignment]
        images, _ = record.make("manifest", manifest.plan(config))
        made, _ = record.make("plan-images", plan_stage.plan(config, images))
    first, second = looked
    assert first.shape == second.shape
    assert len(first) == record.store.meta(images)["counts"]["train"]
    if size <= 64:
        assert np.array_equal(first, second)
    settings = record.store.meta(made)["settings"]
    assert settings["data.kind"] == plan(before)["data.kind"] == "satellite"
    slow = Pace(trial=lambda work: Measured(work, 1000.0))
    found = estimate(config, pace=slow, seconds=0.5)
    assert len(looked) == 2
    assert next(row.in_store for row in found.rows if row.stage == "plan-images")
    assert plan(found)["pretext.steps"] == str(settings["pretext.steps"])


def test_a_published_set_that_is_not_here_is_planned(tmp_path: Path) -> None:
    found = dry(
        override(
            recipe("photos"),
            parse_settings(["data.train=torchvision:CIFAR10", f"store={tmp_path}", "plan.minutes=20"]),
        )
    )
    assert "plan-labels" in {row.stage for row in found.rows}


def test_with_one_label_per_class_the_minutes_are_used_too(place: Path) -> None:
    found = dry(configured(place, "plan.minutes=5", "data.labels_per_class=1"))
    assert found.seconds == pytest.approx(300, rel=0.15)


def test_the_whole_configuration_in_a_file_is_still_planned(place: Path) -> None:
    config = configured(place, "plan.minutes=5", "cluster.k=7")
    path = place / "mine.yaml"
    path.write_text(plain(config))
    assert recipe(str(path)) == config
    path.write_text(plain(recipe("photos")))
    assert recipe(str(path)).plan.keep == []
    values: dict[str, Any] = yaml.safe_load(plain(recipe("photos")))
    path.write_text(yaml.safe_dump(values | {"cluster": {"k": 7}}))
    assert recipe(str(path)).plan.keep == ["cluster.k"]


def test_too_few_minutes_are_refused_before_any_work(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"plan.minutes = 0.5 is too short for \d+ images on this machine"):
        dry(configured(place, "plan.minutes=0.5"))


def test_recipes_with_fixed_settings_refuse_minutes() -> None:
    with pytest.raises(ConfigError, match="the recipe digits has fixed settings; use the recipe photos"):
        override(recipe("digits"), {"plan": {"minutes": 5}})


def test_without_labels_only_the_first_part_is_planned(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", each=60, side=70)
    for path in sorted((tmp_path / "photos").glob("*/*.png")):
        path.rename(tmp_path / "photos" / f"{path.parent.name}-{path.name}")
    stages = {row.stage for row in dry(configured(tmp_path, "plan.minutes=5")).rows}
    assert "plan-images" in stages
    assert not stages & {"plan-labels", "weigh", "ship"}


@pytest.mark.slow
def test_a_run_of_photos_follows_its_plan_and_a_rerun_computes_nothing(place: Path) -> None:
    """In one process, so without the time that starts take: the plan, the record, the report, the rerun."""
    config = configured(place, "plan.minutes=2", "data.labels_per_class=4")
    made = run_chain(config)
    record = json.loads((made.folder / "run.json").read_text())
    plans = [made.store.meta(made.made[label]) for label in ("plan-images", "plan-labels")]
    assert record["plan"] == {key: value for meta in plans for key, value in meta["settings"].items()}
    asked = made.store.meta(made.made["pretext"])["config"]
    assert asked["pretext"]["steps"] == record["plan"]["pretext.steps"]
    assert asked["image_size"] == record["plan"]["data.image_size"]
    report = (made.folder / "report.html").read_text()
    assert all(line.partition(":")[0] in report for meta in plans for line in meta["because"])
    assert record["shipped"]["model"]
    again = run_chain(config, "again")
    assert all(row["cached"] for row in again.result["stages"])
