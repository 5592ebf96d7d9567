"""A teacher that follows: closed forms, lightly's update, and what must not change."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from models.configs.shared import MomentumTeacher
from models.ema import advance, follow, teach, teacher_of
from models.method import Progress
from models.norms import MomentumBatchNorm, SplitBatchNorm


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("m", [0.5, 0.9, 0.996])
def test_closed_form_after_k_steps(m):
    """theta_0 m^k + theta (1 - m^k) while the student does not change."""
    student, teacher = net(0).double(), net(1).double()
    first = [p.detach().clone() for p in teacher.parameters()]
    k = 25
    for _ in range(k):
        follow(teacher, student, m)
    for p, p_0, p_s in zip(teacher.parameters(), first, student.parameters(), strict=True):
        torch.testing.assert_close(p, p_0 * m**k + p_s * (1 - m**k), rtol=1e-12, atol=1e-12)


def test_momentum_one_moves_nothing_and_zero_copies_bit_for_bit():
    student, teacher = net(0), net(1)
    first = copy.deepcopy(teacher)
    follow(teacher, student, 1.0)
    assert all(torch.equal(p, q) for p, q in zip(teacher.parameters(), first.parameters(), strict=True))
    follow(teacher, student, 0.0)
    assert all(torch.equal(p, q) for p, q in zip(teacher.parameters(), student.parameters(), strict=True))


def test_as_lightly_does():
    from lightly.models.utils import update_momentum

    student, teacher = net(0), net(1)
    theirs = copy.deepcopy(teacher)
    for _ in range(5):
        follow(teacher, student, 0.97)
        update_momentum(student, theirs, 0.97)
    for p, q in zip(teacher.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_small_updates_are_not_lost():
    """In float32, at 1 - m = 1e-5, a thousand steps still cover a hundredth of the distance."""
    teacher, student = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.zeros_(teacher.weight)
    nn.init.ones_(student.weight)
    for _ in range(1000):
        follow(teacher, student, 1 - 1e-5)
    assert teacher.weight.item() == pytest.approx(1 - (1 - 1e-5) ** 1000, rel=1e-3)


def test_buffers_stay_the_teachers_own():
    student, teacher = net(0), net(1)
    student(torch.randn(8, 3, 3, 3))
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    follow(teacher, student, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.named_buffers())
    assert not torch.equal(teacher[1].running_mean, student[1].running_mean)


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", nn.BatchNorm2d), ("split", SplitBatchNorm), ("momentum", MomentumBatchNorm)]
)
def test_a_teacher_is_a_copy_without_gradient(norm, kind):
    student = net()
    teacher = teacher_of(student, MomentumTeacher(teacher_norm=norm, norm_groups=3))
    assert type(teacher[1]) is kind
    assert type(student[1]) is nn.BatchNorm2d
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    shared = {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}
    assert not shared
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in teacher.state_dict().items())
    if norm == "split":
        assert teacher[1].groups == 3
    x = torch.randn(6, 3, 3, 3, requires_grad=True)
    assert not teach(teacher, x, Progress(0, 4, 0, 1)).requires_grad


def test_a_step_sets_alpha_and_momentum_on_half_a_cosine_and_writes_statistics_once():
    student = net()
    config = MomentumTeacher(momentum=0.9, momentum_final=1.0, teacher_norm="momentum")
    teacher = teacher_of(student, config)
    steps = 7
    for step in range(steps):
        now = Progress(step, steps, 0, 1)
        before = teacher[3].weight.clone()
        statistics = teacher[1].running_mean.clone()
        views = [torch.randn(6, 3, 3, 3) for _ in range(2)]
        means = [teacher[0](x).mean(dim=(0, 2, 3)).detach() for x in views]
        for x in views:
            teach(teacher, x, now)
        assert torch.equal(teacher[1].running_mean, statistics)
        alpha = (math.cos(math.pi * step / steps) + 1) / 2
        assert teacher[1].alpha == pytest.approx(alpha)
        with torch.no_grad():
            student[3].weight.add_(1)
        advance(teacher, student, config, now)
        m = 1 - (1 - 0.9) * (math.cos(math.pi * step / steps) + 1) / 2
        torch.testing.assert_close(teacher[3].weight, m * before + (1 - m) * student[3].weight)
        torch.testing.assert_close(teacher[1].running_mean, alpha * sum(means) / 2 + (1 - alpha) * statistics)
