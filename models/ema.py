"""A teacher that follows its student as an exponential moving average (MoCo, BYOL, Momentum² Teacher, DINO)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.configs.shared import MomentumTeacher
from models.method import Progress
from models.norms import commit, replace_norms, set_alpha
from models.schedules import between, cosine

_Module = TypeVar("_Module", bound=nn.Module)


def teacher_of(student: _Module, config: MomentumTeacher) -> _Module:
    """A copy of the student that takes no gradient, with the batch norm that the configuration asks of a teacher.

    Args:
        student: to copy, with its weights as they are.
        config: `teacher_norm`, `norm_groups` and `lazy_update`.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    return replace_norms(teacher, config.teacher_norm, config.norm_groups, lazy=config.lazy_update)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, m: float) -> None:
    """theta_t <- m theta_t + (1 - m) theta_s over parameters, in their own float32.

    Buffers stay: a teacher's batch norm has statistics of its own, from its own forward passes.

    Args:
        teacher: moved in place.
        student: of the same form.
        m: weight of the old teacher, 0 to 1; 1 leaves it bit for bit, 0 copies.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    for theta_t, theta_s in pairs:
        theta_t.lerp_(theta_s, 1 - m)


@torch.no_grad()
def teach(teacher: nn.Module, x: Tensor, progress: Progress) -> Tensor:
    """What the teacher makes of a batch, without gradient.

    Where it has MomentumBN, alpha goes from 1 to 0 along half a cosine (Momentum² Teacher, arXiv 2101.07525, 3.3): a
    function of the step, so that a resumed training continues it.

    Args:
        teacher: in training mode; its batch norms take the batch's statistics, as `teacher_norm` says.
        x: views, or whatever it takes.
        progress: of the step under way.
    """
    set_alpha(teacher, cosine(progress.step / progress.steps))
    output: Tensor = teacher(x)
    return output


def advance(teacher: nn.Module, student: nn.Module, config: MomentumTeacher, progress: Progress) -> None:
    """For `after_update`: the weights follow the student, and MomentumBN writes its statistics once for all views.

    m = m_1 - (m_1 - m_0) (1 + cos(pi k / K)) / 2 at step k of K, from m_0 to m_1 (BYOL, arXiv 2006.07733, 3.3).

    Args:
        teacher: moved in place.
        student: of the same form, after the optimizer's step.
        config: `momentum` and `momentum_final`.
        progress: of the step under way.
    """
    follow(teacher, student, between(progress.step, progress.steps, config.momentum, config.momentum_final))
    commit(teacher)
