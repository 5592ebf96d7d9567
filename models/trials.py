"""Times a little of some work on this machine, with the product's code. `models.pace` says which work.

Images are random, because the time of a step doesn't depend on what they show.

Other programs may use the machine meanwhile. A thread that computes runs nearly all of the time if it is let
run. So the time in which it does not run tells how much others took (`Lap.load`).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from pathlib import Path
from pkgutil import resolve_name
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import PipelineError
from data.preprocessing import stored_size
from data.processes import keep_memory
from models.configs import PRETEXT, TRANSFER
from models.configs.distill import Distill
from models.configs.evaluations import NonLinear
from models.configs.finetune import Finetune
from models.configs.shared import Views
from models.cost import network_of
from models.device import resolve_precision
from models.engine import train
from models.evaluation.nonlinear import AboveLayer, middle_layer
from models.inference import augmented, run
from models.method import Batch, Method, make_pretext
from models.methods.distill import DistillMethod
from models.methods.finetune import FinetuneMethod
from models.work import Chores, Describe, Imports, Pass, Products, Shape, Step, Work

CPU = torch.device("cpu")
CHORES = 0.07
"""Seconds that `_chores` takes on two quiet cores of an AMD EPYC. Stages state how long chores take there.
It was measured as 0.2 with the garbage collector, which took the same share of the time on a Xeon."""
LARGEST = 100_000_000
"""Networks with more parameters than this are not built."""
LONGEST = 4.0
"""Seconds. Work is not tried if the trial is expected to take longer, even with one image."""
TRIAL = 0.5
"""Approximate number of seconds that a trial's timed steps take."""
FEW = 16
"""Number of images in the first, small trial. Its time decides how many images the second trial has."""
ALONE = 0.8
"""Share of the time in which a computing thread runs at least, if no other program disturbs it. For the rest,
it waits for other threads of its own process."""
ROUNDS = 3
"""How often work is tried at most while other programs disturb it. The fastest trial counts."""
LIMITS = ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat")
"""Where Linux says how often it has stopped a container that has used up its share of the CPU."""


@dataclass(frozen=True)
class Measured:
    """The measured time of some work.

    Attributes:
        work: what was done.
        seconds: seconds per step, per image, per operation, or per unit of chores or imports.
        fixed: the part of a step's seconds that does not depend on the number of images, such as that of the
            optimizer.
        between: seconds per image and epoch that the method of a step takes between epochs.
        load: how many times as long all of this took because other programs ran, at least 1.
    """

    work: Work
    seconds: float
    fixed: float = 0.0
    between: float = 0.0
    load: float = 1.0


@dataclass(frozen=True)
class Lap:
    """A trial's time.

    Attributes:
        seconds: as a clock shows it.
        busy: the part of it in which this thread ran.
        between: see `Measured`.
        limited: whether a limit on this process's CPU time stopped it. Then the limit is what the machine
            gives, and does not count as load.
    """

    seconds: float
    busy: float
    between: float = 0.0
    limited: bool = False

    @property
    def load(self) -> float:
        """See `Measured`."""
        return 1.0 if self.limited else max(1.0, ALONE * self.seconds / max(self.busy, 1e-9))


def tried(work: Work, each: float, device: torch.device = CPU) -> Measured | None:
    """Do a little of some work, and time it.

    Args:
        work: the work.
        each: estimated seconds per image of a step or a pass, on a CPU.
        device: where steps and passes are computed.

    Returns:
        None if the work can't be tried: it takes too long, or its method does not take random images.
    """
    keep_memory()  # as in the children that build stages
    match work:
        case Imports():
            return None
        case Chores():
            return Measured(work, _chores() / CHORES)
        case Products():
            return Measured(work, _products())
        case Describe():
            return Measured(work, _describe(work))
        case Step() | Pass():
            few = FEW
            if isinstance(work, Pass) and device == CPU:
                # A pass of few images says how long one of many takes. A step has to have its own batch.
                few = max(1, min(FEW, int(LONGEST / max(1e-9, 3 * each))))
            # The estimate is for a CPU. A GPU is faster.
            if work.network.parameters > LARGEST or (3 * few * each > LONGEST and device == CPU):
                return None
            try:
                return _step(work, device) if isinstance(work, Step) else _pass(work, device, few)
            except PipelineError:  # random images don't suit the method
                return None


