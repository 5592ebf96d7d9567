"""The recipe photos with a teacher that others trained: its own size, its passes, and no pretext training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_weights import timm_folder
from in_process import photographs, run_chain

from data.errors import ConfigError
from data.types import Artifact
from flows.estimate import Estimate, estimate
from flows.recipes import override, parse_settings, planned, recipe
from models.configs.kinds import views_of
from models.configs.regression import Regression
from models.device import OF_FEATURES
from models.pace import Pace
from models.trials import Measured
from models.work import Pass, Step, Work
from tasks.config import Config
from tasks.stages import plan as planning

SIDE = 56
MANIFEST = Artifact(kind="manifest", fingerprint="0" * 64)
TEACHER = Artifact(kind="checkpoint", fingerprint="1" * 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, and the folder of a vision transformer of 56 px with random weights."""
    folder = tmp_path_factory.mktemp("planned")
    photographs(folder / "photos", each=150, side=70)
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": SIDE}
    timm_folder(folder / "vit", "vit_small_patch14_dinov2", **options)
    return folder


@pytest.fixture(autouse=True)
def _everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pace.IGNORED", 0.0)
    monkeypatch.setattr("models.pace._alike", lambda work, other: False)


def configured(place: Path, *settings: str, foreign: bool = True) -> Config:
    words = [f"data.train=folder:{place / 'photos'}", f"store={place / 'store'}"]
    if foreign:
        words += ["pretext.method=pretrained", f"pretext.weights={place / 'vit'}"]
    return override(recipe("photos"), parse_settings([*words, *settings]))


class Machine:
    """A machine on which a step takes as long as it has pixels, and a foreign network a given time.

    Attributes:
        asked: the work that was measured.
    """

    def __init__(self, look: float) -> None:
        self.look, self.asked = look, list[Work]()

    def __call__(self, work: Work) -> Measured:
        self.asked.append(work)
        if isinstance(work, Step):
            size = work.network.image_size
            taught = 0.0 if work.teacher is None else work.batch_size * self.look
            own = 3 * self.look if work.network.own_input else 0.0008 * (size / 32) ** 2
            return Measured(work, work.batch_size * own + taught)
        if isinstance(work, Pass):
            return Measured(work, self.look if work.network.own_input else 0.0005)
        return Measured(work, 1e-12 if work.kind == "products" else 1.0)

    def dry(self, config: Config) -> Estimate:
        """A dry run on this machine."""
        pace = Pace(trial=self)
        pace.imported(4.0)
        return estimate(config, pace=pace, seconds=0.5)


def lines(found: Estimate) -> dict[str, str]:
    """key -> the rest of the plan's line that begins with it."""
    told = (line.removeprefix("plan: ") for line in found.understood if line.startswith("plan: "))
    return {line.partition("=")[0]: line.partition("=")[2] for line in told}


@pytest.mark.parametrize(("minutes", "look"), [(5, 0.001), (5, 0.02), (20, 0.1), (60, 0.5)])
def test_the_dry_run_takes_the_minutes_however_slow_the_teacher(
    place: Path, minutes: int, look: float
) -> None:
    """The plan and the dry run count independently: steps and passes on one side, stages on the other."""
    machine = Machine(look)
    found = machine.dry(configured(place, f"plan.minutes={minutes}"))
    assert found.seconds == pytest.approx(60 * minutes, rel=0.15)
    told = lines(found)
    assert "pretext.steps" not in told
    assert "the teacher is not trained, and its features take about" in told["transfer.steps"]
    order = [row.stage for row in found.rows]
    assert order.index("pretext") < order.index("plan-images") < order.index("embed") < order.index("sound")
    assert {"linear-teacher", "weigh", "distill", "ship"} <= set(order)


def test_the_teacher_is_measured_at_its_own_size(place: Path) -> None:
    machine = Machine(0.01)
    found = machine.dry(configured(place, "plan.minutes=20", "data.image_size=32"))
    foreign = [work for work in machine.asked if isinstance(work, Step | Pass) and work.network.own_input]
    assert {work.network.image_size for work in foreign} == {SIDE}
    assert {work.precision for work in foreign if isinstance(work, Pass)} >= {OF_FEATURES}
    tuned = [work for work in foreign if isinstance(work, Step)]
    assert tuned
    assert {work.settings["view_size"] for work in tuned} == {None}  # 24 px would be for the student
    own = [work for work in machine.asked if isinstance(work, Step) and not work.network.own_input]
    assert {work.network.image_size for work in own} == {32}
    assert "ship.teacher" in lines(found)


def test_a_slow_teacher_is_not_fine_tuned_but_still_used(place: Path) -> None:
    fast, slow = (Machine(look).dry(configured(place, "plan.minutes=20")) for look in (0.001, 0.25))
    assert lines(fast)["ship.teacher"].startswith("true")
    assert lines(slow)["ship.teacher"].startswith("false")
    assert {"embed", "linear-teacher"} <= {row.stage for row in slow.rows}
    assert "finetune-teacher" in {stage.stage for stage in slow.not_needed}


