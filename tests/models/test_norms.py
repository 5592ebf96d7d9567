"""Batch norms of a momentum teacher, against slow rewrites, torch's batch norm and lightly's split one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.configs.shared import MomentumTeacher
from models.ema import teacher_of
from models.norms import MomentumBatchNorm, SplitBatchNorm, commit, replace_norms, set_alpha

EPS = 1e-5
SHAPES = [(12, 5), (12, 5, 3, 4)]


def some(shape, seed=0, scale=2.0, shift=1.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=g, dtype=torch.float64) + shift


def filled(norm, seed=9):
    """Convert a norm to float64 and change its initial weights and statistics."""
    norm = norm.double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(norm.num_features, generator=g) + 0.5)
        norm.bias.copy_(torch.randn(norm.num_features, generator=g))
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=g))
        norm.running_var.copy_(torch.rand(norm.num_features, generator=g) + 0.5)
    return norm


def plain(shape, **options):
    return (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1], **options)


def channels(x):
    """(B, C, ...) -> (C, B places) numpy."""
    return x.transpose(0, 1).flatten(1).detach().numpy()


# MomentumBN


def rewritten(x, mean, var, norm):
    """gamma (x - mean) / sqrt(var + eps) + beta, channel by channel."""
    out = np.empty(x.shape)
    for c in range(x.shape[1]):
        out[:, c] = (x[:, c].numpy() - mean[c]) / np.sqrt(var[c] + EPS)
        out[:, c] = out[:, c] * norm.weight[c].item() + norm.bias[c].item()
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_momentum_norm_over_three_iterations_of_two_views(shape):
    norm = filled(MomentumBatchNorm(shape[1]))
    run_mean, run_var = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    for step, alpha in enumerate((1.0, 0.7, 0.2)):
        norm.alpha = alpha
        means, variances = [], []
        for view in range(2):
            x = some(shape, seed=2 * step + view)
            values = channels(x)
            n = values.shape[1]
            mean = [sum(row) / n for row in values]
            var = [sum((v - m) ** 2 for v in row) / n for row, m in zip(values, mean, strict=True)]
            used_mean = [alpha * m + (1 - alpha) * r for m, r in zip(mean, run_mean, strict=True)]
            used_var = [alpha * v + (1 - alpha) * r for v, r in zip(var, run_var, strict=True)]
            np.testing.assert_allclose(norm(x).detach(), rewritten(x, used_mean, used_var, norm), rtol=1e-10)
            means.append(mean)
            variances.append([v * n / (n - 1) for v in var])
        norm.commit()
        for c in range(shape[1]):
            run_mean[c] = alpha * (means[0][c] + means[1][c]) / 2 + (1 - alpha) * run_mean[c]
            run_var[c] = alpha * (variances[0][c] + variances[1][c]) / 2 + (1 - alpha) * run_var[c]
        np.testing.assert_allclose(norm.running_mean, run_mean, rtol=1e-10)
        np.testing.assert_allclose(norm.running_var, run_var, rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_one_view_an_iteration_leaves_the_statistics_of_plain_batch_norm(shape, alpha):
    """torch's `momentum` is alpha. Outputs agree at alpha 1, and at alpha 0 with those in evaluation mode."""
    norm, torchs = filled(MomentumBatchNorm(shape[1])), filled(plain(shape, momentum=alpha))
    norm.alpha = alpha
    for seed in range(3):
        before = filled(plain(shape)).eval()
        before.load_state_dict(norm.state_dict())
        x = some(shape, seed)
        y, expected = norm(x), torchs(x)
        if alpha == 1.0:
            torch.testing.assert_close(y, expected)
        if alpha == 0.0:
            torch.testing.assert_close(y, before(x))
        norm.commit()
        torch.testing.assert_close(norm.running_mean, torchs.running_mean)
        torch.testing.assert_close(norm.running_var, torchs.running_var)
    torch.testing.assert_close(norm.eval()(x), torchs.eval()(x))


def test_the_second_view_does_not_see_the_first():
    a, b = some((12, 5), 0), some((12, 5), 1, scale=5.0, shift=-3.0)
    alone, after = filled(MomentumBatchNorm(5)), filled(MomentumBatchNorm(5))
    alone.alpha = after.alpha = 0.4
    before = after.running_mean.clone(), after.running_var.clone()
    after(a)
    assert torch.equal(before[0], after.running_mean)
    assert torch.equal(before[1], after.running_var)
    assert torch.equal(alone(b), after(b))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_lazy_update_each_view_is_a_step_of_plain_batch_norms_average(shape):
    norm, torchs = filled(MomentumBatchNorm(shape[1], lazy=False)), filled(plain(shape, momentum=0.3))
    norm.alpha = 0.3
    for seed in range(4):
        x = some(shape, seed)
        y = norm(x)
        torchs(x)
        torch.testing.assert_close(norm.running_mean, torchs.running_mean)
        torch.testing.assert_close(norm.running_var, torchs.running_var)
    norm.commit()  # nothing is left to write
    torch.testing.assert_close(norm.running_mean, torchs.running_mean)
    lazy = filled(MomentumBatchNorm(shape[1]))
    lazy.alpha = 0.3
    assert not torch.allclose(lazy(x), y)


def test_a_configuration_asks_for_either_update():
    for lazy in (True, False):
        teacher = teacher_of(
            nn.Sequential(nn.BatchNorm1d(3)), MomentumTeacher(teacher_norm="momentum", lazy_update=lazy)
        )
        assert teacher[0].lazy is lazy


