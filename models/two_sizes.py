"""One view of an image in two sizes: the student's, and that of a teacher that brings its own input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from models.augment import centre_within
from models.configs.shared import Views
from models.mixup import partners
from models.network import Network

_Views = TypeVar("_Views", bound=Views)


class Seen(NamedTuple):
    """What two networks see of the same images.

    Attributes:
        student: (B, C, s, s) float32 in [0, 1].
        teacher: (B, C, t, t) float32 in [0, 1]; the same tensor if the sizes are equal.
    """

    student: Tensor
    teacher: Tensor


def for_both(
    student: Network, teacher: Network, config: _Views, draw: Callable[[_Views, int], Tensor]
) -> Seen:
    """Draw views once, in the larger size, and shrink them for the network that sees less.

    A teacher that was trained here sees what the student sees. A foreign teacher sees its own size, because
    not every network takes another one.

    Args:
        student: the network that learns.
        teacher: the network that it learns from.
        config: how views are drawn.
        draw: (config, size) -> views (B, C, s, s), where s is `config.side(size)`.
    """
    if _same(student, teacher):
        x = draw(config, student.image_size)
        return Seen(x, x)
    (_, s), (_, t) = sides(student, teacher, config)
    x = draw(config.model_copy(update={"view_size": None}), max(s, t))
    return Seen(shrunk(x, s), shrunk(x, t))


def sides(
    student: Network, teacher: Network, config: Views
) -> tuple[tuple[Network, int], tuple[Network, int]]:
    """The student and the teacher, each with the side of the views that it sees, px."""
    s = config.side(student.image_size)
    return (student, s), (teacher, s if _same(student, teacher) else teacher.image_size)


def _same(student: Network, teacher: Network) -> bool:
    return not teacher.own_input and student.image_size == teacher.image_size


def blended(seen: Seen, alpha: float) -> Seen:
    """Blend the images of a batch with each other, for both networks alike.

    Args:
        seen: what the student and the teacher see.
        alpha: as in `models.mixup.partners`; 1 draws shares uniformly. At 0 nothing is blended.
    """
    if not alpha:
        return seen
    share, other = partners(len(seen.student), alpha)
    student = torch.lerp(seen.student, seen.student[other], share)
    same = seen.teacher is seen.student
    return Seen(student, student if same else torch.lerp(seen.teacher, seen.teacher[other], share))


def shrunk(x: Tensor, side: int) -> Tensor:
    """(B, C, S, S) in [0, 1] -> (B, C, side, side) in [0, 1], with antialiasing; x itself if it fits."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)


def centre_for(network: Network, images: Tensor) -> Tensor:
    """The view for evaluation, from squares that were stored for another network.

    Args:
        network: its `rule` says which part of a square it sees.
        images: (B, S, S, C) uint8.

    Returns:
        (B, C, s, s) float32 in [0, 1].
    """
    return centre_within(images, network.image_size, network.rule.stored)