def test_features_that_cannot_fit_are_refused_with_the_least_minutes(place: Path) -> None:
    machine = Machine(1.0)
    with pytest.raises(ConfigError, match=r"the features of the teacher alone take \d+ min") as caught:
        machine.dry(configured(place, "plan.minutes=10"))
    least = float(str(caught.value).partition("set at least ")[2].split()[0])
    assert least > 20
    enough = configured(place, f"plan.minutes={least + 0.1:g}")  # reading is measured, and varies a little
    assert lines(machine.dry(enough))["transfer.steps"]
    with pytest.raises(ConfigError, match="too short"):
        machine.dry(configured(place, f"plan.minutes={least - 0.15:g}"))
    # The head needs no training, so it fits into less. What does not even leave time for features does not.
    shorter = configured(place, f"plan.minutes={least - 0.15:g}", "until=head")
    assert {"embed", "head"} <= {row.stage for row in machine.dry(shorter).rows}
    with pytest.raises(ConfigError, match="too short"):
        machine.dry(configured(place, "plan.minutes=10", "until=head"))


@pytest.mark.parametrize("by", ["seed", "s2bnn"])
def test_students_that_learn_from_the_teacher_itself_are_planned(place: Path, by: str) -> None:
    """Their steps show the teacher images, too, and s2bnn has two trainings."""
    machine = Machine(0.002)
    student = ["student.backbone=reactnet", "student.width=0.25"] if by == "s2bnn" else []
    found = machine.dry(
        configured(place, "plan.minutes=20", f"transfer.method={by}", "transfer.queue=64", *student)
    )
    assert found.seconds == pytest.approx(1200, rel=0.15)
    taught = [work for work in machine.asked if isinstance(work, Step) and work.teacher is not None]
    assert {work.teacher.image_size for work in taught if work.teacher} == {SIDE}
    assert {work.phase for work in taught} == ({"activations", "weights"} if by == "s2bnn" else {None})


def test_a_student_of_our_own_teacher_itself_is_planned(place: Path) -> None:
    machine = Machine(0.0)
    config = configured(place, "plan.minutes=5", "transfer.method=seed", "transfer.queue=64", foreign=False)
    found = machine.dry(config)
    assert found.seconds == pytest.approx(300, rel=0.2)
    assert any(isinstance(work, Step) and work.teacher is not None for work in machine.asked)


def test_a_training_that_continues_is_planned(place: Path) -> None:
    backbone = "timm:vit_small_patch14_dinov2?depth=2&embed_dim=48&num_heads=3"
    given = (f"pretext.weights={place / 'vit'}", f"pretext.backbone={backbone}", "plan.minutes=5")
    machine = Machine(0.0)
    with pytest.raises(ConfigError, match=r"gives no maps of images of \d+ px"):  # no size fits its patches
        machine.dry(configured(place, *given, foreign=False))
    found = machine.dry(configured(place, *given, f"data.image_size={SIDE}", foreign=False))
    assert found.seconds == pytest.approx(300, rel=0.2)
    assert int(lines(found)["pretext.steps"].partition(":")[0]) > 0
    assert {"weights", "sound", "pretext"} <= {row.stage for row in found.rows}


def sizes(machine: Machine) -> set[int]:
    """The image sizes at which pretext trainings were measured."""
    steps = (work for work in machine.asked if isinstance(work, Step) and work.section == "pretext")
    return {work.network.image_size for work in steps}


def test_sizes_that_weights_do_not_fit_are_left_out(place: Path) -> None:
    """ResNets of torchvision have another form below 64 px, which their weights don't fit."""
    import torchvision

    weights = place / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    given = (f"pretext.weights={weights}", "pretext.backbone=resnet18", "plan.minutes=30")
    machine = Machine(0.0)
    machine.dry(configured(place, *given, foreign=False))
    assert sizes(machine) == {64}
    with pytest.raises(ConfigError, match=r"needs images of 64 px or more, and yours suit 48 px"):
        machine.dry(configured(place, *given, "data.image_size=48", foreign=False))


def test_sizes_whose_views_do_not_fit_are_left_out(place: Path) -> None:
    """Views have 0.75 of the size: 24 px and 36 px can't be divided into patches of 16 px, 48 px can."""
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    timm_folder(place / "vit16", "vit_tiny_patch16_224", img_size=64, **options)
    backbone = "timm:vit_tiny_patch16_224?depth=2&embed_dim=48&num_heads=3"
    machine = Machine(0.0)
    given = (f"pretext.weights={place / 'vit16'}", f"pretext.backbone={backbone}", "plan.minutes=30")
    found = machine.dry(configured(place, *given, foreign=False))
    assert sizes(machine) == {64}
    assert lines(found)["data.image_size"].startswith("64")
    with pytest.raises(ConfigError, match=r"can't see images or views of 24 px"):
        machine.dry(configured(place, *given, "data.image_size=32", foreign=False))


