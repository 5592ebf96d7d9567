"""The interface between the engine and a method: a method is a plug-in with a few hooks.

docs/decisions/0004-engine-hooks.md says how each known method uses them.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from data.draws import Draws
from models.collapse import alike
from models.configs.shared import Teacher
from models.network import Network


@dataclass
class Batch:
    """The images of one step, and what the method makes of them.

    Attributes:
        images: (B, S, S, 3) uint8, as stored.
        index: (B,) int64, rows of the manifest. Random draws are keyed by it.
        target: (B,) int64 classes, (B, C) float32 probabilities, or None if the method needs none.
        views: what `Method.prepare` makes of the images.
    """

    images: Tensor
    index: Tensor
    target: Tensor | None = None
    views: Any = None


@dataclass(frozen=True)
class Progress:
    """How far the whole training is. `step` and `epoch` count from 0 and never restart."""

    step: int
    steps: int
    epoch: int
    epochs: int


@dataclass
class Loss:
    """What to minimise, with which optimizer, and which values to log.

    Attributes:
        total: scalar with a gradient.
        terms: name -> detached scalar (Tensor or float). `total` is always logged as `loss`, so it is not
            among them.
        optimizer: name of the one of `Method.optimizers()` that steps on it.
    """

    total: Tensor
    terms: dict[str, Tensor | float] = field(default_factory=dict)
    optimizer: str = "main"


Sweep = Callable[[], Iterator[Batch]]
"""Yields all images of the training once, without augmentation and in order of index."""


class Method(nn.Module, ABC):
    """A way of training. Override `loss` (or `losses`), `prepare` and `optimizers`. Other hooks do nothing.

    Everything that must survive a resume has to be a parameter or a buffer. A network that is an input (a
    frozen teacher) must not be in `state_dict`. Keep it in a tuple, because `nn.Module` does not look into
    tuples.

    Attributes:
        network: what is published after training: the backbone and the head that later stages keep.
        rate_decay: factor on the learning rate from each layer of a backbone to the layer below it.
    """

    network: Network
    rate_decay: float = 1.0

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Fill `batch.views` from `batch.images`, on the device. Its time counts as work on data."""
        raise NotImplementedError

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """The loss of one batch."""
        raise NotImplementedError

    def losses(self, batch: Batch, progress: Progress) -> Iterator[Loss]:
        """The losses of one step, in turn. The generator resumes after the loss's optimizer has stepped."""
        yield self.loss(batch, progress)

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Called before each epoch, for example to relabel or to refresh a memory bank."""

    def before_update(self, progress: Progress) -> None:
        """Called once per `Loss`, before weights change. Gradients are finite. E.g. freeze a layer, clip."""

    def after_update(self, progress: Progress) -> None:
        """Called once per `Loss`, after weights change. E.g. update a teacher, push to a queue."""

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Whether all outputs have become alike. Called after every epoch.

        Args:
            means: mean of each value that was logged in the epoch.

        Returns:
            The measure in words, or None if all is well. The default judges the values that `collapse.signs`
            gives.
        """
        return alike(means)

    def codes(self, sweep: Sweep) -> Tensor | None:
        """Labels that the method itself has given to all images. Called once after training.

        Returns:
            (heads, N) int64 in the order of the sweep, or None if the method gives no labels.
        """
        return None

    def passes(self) -> list[tuple[int, float]]:
        """Cost of a step, for estimates: (side in px, forward and backward passes of the backbone per image).

        A pass without gradient, for example of a teacher, counts as a third.
        """
        return [(self.network.image_size, 1.0)]

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by name. A `Loss` uses `main` by default. Called once, before a resume."""
        raise NotImplementedError


def make_pretext(config: Teacher, image_size: int, seed: int) -> Method:
    """Make the method that `config.trainer` names, with fresh weights.

    Args:
        config: of a pretext method that trains a network.
        image_size: side of the images, px.
        seed: for all weights and for the method's own tables.

    Raises:
        ConfigError: the images are too small for the method or its backbone.
    """
    method: Method = resolve_name(config.trainer)(config, image_size, seed)
    return method