def test_the_lazy_update_is_symmetric_in_the_views_and_needs_no_views():
    a, b = some((12, 5), 0), some((12, 5), 1, scale=5.0, shift=-3.0)
    norms = [filled(MomentumBatchNorm(5)) for _ in range(2)]
    for norm, views in zip(norms, ((a, b), (b, a)), strict=True):
        norm.alpha = 0.3
        for x in views:
            norm(x)
        norm.commit()
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var)
    state = {name: value.clone() for name, value in norms[0].state_dict().items()}
    norms[0].commit()
    assert all(torch.equal(value, state[name]) for name, value in norms[0].state_dict().items())


def test_statistics_converge_on_a_stationary_stream_as_alpha_falls():
    """At alpha_k = 1 / (k + 1) they are the mean over all inputs. Its error falls as 1 / sqrt(n)."""
    norm = MomentumBatchNorm(4).double()
    steps, shape = 100, (16, 4)
    for step in range(steps):
        norm.alpha = 1 / (step + 1)
        norm(some(shape, step, scale=2.0, shift=1.5))
        norm.commit()
    n = steps * shape[0]
    assert (norm.running_mean - 1.5).abs().max() < 4 * 2 / n**0.5
    assert (norm.running_var - 4).abs().max() < 4 * 4 * (2 / n) ** 0.5


def test_momentum_norm_gives_no_gradient_to_its_statistics():
    norm = filled(MomentumBatchNorm(5))
    norm.alpha = 0.5
    x = some((12, 5)).requires_grad_()
    norm(x).sum().backward()
    # With constant statistics the sum's gradient is gamma / sqrt(var). A gradient through the batch's
    # statistics would differ.
    var = 0.5 * x.detach().var(dim=0, correction=0) + 0.5 * norm.running_var
    torch.testing.assert_close(x.grad, (norm.weight.detach() / (var + EPS).sqrt()).expand(12, 5))


def test_momentum_norm_under_autocast_keeps_statistics_in_float32():
    norm = MomentumBatchNorm(5)
    x = 100 + some((64, 5)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        norm(x.bfloat16())
    norm.commit()
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, x.bfloat16().float().mean(dim=0))


# Split batch norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 3, 4])
def test_split_norm_is_plain_batch_norm_on_each_group(shape, groups):
    """Outputs, gradients and running statistics agree. Running statistics are means over the groups."""
    split = filled(SplitBatchNorm(shape[1], groups))
    weight = some(shape, seed=5)
    x = some(shape).requires_grad_()
    found = split(x)
    (found * weight).sum().backward()
    y, expected = torch.empty(2, *shape, dtype=torch.float64)
    means, variances = [], []
    for g in range(groups):
        each, rows = filled(plain(shape)), x.detach()[g::groups].clone().requires_grad_()
        y_g = each(rows)
        (y_g * weight[g::groups]).sum().backward()
        y[g::groups], expected[g::groups] = y_g.detach(), rows.grad
        means.append(each.running_mean)
        variances.append(each.running_var)
    torch.testing.assert_close(found.detach(), y)
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(split.running_mean, torch.stack(means).mean(dim=0))
    torch.testing.assert_close(split.running_var, torch.stack(variances).mean(dim=0))


def test_split_norm_agrees_with_lightly():
    from lightly.models.batchnorm import SplitBatchNorm as LightlySplit

    shape = (12, 5, 3, 4)
    ours = SplitBatchNorm(5, 4)
    theirs = LightlySplit(5, num_splits=4)
    for seed in range(3):
        x = some(shape, seed).float()
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    x = some(shape, 7).float()
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_group_depends_on_itself_alone():
    norm = filled(SplitBatchNorm(5, 3))
    x = some((12, 5))
    y = norm(x)
    changed = x.clone()
    changed[1::3] += 7 * some((4, 5), seed=3)
    z = norm(changed)
    for g in (0, 2):
        assert torch.equal(y[g::3], z[g::3])
    assert not torch.allclose(y[1::3], z[1::3])
    assert not torch.allclose(y, filled(nn.BatchNorm1d(5))(x))


def test_a_batch_that_cannot_be_divided_takes_the_greatest_common_divisor():
    x = some((12, 5))
    torch.testing.assert_close(filled(SplitBatchNorm(5, 8))(x), filled(SplitBatchNorm(5, 4))(x))


# Replacing


@pytest.mark.parametrize("norm", ["split", "momentum"])
def test_replacing_keeps_weights_statistics_and_what_evaluation_gives(norm):
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), filled(nn.BatchNorm2d(5)).float(), nn.Flatten(), nn.BatchNorm1d(5, affine=False)
    )
    net[1].weight.requires_grad_(False)
    x = some((8, 3, 3, 3)).float()
    before, state = net.eval()(x), {name: value.clone() for name, value in net.state_dict().items()}
    assert replace_norms(net, norm, 2) is net
    assert not any(type(m) in (nn.BatchNorm1d, nn.BatchNorm2d) for m in net.modules())
    assert torch.equal(net(x), before)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not net[1].weight.requires_grad
    assert not net[1].training
    assert not torch.allclose(net.train()(x), before)


def test_alpha_and_commit_reach_every_layer_of_a_module():
    net = replace_norms(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.BatchNorm1d(5))), "momentum", 1
    )
    norms = [m for m in net.modules() if isinstance(m, MomentumBatchNorm)]
    set_alpha(net, 0.25)
    assert [norm.alpha for norm in norms] == [0.25, 0.25]
    net(some((6, 4)).float())
    assert not any(norm.running_mean.any() for norm in norms)
    commit(net)
    assert norms[0].running_mean.any()