def test_a_plan_is_named_by_the_teacher_and_not_by_its_place(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "vit", tmp_path / "vit")
    (tmp_path / "photos").symlink_to(place / "photos")

    def request(config: Config, teacher: Artifact | None = TEACHER, tested: int = 75) -> Any:
        return planning.plan(config, MANIFEST, teacher, tested=tested).settings

    one = request(configured(place))
    assert request(configured(tmp_path)) == one
    assert request(configured(place, "pretext.licence=MIT", "seed=0")) == one
    assert request(configured(place, "cluster.k=7")) != one
    assert request(configured(place), tested=1234) == request(configured(place), tested=1239)
    assert request(configured(place), tested=1234) != one
    own = configured(place, foreign=False)
    assert request(own, None) == request(own, None, tested=9)
    assert request(own, None).keys() == {"minutes", "keep", "config", "data", "precision", "folds"}


@pytest.mark.parametrize("foreign", [False, True])
def test_the_labels_of_a_run_change_no_plan_of_what_needs_none(place: Path, foreign: bool) -> None:
    """A rerun with other labels must find the first plan, and with it the teacher."""

    def settings(*keys: str) -> Any:
        config = configured(place, *keys, foreign=foreign)
        return planning.plan(config, MANIFEST, TEACHER if foreign else None).settings

    plain = settings()
    for key in ("labels_per_class=7", "label_fraction=0.1", "label_seed=3", "labels=csv:labels.csv"):
        assert settings(f"data.{key}") == plain, key
    assert settings("cluster.k=7") != plain


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ([], "regression"),
        (["transfer.steps=40", "transfer.batch_size=32"], "regression"),
        (["transfer.method=pseudo-labels"], "pseudo-labels"),
        (["transfer.learning_rate=0.01"], "pseudo-labels"),
        (["cluster.k=7"], "pseudo-labels"),
        (["review=true"], "pseudo-labels"),
        (["transfer.method=simreg"], "simreg"),
    ],
)
def test_the_student_of_a_foreign_teacher_learns_features_unless_you_chose_otherwise(
    place: Path, given: list[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the optimizer, the rate and the views of the recipe, and the user's lengths."""
    config, machine, made = configured(place, *given), Machine(0.001), list[Config]()

    def follow(config: Config, settings: Mapping[str, Any]) -> Config:
        made.append(planned(config, settings))
        return made[-1]

    monkeypatch.setattr("flows.chain.planned", follow)
    found = machine.dry(config)
    assert ("transfer.method" in lines(found)) == (method == "regression")
    steps = [work for work in machine.asked if isinstance(work, Step) and work.section == "transfer"]
    assert {work.settings["method"] for work in steps} == {method}
    assert {each.transfer.method for each in made} == {method}
    if method == "regression":
        kind = made[0].data.kind
        assert kind is not None
        assert kind != "auto"
        views = views_of(kind, Regression)
        kept = views | config.transfer.model_dump(
            include={"optimizer", "learning_rate", "weight_decay", "warmup"}
        )
        assert made[0].transfer.model_dump(include=set(kept)) == kept
        assert made[0].transfer.batch_size == steps[0].batch_size == (32 if given else 115)  # half
        assert (made[0].transfer.steps == 40) == bool(given)


def test_methods_without_a_network_are_still_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretext.method = hog gives no teacher that could be planned"):
        configured(place, "pretext.method=hog", foreign=False)


@pytest.mark.slow
def test_a_run_follows_its_plan_and_a_rerun_computes_nothing(place: Path) -> None:
    config = configured(place, "plan.minutes=2", "data.labels_per_class=4")
    made = run_chain(config)
    plans = [made.store.meta(made.made[label]) for label in ("plan-images", "plan-labels")]
    assert plans[0]["speed"]["teacher"] == 0
    assert plans[0]["speed"]["foreign"] > 0
    n = made.store.meta(made.made["manifest"])["counts"]["train"]  # there are no others
    assert plans[0]["looks"] == n + 2 * plans[0]["tested"] + 2 * n + 8 * min(200, n)
    assert (
        made.store.meta(made.made["transfer"])["config"]["image_size"]
        == plans[0]["settings"]["data.image_size"]
    )
    names = {row["model"] for row in made.result["scores"]}
    assert {"teacher-linear", "student", "shipped", "scratch"} <= names
    report = (made.folder / "report.html").read_text()
    assert "the teacher is not trained" in report
    again = run_chain(config, "again")
    assert all(row["cached"] for row in again.result["stages"])
    assert np.isfinite([row["value"] for row in again.result["scores"]]).all()
