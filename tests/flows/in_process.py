"""Run the chain without a server or child processes. Every stage is built in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from data.store import Store
from data.types import Artifact
from flows.chain import chain
from flows.layout import Hooks, Plan
from flows.pin import find, pinned_chain
from flows.recipes import override
from flows.run import Run
from tasks.config import Compute, Config
from tasks.job import run
from tasks.stage import NotNeeded, Request


class Workers:
    """Does what `tasks.workers.Workers` does, but in this process."""

    def __init__(self, config: Config, record: Run, interrupted: Callable[[], bool] = lambda: False) -> None:
        self._config, self._store, self._images = config, record.store, {}
        self._interrupted = interrupted

    def make(self, request: Request, label: str, listen: Any) -> tuple[Artifact, bool]:
        sent = Request.model_validate_json(request.model_dump_json())  # as a child process receives it
        return run(sent, self._store, self._config.compute, listen, self._interrupted, self._images)

    def close(self) -> None:
        return None


class OfARun(Workers):
    """The same with the arguments of `tasks.workers.Workers`, for commands that work on a finished run."""

    def __init__(self, store: Store, compute: Compute, log: Path) -> None:
        self._config, self._store, self._images = Config(compute=compute), store, {}
        self._interrupted = lambda: False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


@dataclass
class Made:
    """A finished run.

    Attributes:
        made: label -> artifact.
        result: the return value of `Run.finish`.
        events: label -> the event that a watcher got when the stage was made.
        store: the store with all artifacts.
    """

    made: dict[str, Artifact]
    result: dict[str, Any]
    events: dict[str, dict[str, Any]]
    store: Store

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.result["folder"])

    def path(self, label: str) -> Path:
        """Folder of a stage's artifact."""
        return self.store.folder(self.made[label])

    def inputs(self, label: str) -> dict[str, Artifact]:
        """The inputs of a stage, from its meta.json."""
        inputs = self.store.meta(self.made[label])["inputs"]
        return {name: Artifact.model_validate(given) for name, given in inputs.items()}


class Events(dict[str, dict[str, Any]]):
    """A watcher that records the events of finished stages."""

    def begin(self, run: Run) -> None:
        return None

    def event(self, label: str, event: dict[str, Any]) -> None:
        if event["event"] == "made":
            self[label] = event

    def end(self, run: Run, result: dict[str, Any] | None, error: BaseException | None) -> None:
        return None


def run_chain(config: Config, name: str = "run", interrupted: Callable[[], bool] = lambda: False) -> Made:
    """Run the whole chain. Stages that can be stopped ask `interrupted` whether to stop."""

    def layout(hooks: Hooks) -> dict[str, Artifact]:
        return pinned_chain(config, find(config), hooks) if config.pin.enabled else chain(config, hooks)

    return run_layout(config, name, layout, interrupted)


def run_layout(
    config: Config,
    name: str,
    layout: Callable[[Hooks], dict[str, Artifact]],
    interrupted: Callable[[], bool] = lambda: False,
) -> Made:
    """Run any layout of stages."""
    events = Events()
    with Run(config, name, [events]) as record:
        record.workers = Workers(config, record, interrupted)  # type: ignore[assignment]

        def step(label: str, plan: Plan, /, *, after: Any = None, **inputs: Artifact) -> Artifact:
            return record.make(label, plan(**inputs))[0]

        def skip(gone: NotNeeded) -> None:
            record.skip(gone.stage, gone.because)

        made = layout(Hooks(step, record.look, skip, decided=record.decide, planned=record.follow))
        return Made(made, record.finish(made), events, record.store)


def small(place: Path, **over: Any) -> Config:
    """A chain of seconds: HOG, six clusters, and a small student that is fine-tuned with five labels a class.

    Args:
        place: the folder with the sub-folder `photographs`, which `photographs` writes, and the store.
        over: sections and keys that replace those here.
    """
    quick = {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3}
    values: dict[str, Any] = {
        "data": {"train": f"folder:{place / 'photographs'}", "image_size": 16, "labels_per_class": 5},
        "pretext": {"method": "hog"},
        "cluster": {"k": 6},
        "transfer": {"method": "pseudo-labels", **quick},
        "student": {"backbone": "smallconv", "width": 0.25},
        "finetune": {"steps": 4, "baseline": False},
        "evaluate": {"protocols": ["few-label"]},
        "until": "finetune",
        "compute": {"device": "cpu", "precision": "fp32"},
        "store": str(place / "store"),
    }
    return override(override(Config(), values), over)


def photographs(folder: Path, each: int = 100, side: int = 40) -> None:
    """Write crops of scikit-learn's two sample photographs, one class each: temple and flower."""
    from sklearn.datasets import load_sample_images

    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        draws = np.random.default_rng(0)
        for number in range(each):
            top, left = (draws.integers(0, extent - 120) for extent in photo.shape[:2])
            crop = Image.fromarray(photo[top : top + 120, left : left + 120]).resize((side, side))
            crop.save(folder / name / f"{number:03}.png")
