"""What every method guarantees. Methods of installed packages are tested, too."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from method_checks import (
    CLASSES,
    Feed,
    ignores_labels,
    lowers_the_loss,
    prepared,
    progress,
    resumes_bit_for_bit,
    toy,
)
from torch import Tensor

from models.configs import PRETEXT, TRANSFER
from models.configs.shared import Teacher, Transfer
from models.method import Method, make_pretext
from models.methods import deepcluster
from models.network import build_network
from models.queue import Queue

QUICK = {"backbone": "smallconv", "width": 0.25, "optimizer": "adamw", "learning_rate": 3e-3}
QUICK |= {"crop_min": 0.6, "jitter": 0.0, "grey": 0.0}
"""Settings of all methods; each method takes those that it has."""
TINY: dict[str, dict[str, Any]] = {
    "simclr": {"projection": 32},
    "jigsaw++": {"permutations": 10, "tile_features": 32},
    "jigsaw": {"permutations": 10, "tile_features": 32},
    "moco": {"projection": 32, "queue": 128},
    "byol": {"projection": 32, "hidden": 64, "weight_decay": 0.0},
    "momentum2": {"projection": 32, "hidden": 64, "weight_decay": 0.0},
    "swav": {"prototypes": 12, "epsilon": 0.05, "projection": 16, "small_crops": 2},
    "deepcluster": {"clusters": 6, "pca": 8},
    "deepcluster-v2": {"prototypes": 6, "projection": 16, "small_crops": 2},
    "sela": {"clusters": 6, "heads": 2, "relabellings": 2, "spacing": "even"},
    "dino": {"outputs": 32, "hidden": 32, "bottleneck": 16, "small_crops": 2},
    "rotation": {"learning_rate": 1e-2},
    "colorization": {"hidden": 16, "learning_rate": 1e-2},
    "inpainting": {"hidden": 32, "blocks": 2},
    "pseudo-labels": {},
    "seed": {"queue": 64},
    "s2bnn": {"queue": 64, "projection": 24},
    "simreg": {},
    "regression": {},
}
"""Further settings of our own methods. A method that is not here is tested with its defaults and QUICK."""
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("simclr", {"memory": 128}),
    ("moco", {"symmetric": True}),
    ("moco", {"teacher_norm": "momentum", "student_norm": "batch"}),
    ("moco", {"teacher_norm": "batch", "student_norm": "batch"}),
    ("byol", {"teacher_norm": "split", "student_norm": "split", "norm_groups": 4}),
    ("byol", {"teacher_norm": "momentum"}),
    ("swav", {"queue": 40, "queue_epoch": 1}),
    ("dino", {"backbone": "vit_tiny", "width": 1 / 3, "head_norm": False, "view_size": 8}),
    ("dino", {"small_crops": 0, "teacher_norm": "split", "norm_groups": 2, "view_size": 16}),
    ("dino", {"small_crops": 0, "teacher_norm": "momentum", "norm_groups": 2, "view_size": 16}),
    ("inpainting", {"hole": "blocks"}),
    ("inpainting", {"hole": "blocks", "adversarial": 0.01}),
    ("s2bnn", {"strategy": "contrastive+distill", "teacher": "online"}),
    ("seed", {"mixup": 1.0, "dense": 1.0}),
    ("simreg", {"mixup": 1.0, "layers": 1}),
    ("regression", {"layers": 4}),
]
"""Settings with which a method has other networks or another state than by default."""
SIDE = {"jigsaw++": 32, "jigsaw": 32, "dino": 32}
STUDENT = {"s2bnn": "reactnet"}


class Case(NamedTuple):
    """A method with its settings. `phase` is one of its trainings, if it has several."""

    method: str
    options: dict[str, Any]
    phase: str | None = None

    @property
    def model(self) -> type[Teacher | Transfer]:
        return {**PRETEXT, **TRANSFER}[self.method]

    @property
    def side(self) -> int:
        return SIDE.get(self.method, 16)

    @property
    def labelled(self) -> bool:
        """True if the method learns from given labels."""
        return issubclass(self.model, Transfer) and self.model.reads == "assignments"

    @property
    def regresses(self) -> bool:
        """True if the method learns given features."""
        return issubclass(self.model, Transfer) and self.model.reads == "features"

    def make(self, seed: int = 0) -> Method:
        shared = {name: value for name, value in QUICK.items() if name in self.model.model_fields}
        config = self.model(**shared | TINY.get(self.method, {}) | self.options)
        if isinstance(config, Teacher):
            return make_pretext(config, self.side, seed)
        told: dict[str, Any] = {} if self.phase is None else {"phase": self.phase}
        frozen, classes = [], CLASSES
        if self.regresses:
            classes, told = None, told | {"dim": CLASSES, "seed": seed}
        elif not self.labelled:
            teacher = build_network("smallconv", self.side, seed=9, width=0.25, head=1)
            frozen, classes, told["seed"] = [teacher.eval().requires_grad_(False)], None, seed
        student = build_network(
            STUDENT.get(self.method, "smallconv"), self.side, seed=seed, width=0.25, classes=classes
        )
        method: Method = resolve_name(config.trainer)(config, student, *frozen, **told)
        return method

    def images(self, n: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
        return toy(n, self.side, seed)

    def target(self, label: Tensor) -> Tensor | None:
        if self.regresses:
            return torch.nn.functional.one_hot(label, CLASSES).float()
        return label if self.labelled else None


def cases(*forms: tuple[str, dict[str, Any]], labelled: bool = True) -> pytest.MarkDecorator:
    """Every method that trains, in every phase, and the given forms; if asked, none with given targets."""
    models = {
        name: model
        for name, model in {**PRETEXT, **TRANSFER}.items()
        if issubclass(model, Teacher | Transfer)
    }
    found = []
    for method, options in [*((name, {}) for name in models), *forms]:
        phases = getattr(models[method], "phases", ())
        for phase in phases if len(phases) > 1 and not options else [None]:
            name = " ".join([method, *([phase] if phase else []), *(f"{k}={v}" for k, v in options.items())])
            case = Case(method, options, phase)
            if labelled or not (case.labelled or case.regresses):
                found.append(pytest.param(case, id=name))
    return pytest.mark.parametrize("case", found)


@pytest.fixture(autouse=True)
def _cluster_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.cluster import KMeans

    def cluster(x: np.ndarray, wanted: Any) -> np.ndarray:
        return KMeans(wanted.k, n_init=1, random_state=wanted.seed % 2**32).fit_predict(x).astype(np.int64)

    monkeypatch.setattr(deepcluster, "cluster_apart", cluster)


def least(terms: dict[str, Any]) -> float:
    """Lower bound of the loss: a cross-entropy with what a teacher says is at least the entropy of that."""
    if "entropy" in terms:
        return float(terms["entropy"])
    return float(terms["distillation"] - terms["divergence"]) if "divergence" in terms else 0.0


@cases(*FORMS)
def test_a_few_steps_lower_the_loss(case: Case) -> None:
    method = case.make()
    images, label = case.images()
    method.before_epoch(progress(), Feed(images, 16).sweep)
    method.train()
    if any(isinstance(module, Queue) for module in method.modules()):  # let it hold embeddings of images
        for seed in (1, 2):
            others, of_others = case.images(seed=seed)
            method.loss(prepared(method, others, target=case.target(of_others)), progress())
            method.after_update(progress())
    floor = least(method.loss(prepared(method, images, target=case.target(label)), progress()).terms)
    # A 1-bit network learns slowly. On some machines its loss falls by less than a fifth in these steps.
    to = 0.85 if case.method == "s2bnn" else 0.8 if case.method in TINY else 1.0
    lowers_the_loss(method, images, target=case.target(label), steps=12, to=to, floor=floor)


@cases(*FORMS)
def test_a_stopped_training_ends_as_an_undisturbed_one_bit_for_bit(case: Case) -> None:
    small = case.side <= 16
    images, label = case.images(32 if small else 16)
    resumes_bit_for_bit(
        case.make,
        images,
        target=case.target(label),
        batch_size=16 if small else 8,
        epochs=2 if case.method == "s2bnn" or "vit_tiny" in case.options.values() else 4,
    )


@cases(*FORMS, labelled=False)
def test_labels_are_never_read(case: Case) -> None:
    ignores_labels(case.make, *case.images(16))


@cases(*FORMS)
def test_the_seed_decides_the_weights(case: Case) -> None:
    torch.rand(3)  # the global generator has another state
    first, again, other = (case.make(seed).state_dict() for seed in (0, 0, 1))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
