"""Parameter groups, and LARS against known properties, a slow rewrite and lightly's implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.configs.shared import Optimization
from models.optim import ADAM_SHARE, LARS, NEWTON_SCHULZ, Muon, make_optimizer, orthogonal


def weights(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )


def gradients(n: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(n)]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_lars_step_has_norm_lr_eta_w_whatever_the_gradients_scale(scale: float) -> None:
    w = weights(5, 4)
    before = w.detach().clone()
    w.grad = scale * gradients(1, 5, 4)[0]
    LARS([w], lr=0.3, momentum=0.0, eta=0.01).step()
    assert torch.linalg.norm(w - before).item() == pytest.approx(
        0.3 * 0.01 * torch.linalg.norm(before).item()
    )


def test_lars_without_adapting_is_sgd_with_momentum() -> None:
    ours, theirs = weights(5, 4), weights(5, 4)
    lars = LARS([{"params": [ours], "adapt": False}], lr=0.1, weight_decay=0.01)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    for g in gradients(6, 5, 4):
        ours.grad, theirs.grad = g.clone(), g.clone()
        lars.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("w", "g"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_lars_trusts_fully_where_a_norm_is_zero(w: float, g: float) -> None:
    parameter = nn.Parameter(torch.full((3, 2), w))
    parameter.grad = torch.full((3, 2), g)
    LARS([parameter], lr=0.1).step()
    torch.testing.assert_close(parameter.detach(), torch.full((3, 2), w - 0.1 * g))


def test_lars_is_the_classic_rule_when_the_rate_changes() -> None:
    w = weights(4, 3)
    slow, v = w.detach().clone(), torch.zeros(4, 3, dtype=torch.float64)
    optimizer = LARS([w], lr=1.0, weight_decay=0.05, eta=0.02)
    for lr, g in zip((1.0, 0.2, 3.0, 0.0, 0.5), gradients(5, 4, 3), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        w.grad = g.clone()
        optimizer.step()
        decayed = g + 0.05 * slow
        v = 0.9 * v + lr * 0.02 * slow.norm() / decayed.norm() * decayed
        slow = slow - v
    torch.testing.assert_close(w.detach(), slow)


def test_lars_equals_lightly_where_the_rules_coincide() -> None:
    """The rate is constant. The decay is so small that |g + wd w| and |g| + wd |w| are equal."""
    from lightly.utils.lars import LARS as LightlyLARS

    ours, theirs = weights(6, 5), weights(6, 5)
    lars = LARS([ours], lr=0.7, weight_decay=1e-12)
    reference = LightlyLARS(
        [theirs], lr=0.7, momentum=0.9, weight_decay=1e-12, trust_coefficient=0.001, eps=0.0
    )
    for g in gradients(8, 6, 5):
        ours.grad, theirs.grad = g.clone(), g.clone()
        lars.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_lars_leaves_parameters_without_gradient_alone() -> None:
    used, unused = weights(3, 3), weights(3, 3, seed=1)
    before = unused.detach().clone()
    used.grad = torch.ones_like(used)
    LARS([used, unused], lr=0.1).step()
    assert torch.equal(unused, before)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("lars", LARS), ("adamw", torch.optim.AdamW)]
)
def test_groups(name: str, kind: type) -> None:
    net = Net()
    config = Optimization(optimizer=name, learning_rate=0.2, weight_decay=0.01)
    optimizer = make_optimizer(config, net.body.parameters(), net.head.parameters(), head_learning_rate=2.0)
    assert type(optimizer) is kind
    found = [
        (sorted(p.ndim for p in group["params"]), group["lr"], group["peak"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert found == [
        ([4], 0.2, 0.2, 0.01),
        ([1, 1, 1], 0.2, 0.2, 0.0),
        ([2], 2.0, 2.0, 0.01),
        ([1], 2.0, 2.0, 0.0),
    ]
    if name == "lars":
        assert [group["adapt"] for group in optimizer.param_groups] == [True, False, True, False]
    if name == "sgd":
        assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_frozen_parameters_are_left_out_and_heads_default_to_the_same_rate() -> None:
    net = Net()
    config = Optimization(learning_rate=0.2)
    optimizer = make_optimizer(config, [*net.frozen.parameters(), *net.head.parameters()])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert {group["peak"] for group in make_optimizer(config, [], net.head.parameters()).param_groups} == {
        0.2
    }
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer(config, net.frozen.parameters())


def test_muon_equals_torchs_on_matrices() -> None:
    torch.manual_seed(0)
    for shape in ((6, 10), (10, 6), (8, 8)):
        ours, theirs = (
            nn.Parameter(torch.linspace(-1, 1, shape[0] * shape[1]).view(shape).clone()) for _ in range(2)
        )
        a = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.02)
        b = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1)
        for _ in range(5):
            ours.grad = torch.randn(shape)
            theirs.grad = ours.grad.clone()
            a.step()
            b.step()
        torch.testing.assert_close(
            ours, theirs, atol=5e-3, rtol=0
        )  # torch's orthogonalises in bf16; a step is 0.02


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_one_product_of_all_factors_is_the_newton_schulz_iteration(shape: tuple[int, int]) -> None:
    """The textbook form, in float64: x <- a x + (b G + c G G) x, five times, with G = x x^T."""
    torch.manual_seed(1)
    u = torch.randn(shape)
    a, b, c = NEWTON_SCHULZ
    x = u.double() / u.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(orthogonal(u), x.float(), atol=1e-5, rtol=1e-4)


def test_muon_orthogonalises_convolutions_as_matrices_and_leaves_norms_to_adam() -> None:
    torch.manual_seed(0)
    u = torch.randn(16, 3, 3, 3)
    values = torch.linalg.svdvals(orthogonal(u.flatten(1)))
    assert 0.6 < values.min() <= values.max() < 1.3
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    config = Optimization(optimizer="muon", learning_rate=0.01, weight_decay=0.0)
    optimizer = make_optimizer(config, module.parameters())
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    # Adam's first step has the size of its rate for any gradient.
    torch.testing.assert_close(
        (module[1].weight - before["1.weight"]).abs(), torch.full((16,), ADAM_SHARE * 0.01)
    )
    step = (module[0].weight - before["0.weight"]).flatten(1)
    assert 0.6 * 0.01 < torch.linalg.matrix_norm(step, 2) < 1.3 * 0.01
