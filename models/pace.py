"""How long work takes on this machine. A little of the work is done and timed (`models.trials`).

A `Pace` measures each piece of work once and keeps the result, which can be stored as JSON. Work that is too
large to try is estimated from its number of operations, at the speed of the most similar work that was
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from math import log
from statistics import fmean
from time import thread_time
from typing import Any

import torch
from pydantic import TypeAdapter

from models.configs.shared import Views
from models.cost import convolution_rate
from models.trials import CPU, Measured, tried
from models.work import IMPORTS, Chores, Describe, Imports, Pass, Portion, Products, Step, Work, key_of

UNMEASURED = 0.25
"""Share of a plain convolution's speed that work is assumed to reach until something like it is measured."""
DESCRIBED = 2e-7
"""Seconds per pixel that a descriptor is assumed to take until it is measured."""
LABELLED = {"transfer", "finetune", "distill"}
"""Sections whose methods, if they have no teacher, learn labels or probabilities from one view per image."""
SHARED = ("freeze", "optimizer", *Views.model_fields)
"""The only settings that change the time of a step that learns labels."""
IGNORED = 0.05
"""Measuring ends when the unmeasured work takes at most this share of the whole time, even in the worst case
(`Pace._doubt`)."""


class Pace:
    """The pace of this machine.

    Args:
        budget: seconds to spend on measuring. When they are spent, no further measurement begins.
        trial: measures some work; returns None if it can't be tried. Tests pass one that needs no time.
        clock: returns the time in seconds. The default counts only the time in which this thread runs. So a
            busy machine lengthens the measurements instead of leaving work unmeasured.
        device: where steps and passes are computed.

    Attributes:
        spent: seconds spent on measuring so far.
    """

    def __init__(
        self,
        budget: float = 12.0,
        trial: Callable[[Work], Measured | None] | None = None,
        clock: Callable[[], float] = thread_time,
        device: torch.device = CPU,
    ) -> None:
        self.budget, self.spent, self._device = budget, 0.0, device
        self._trial = trial or self._try
        self._clock = clock
        self._known: dict[str, Measured] = {}
        self._untried: dict[str, Work] = {}

    def measure(self, portions: Iterable[Portion]) -> None:
        """Measure work, the most time-consuming first, until the rest does not matter.

        Args:
            portions: all work that will be done.
        """
        wanted = list(portions)
        while self.spent < self.budget:
            taken: dict[str, float] = {}
            for portion in wanted:
                key = key_of(portion.work)
                taken[key] = taken.get(key, 0.0) + self.seconds(portion)
            works = {key_of(portion.work): portion.work for portion in wanted}
            left = {
                key: seconds * self._doubt(works[key])
                for key, seconds in taken.items()
                if key not in self._untried and not self.measured(works[key])
            }
            if not left or sum(left.values()) <= IGNORED * sum(taken.values()):
                break
            self.know(works[max(left, key=left.__getitem__)])

    def know(self, work: Work) -> Measured | None:
        """Measure work, unless it is measured already. Returns None if it can't be tried."""
        key = key_of(work)
        if key not in self._known | self._untried:
            began = self._clock()
            found = self._trial(work)
            self.spent += self._clock() - began
            if found is None:
                self._untried[key] = work
            else:
                self._known[key] = found
        return self._known.get(key)

    def imported(self, seconds: float) -> None:
        """Record how many seconds this process took to import this module and torch.

        Imports can be timed only once in a process, so they can't be tried like other work. Without this
        record, they are estimated from chores.
        """
        self._known[key_of(Imports())] = Measured(Imports(), seconds / IMPORTS)

    def seconds(self, portion: Portion) -> float:
        """Seconds that some work takes, as measured by an earlier trial. Without one, they are estimated."""
        work = portion.work
        found = self._known.get(key_of(work))
        if found is not None:
            return portion.times * found.seconds + portion.swept * found.between
        match work:
            case Imports():
                return self.seconds(Portion(Chores(), portion.times))
            case Chores():
                return portion.times
            case Describe():
                return portion.times * DESCRIBED * work.image_size**2
            case Products():
                return portion.times / (UNMEASURED * convolution_rate("fp32")[1])
            case Step() | Pass():
                return portion.times * self._similar(work)

    def alone(self, portion: Portion) -> float:
        """Like `seconds`, but without the time that other programs took while the work was measured."""
        found = self._known.get(key_of(portion.work)) or self._nearest(portion.work)
        return self.seconds(portion) / (1.0 if found is None else found.load)

    @property
    def taken(self) -> float:
        """Least share of the CPU that other programs took while steps and passes were measured, 0 to 1."""
        loads = [each.load for each in self._known.values() if isinstance(each.work, Step | Pass)]
        return 1 - fmean(1 / load for load in loads) if loads else 0.0

    def measured(self, work: Work) -> bool:
        """Whether this work is measured, or a step that takes as long per image (`_alike`)."""
        if key_of(work) in self._known:
            return True
        return isinstance(work, Step) and any(_alike(work, each.work) for each in self._known.values())

    def as_json(self) -> dict[str, Any]:
        """What this pace knows, as JSON values for `learn`."""
        return {
            "measured": [
                {**asdict(each), "work": each.work.model_dump(mode="json")} for each in self._known.values()
            ],
            "untried": [work.model_dump(mode="json") for work in self._untried.values()],
        }

    def learn(self, values: Mapping[str, Any]) -> None:
        """Take over what another pace on the same machine knew, so that it is not measured again.

        Args:
            values: what `as_json` returned.
        """
        parse: TypeAdapter[Work] = TypeAdapter(Work)
        for row in values["measured"]:
            work = parse.validate_python(row["work"])
            self._known[key_of(work)] = Measured(**{**row, "work": work})
        for given in values["untried"]:
            work = parse.validate_python(given)
            self._untried[key_of(work)] = work

    def _doubt(self, work: Work) -> float:
        """How many times longer than `seconds` says the work may take.

        The number of operations says little about a backbone that was not measured: an operation of a
        MobileNet takes ten times as long as one of a ResNet.
        """
        if not isinstance(work, Step | Pass):
            return 1.0
        known = [each.work for each in self._known.values() if isinstance(each.work, Step | Pass)]
        like = {other.kind for other in known if other.network.backbone == work.network.backbone}
        return 2.0 if work.kind in like else 5.0 if like else 20.0

    def _similar(self, work: Step | Pass) -> float:
        """Estimate the seconds of unmeasured work, at the speed of the most similar measured work."""
        nearest = self._nearest(work)
        if nearest is None:
            return work.operations / (UNMEASURED * convolution_rate(work.precision)[1])
        assert isinstance(nearest.work, Step | Pass)
        seconds = work.operations * (nearest.seconds - nearest.fixed) / nearest.work.operations
        if isinstance(work, Step):
            seconds += nearest.fixed * work.network.parameters / max(1, nearest.work.network.parameters)
        return seconds

    def _nearest(self, work: Work) -> Measured | None:
        """The most similar step or pass that was measured, for a step or a pass; None if there is none."""
        if not isinstance(work, Step | Pass):
            return None

        def distance(given: Measured) -> tuple[bool, bool, bool, float]:
            other = given.work
            assert isinstance(other, Step | Pass)
            return (
                not (isinstance(work, Step) and _alike(work, other)),
                other.network.backbone != work.network.backbone,
                other.kind != work.kind,
                abs(log(max(other.network.forward, 1.0) / max(work.network.forward, 1.0))),
            )

        known = [each for each in self._known.values() if isinstance(each.work, Step | Pass)]
        return min(known, key=distance, default=None)

    def _try(self, work: Work) -> Measured | None:
        """Measure work. Its estimated time says whether, and with how many images, it can be tried."""
        each = 0.0
        if isinstance(work, Step | Pass):
            each = self.seconds(Portion(work, 1 / (work.batch_size if isinstance(work, Step) else 1)))
        return tried(work, each, self._device)


def _alike(work: Step, other: Work) -> bool:
    """Whether two steps differ only in the number of images, and in which labels they learn."""
    if not isinstance(other, Step) or not {work.section, other.section} <= LABELLED:
        return False
    if work.teacher or other.teacher or work.precision != other.precision:
        return False
    shapes = work.network, other.network
    same = {(shape.backbone, shape.width, shape.image_size) for shape in shapes}
    return (
        len(same) == 1
        and abs(shapes[0].forward / shapes[1].forward - 1) < 0.05
        and all(work.settings.get(name) == other.settings.get(name) for name in SHARED)
    )