def method_of(step: Step, images: int, device: torch.device = CPU) -> Method:
    """The untrained method of a step.

    Args:
        step: the step.
        images: number of images that it will be trained on.
        device: where it will be trained. A teacher that it learns from is there already.
    """
    given, shape = step.settings, step.network
    match step.section:
        case "pretext":
            return make_pretext(_pretext(given), shape.image_size, seed=0)
        case "transfer":
            config: Any = TRANSFER[given["method"]].model_validate(given)
            told = {} if step.phase is None else {"phase": step.phase}
            if config.learns_from == "features":
                student = network_of(shape.model_copy(update={"classes": None}))
                return _made(config.trainer, config, student, dim=shape.classes, seed=0)
            if step.teacher is None:
                return _made(config.trainer, config, network_of(shape), **told)
            teacher = network_of(step.teacher).to(device).eval().requires_grad_(False)
            return _made(config.trainer, config, network_of(shape), teacher, seed=0, **told)
        case "finetune":
            tuned = Finetune.model_validate(given)
            assert shape.classes is not None
            bare = network_of(shape.model_copy(update={"classes": None}))
            network = bare.with_classifier(
                shape.classes, seed=0, keep_fc=tuned.keep_fc, keep_head=tuned.keep_head
            )
            return FinetuneMethod(tuned, network)
        case "distill":
            labels = torch.zeros(images, dtype=torch.int64)
            return DistillMethod(Distill.model_validate(given), network_of(shape), labels)
        case "nonlinear":
            network = network_of(shape.model_copy(update={"classes": None}))
            above = NonLinear.model_validate(given)
            layer = above.layers[0] if above.layers else middle_layer(network)
            return AboveLayer(above, network, layer, shape.classes or 2, seed=0)


class RandomImages:
    """A feed of random images.

    Args:
        images: number of different images.
        side: side of the stored images, px.
        classes: labels are 0 to classes - 1; None: no labels.
        soft: whether the labels are probabilities.
    """

    def __init__(self, images: int, side: int, classes: int | None = None, soft: bool = False) -> None:
        self._draw = np.random.default_rng(0)
        self._pixels = self._draw.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
        self._target: torch.Tensor | None = None
        if classes is not None:
            self._target = torch.arange(images) % classes
            if soft:
                self._target = torch.nn.functional.one_hot(self._target, classes).float()
        self.batch_size, self.steps_per_epoch, self.sweeping = images, 1, False

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images by index: (B,) int64 -> (B, side, side, 3) uint8."""
        return self._pixels[index % len(self._pixels)]

    def batch(self, epoch: int, step: int) -> Batch:
        """Some of the images, in random order."""
        index = self._draw.permutation(len(self._pixels))[: self.batch_size]
        target = None if self._target is None else self._target[index]
        return Batch(torch.from_numpy(self.read(index)), torch.from_numpy(index), target)

    def sweep(self, at_once: int = 512) -> Iterator[Batch]:
        """All images once."""
        self.sweeping = True
        for start in range(0, len(self._pixels), at_once):
            index = np.arange(start, min(start + at_once, len(self._pixels)))
            yield Batch(torch.from_numpy(self.read(index)), torch.from_numpy(index))
        self.sweeping = False


def _step(work: Step, device: torch.device) -> Measured:
    """Time steps of a training: first with a few images, then with as many as fit into the trial.

    If the batch has more images than that, its time is extrapolated from the two trials. A part of the time,
    such as the optimizer's, does not depend on the number of images.
    """
    images = max(work.batch_size, *(work.settings.get(key) or 0 for key in ("clusters", "prototypes")))
    small = min(FEW, work.batch_size)
    method = method_of(work, images, device)
    sweeps = type(method).before_epoch is not Method.before_epoch
    classes = work.network.classes if work.section != "pretext" and work.teacher is None else None
    side = max(stored(shape) for shape in (work.network, work.teacher or work.network))
    feed = RandomImages(
        images if sweeps else work.batch_size,
        side,
        classes,
        soft=_soft(work),
    )
    first = _steps(work, method, feed, small, device, steps=2).busy
    # If few images take long, the optimizer may be the reason. So the second trial has more images even then.
    more = 4 * small if first < LONGEST / 2 else small
    large = min(work.batch_size, max(more, int(small * TRIAL / first)))
    steps = 1 + max(1, min(10, ceil(TRIAL / (first * large / small))))
    epochs = 2 if sweeps else 1
    lap = calmest(lambda: _steps(work, method, feed, large, device, steps=steps, epochs=epochs))
    # The time in which this thread runs tells the parts apart: it depends little on other programs.
    each, fixed = (lap.seconds / lap.busy * part for part in parts((small, first), (large, lap.busy)))
    return Measured(work, fixed + each * work.batch_size, fixed, lap.between / images, lap.load)


def _soft(work: Step) -> bool:
    """Whether the targets of a step are vectors: probabilities, or features."""
    if work.section == "transfer":
        return TRANSFER[work.settings["method"]].reads == "features"
    return work.section == "distill"


def calmest(trial: Callable[[], Lap]) -> Lap:
    """Repeat a trial while other programs disturb it, at most `ROUNDS` times. The fastest one counts."""
    fastest: Lap | None = None
    for _ in range(ROUNDS):
        before = _stops()
        lap = trial()
        lap = replace(lap, limited=_stops() > before)
        if fastest is None or lap.seconds < fastest.seconds:
            fastest = lap
        if fastest.load == 1:
            break
    assert fastest is not None
    return fastest


def _stops() -> int:
    """How often a limit on the CPU time of this process's container has stopped it; 0 if this is unknown."""
    for place in LIMITS:
        with suppress(OSError):
            rows = dict(line.split(maxsplit=1) for line in Path(place).read_text().splitlines())
            return int(rows.get("nr_throttled", 0))
    return 0


