"""What a method is to the engine: a plug-in with a few hooks.

How each known method uses them is in docs/decisions/0004-engine-hooks.md.
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
    """Images on their way through a step.

    Attributes:
        images: (B, S, S, 3) uint8, as stored.
        index: (B,) int64, rows of the manifest; what random draws are keyed by.
        target: (B,) int64 classes, (B, C) float32 probabilities, or None where a method needs none.
        views: what `Method.prepare` made of the images.
    """

    images: Tensor
    index: Tensor
    target: Tensor | None = None
    views: Any = None


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` of `steps` over the whole training, both counted from 0."""

    step: int
    steps: int
    epoch: int
    epochs: int


@dataclass
class Loss:
    """What to minimise, with which optimizer, and the values worth logging.

    Attributes:
        total: scalar with a gradient.
        terms: name -> detached scalar (Tensor or float); `loss` is logged from `total` without being named here.
        optimizer: which of `Method.optimizers()` steps on it.
    """

    total: Tensor
    terms: dict[str, Tensor | float] = field(default_factory=dict)
    optimizer: str = "main"


Sweep = Callable[[], Iterator[Batch]]
"""All images of the training once, in order of index and unaugmented."""


class Method(nn.Module, ABC):
    """A way of training. Override `loss` (or `losses`), `prepare` and `optimizers`; the other hooks do nothing.

    What must survive a resume is a parameter or a buffer. A network that is an input (a frozen teacher) must stay out of
    `state_dict`: hold it in a tuple, which `nn.Module` does not look into.

    Attributes:
        network: what is published after training: the backbone and the head that later stages keep.
    """

    network: Network

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Fill `batch.views` from `batch.images`, on the device; timed as work on data."""
        raise NotImplementedError

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """The loss of one batch."""
        raise NotImplementedError

    def losses(self, batch: Batch, progress: Progress) -> Iterator[Loss]:
        """The losses of one step, in turn: after each one its optimizer steps, then the generator resumes."""
        yield self.loss(batch, progress)

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """A round begins: relabel, refresh a memory bank."""

    def before_update(self, progress: Progress) -> None:
        """Once a `Loss`: its gradients exist and are finite, weights have not moved: freeze a layer, clip."""

    def after_update(self, progress: Progress) -> None:
        """Once a `Loss`: weights have moved: EMA teacher, queue, renormalised prototypes."""

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Whether all outputs have become alike, asked after every epoch.

        Args:
            means: of everything that was logged in the epoch.

        Returns:
            The measure in words, or None if all is well. By default by what `collapse.signs` says of the outputs.
        """
        return alike(means)

    def codes(self, sweep: Sweep) -> Tensor | None:
        """Labels that the method itself has given all images, asked once after training.

        Returns:
            (heads, N) int64 in the sweep's order, or None if the method gives none.
        """
        return None

    def passes(self) -> list[tuple[int, float]]:
        """What a step costs, for estimates: (side in px, forward and backward passes of the backbone per image).

        A pass without gradient, as of a teacher, counts a third.
        """
        return [(self.network.image_size, 1.0)]

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by name; `main` is the one a `Loss` names by default. Made once, before a resume loads them."""
        raise NotImplementedError


def make_pretext(config: Teacher, image_size: int, seed: int) -> Method:
    """Make the method that `config.trainer` names, with fresh weights.

    Args:
        config: of a pretext method that trains a network.
        image_size: side of the images, px.
        seed: of all weights, and of the method's own tables.

    Raises:
        ConfigError: the images are too small for the method or its backbone.
    """
    method: Method = resolve_name(config.trainer)(config, image_size, seed)
    return method
