"""A teacher that is an exponential moving average of its student (MoCo, BYOL, Momentum² Teacher, DINO)."""

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
    """Copy the student into a teacher without gradient, with the batch norm that the configuration asks for.

    Args:
        student: network to copy, with its current weights.
        config: `teacher_norm`, `norm_groups` and `lazy_update`.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    return replace_norms(teacher, config.teacher_norm, config.norm_groups, lazy=config.lazy_update)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, m: float) -> None:
    """theta_t <- m theta_t + (1 - m) theta_s for all parameters, computed in float32.

    Buffers are not changed. A teacher's batch norms have their own statistics from their own forward passes.

    Args:
        teacher: changed in place.
        student: a network with the same parameters.
        m: weight of the old teacher, 0 to 1. At 1 the teacher stays the same bit for bit, at 0 it is a copy.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    for theta_t, theta_s in pairs:
        theta_t.lerp_(theta_s, 1 - m)


@torch.no_grad()
def teach(teacher: nn.Module, x: Tensor, progress: Progress) -> Tensor:
    """The teacher's output for a batch, without gradient.

    In MomentumBN layers, alpha goes from 1 to 0 along half a cosine (Momentum² Teacher, arXiv 2101.07525,
    3.3). Alpha is a function of the step, so a resumed training continues it.

    Args:
        teacher: in training mode. `teacher_norm` decides which statistics its batch norms use.
        x: views, or any other input of the teacher.
        progress: of the current step.
    """
    set_alpha(teacher, cosine(progress.step / progress.steps))
    output: Tensor = teacher(x)
    return output


def advance(teacher: nn.Module, student: nn.Module, config: MomentumTeacher, progress: Progress) -> None:
    """Let the weights follow the student, and MomentumBN write its statistics once for all views.

    Methods call this in `after_update`. At step k of K, m = m_1 - (m_1 - m_0) (1 + cos(pi k / K)) / 2, which
    goes from m_0 to m_1 (BYOL, arXiv 2006.07733, 3.3).

    Args:
        teacher: changed in place.
        student: a network with the same parameters, after the optimizer's step.
        config: `momentum` and `momentum_final`.
        progress: of the current step.
    """
    follow(teacher, student, between(progress.step, progress.steps, config.momentum, config.momentum_final))
    commit(teacher)