def parts(small: tuple[int, float], large: tuple[int, float]) -> tuple[float, float]:
    """The part of a step's time that each image takes, and the part that does not depend on the images.

    Short trials are uncertain. So at least a tenth of the larger trial's time is counted for the images.

    Args:
        small: images and seconds of the smaller trial.
        large: images and seconds of the larger trial.

    Returns:
        Seconds per image, and seconds per step. Together they give the larger trial's time.
    """
    n, seconds = large
    each = (seconds - small[1]) / (n - small[0]) if n > small[0] else seconds / n
    each = min(max(each, 0.1 * seconds / n), seconds / n)
    return each, seconds - n * each


def _steps(
    work: Step,
    method: Method,
    feed: RandomImages,
    batch_size: int,
    device: torch.device,
    steps: int,
    epochs: int = 1,
) -> Lap:
    """Train for a few steps and time them.

    The first step of an epoch is left out, because it prepares what later steps use.

    Returns:
        The means of a step. The mean time between two epochs is 0 if there is one epoch or if the method does
        little between epochs.
    """
    ended: list[tuple[float, float]] = []

    def tick() -> bool:
        if not feed.sweeping:
            ended.append((perf_counter(), thread_time()))
        return False

    feed.batch_size, feed.steps_per_epoch = batch_size, steps
    train(
        method,
        feed,
        epochs=epochs,
        seed=0,
        stage="pace",
        schedule=lambda step, steps: 1e-3,  # random images must not make it diverge
        device=device,
        precision=resolve_precision(work.precision, device, method),
        sweep=feed.sweep,
        interrupted=tick,
    )
    spent = np.diff(ended, axis=0)
    inside = np.ones(len(spent), bool)
    inside[steps - 1 :: steps] = False
    seconds, busy = (float(mean) for mean in spent[inside].mean(axis=0))
    between = float(spent[~inside, 0].mean()) - seconds if epochs > 1 else 0.0
    # A thread that waits for a GPU does not run, although no other program disturbs it.
    busy = busy if device == CPU else seconds
    return Lap(seconds, busy, between if between > seconds / 2 else 0.0)


def stored(shape: Shape) -> int:
    """Side of the squares that a network's images are cut from, px."""
    return stored_size(shape.image_size) if shape.resized is None else shape.resized


def _pass(work: Pass, device: torch.device, few: int) -> Measured:
    """Time the forward passes of two batches. A small trial decides how many images the second trial has.

    Args:
        work: the passes.
        device: where to compute.
        few: number of images of the small trial's batches.
    """
    network = network_of(work.network)
    feed = RandomImages(min(work.batch_size, 64), stored(work.network))

    def timed(batch_size: int) -> Lap:
        """The time per image."""
        ended = []
        for _ in run(
            network,
            partial(network.features, layer="features"),
            feed.read,
            np.arange(2 * batch_size),
            batch_size=batch_size,
            device=device,
            precision=resolve_precision(work.precision, device),
            size=work.network.image_size,
            views=None
            if work.views is None
            else augmented(Views.model_validate(work.views), 1, 0, "pace", work.network.image_size),
        ):
            ended.append((perf_counter(), thread_time()))
        seconds, busy = np.diff(ended, axis=0)[0] / batch_size
        return Lap(float(seconds), float(busy if device == CPU else seconds))

    small = min(few, work.batch_size)
    first = timed(small)
    large = max(small, min(work.batch_size, 512, int(TRIAL / 2 / first.busy)))
    lap = first if large == small < FEW else calmest(lambda: timed(large))
    return Measured(work, lap.seconds, load=lap.load)


def _describe(work: Describe) -> float:
    """Seconds that a descriptor takes per image."""
    config: Any = _pretext(work.settings)
    descriptor = resolve_name(config.descriptor)
    feed = RandomImages(64, work.image_size)
    pixels = torch.from_numpy(feed.read(np.arange(64)))
    descriptor(pixels, config)
    began = perf_counter()
    descriptor(pixels, config)
    return (perf_counter() - began) / 64


def _products() -> float:
    """Seconds per operation of a product of float32 matrices, the fastest of ten."""
    a, b = torch.ones(2048, 512), torch.ones(512, 512)
    fastest = inf
    for _ in range(10):
        began = perf_counter()
        a @ b
        fastest = min(fastest, perf_counter() - began)
    return fastest / (2 * 2048 * 512 * 512)


def _chores() -> float:
    """Seconds of a fixed piece of Python's own work, as in imports, tables and pages.

    The garbage collector is off: it looks at all objects of this process, so its time depends on what else
    the process holds. With it, this took 1 or 2.7 times as long, by chance.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        began = perf_counter()
        values = {str(n): [n, n / 7, {"name": f"row {n}", "fine": n % 2 == 0}] for n in range(4000)}
        for _ in range(10):
            values = json.loads(json.dumps(values))
        return perf_counter() - began
    finally:
        if collects:
            gc.enable()


def _pretext(settings: dict[str, Any]) -> Any:
    return PRETEXT[settings["method"]].model_validate(settings)


def _made(trainer: str, *given: Any, **told: Any) -> Method:
    method: Method = resolve_name(trainer)(*given, **told)
    return method
