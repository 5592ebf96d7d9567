"""A teacher that follows its student as an exponential moving average (MoCo, BYOL, Momentum² Teacher, DINO)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from models.methods.configs.shared import MomentumTeacher
from models.norms import replace_norms

_Module = TypeVar("_Module", bound=nn.Module)


def teacher_of(student: _Module, config: MomentumTeacher) -> _Module:
    """A copy of the student that takes no gradient, with the batch norm that the configuration asks of a teacher.

    Args:
        student: to copy, with its weights as they are.
        config: `teacher_norm` and `norm_groups`.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    return replace_norms(teacher, config.teacher_norm, config.norm_groups)


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
