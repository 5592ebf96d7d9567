"""The optimizers that the recipes name, among them LARS and Muon.

Tensors with at most one dimension (biases, scales and shifts of norms) get no weight decay. LARS applies no
trust ratio to them either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.configs.shared import Optimization

MOMENTUM = 0.9


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling, in the form of SimCLR's release (You et al., arXiv 1708.03888).

    For weights w, gradient g, weight decay wd, rate lr, momentum mu and trust coefficient eta:
    g' = g + wd w;  trust = eta |w| / |g'| if both norms are above 0, else 1;  v = mu v + lr trust g';
    w = w - v.
    The rate is part of the velocity, so a change of the rate does not rescale earlier updates. If `adapt` is
    False, trust is 1, which is plain SGD with momentum.

    Args:
        params: parameters, or groups with `lr`, `weight_decay` and `adapt`.
        lr: learning rate, above 0.
        momentum: mu, in [0, 1).
        weight_decay: wd, at least 0.
        eta: trust coefficient.
        adapt: whether the trust ratio applies.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": adapt}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # overloads
        """Update every parameter that has a gradient. No value is read back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            for w in weights:
                if not self.state[w]:
                    self.state[w]["velocity"] = torch.zeros_like(w)
            velocity = [self.state[w]["velocity"] for w in weights]
            update = torch._foreach_add([w.grad for w in weights], weights, alpha=group["weight_decay"])
            if group["adapt"]:
                w_norm, g_norm = (
                    torch.stack(list(torch._foreach_norm(tensors))) for tensors in (weights, update)
                )
                trust = torch.where((w_norm > 0) & (g_norm > 0), group["eta"] * w_norm / g_norm, 1.0)
                torch._foreach_mul_(update, list((trust * group["lr"]).unbind()))
            else:
                torch._foreach_mul_(update, group["lr"])
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, update)
            torch._foreach_sub_(weights, velocity)
        return loss


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ADAM_SHARE = 0.2
"""Muon's rate for parameters that are not matrices, as a share of the rate for matrices."""


class Muon(Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, "Muon: an optimizer for hidden layers").

    A convolution's weight is treated as a matrix, out x (in height width). For a matrix w, gradient g, rate
    lr, weight decay wd and momentum mu:
    v = mu v + g;  u = g + mu v;  w = (1 - lr wd) w - lr sqrt(max(1, rows / columns)) O(u).
    O(u) has the singular vectors of u and singular values near 1. It is computed by five Newton-Schulz
    iterations. Groups with `orthogonal` False use Adam with betas 0.9 and 0.99, at `ADAM_SHARE` of the rate.
    torch.optim.Muon is not used, because it accepts only matrices.

    Args:
        params: groups with `lr`, `weight_decay` and `orthogonal`.
        lr: learning rate, above 0.
        momentum: mu, in [0, 1).
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # overloads
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                (self._matrices if group["orthogonal"] else self._adam)(weights, group)
        return loss

    def _matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [w.grad for w in weights if w.grad is not None]
        for w in weights:
            if not self.state[w]:
                self.state[w]["velocity"] = torch.zeros_like(w)
        velocity = [self.state[w]["velocity"] for w in weights]
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, gradients)
        updates = torch._foreach_add(gradients, velocity, alpha=group["momentum"])
        for w, update in zip(weights, updates, strict=True):
            u = update.flatten(1)
            rows, columns = u.shape
            w.add_(orthogonal(u).view_as(w), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _adam(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for w in weights:
            if not self.state[w]:
                self.state[w].update(
                    steps=torch.zeros(()), mean=torch.zeros_like(w), square=torch.zeros_like(w)
                )
            self.state[w]["steps"] += 1
        gradients = [w.grad for w in weights if w.grad is not None]
        mean, square = ([self.state[w][name] for w in weights] for name in ("mean", "square"))
        steps = [float(self.state[w]["steps"]) for w in weights]
        torch._foreach_lerp_(mean, gradients, 0.1)
        torch._foreach_lerp_(square, torch._foreach_mul(gradients, gradients), 0.01)
        spread = torch._foreach_div(square, [1 - 0.99**t for t in steps])
        torch._foreach_sqrt_(spread)
        torch._foreach_add_(spread, 1e-8)
        rates = [-ADAM_SHARE * group["lr"] / (1 - 0.9**t) for t in steps]
        torch._foreach_addcdiv_(weights, mean, spread, rates)


def orthogonal(u: Tensor) -> Tensor:
    """(rows, columns) float32 -> the same singular vectors, singular values near 1.

    A Newton-Schulz iteration is x <- (a + b G + c G G) x with G = x x^T. All its factors are polynomials in
    the first G, so they commute. Hence we iterate G itself, and multiply x once, by the product of all
    factors. That is less work where a matrix has more columns than rows. We compute in float32, because few
    CPUs are faster with small matrices in bfloat16.
    """
    a, b, c = NEWTON_SCHULZ
    x = u if u.shape[0] <= u.shape[1] else u.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    whole: Tensor | None = None
    for _ in range(5):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        whole = factor if whole is None else factor @ whole
        gram = factor @ gram @ factor
    assert whole is not None
    x = torch.mm(whole, x)
    return x if u.shape[0] <= u.shape[1] else x.T


def make_optimizer(
    config: Optimization,
    parameters: Iterable[nn.Parameter],
    head: Iterable[nn.Parameter] = (),
    head_learning_rate: float | None = None,
) -> Optimizer:
    """Make the optimizer that a configuration names.

    That is SGD with Nesterov momentum 0.9, LARS (momentum 0.9, eta 0.001), AdamW or Muon. Every group stores
    its peak rate as `peak`. The engine sets `lr` = peak * schedule at each step.

    Args:
        config: optimizer, peak learning rate, weight decay.
        parameters: what to train. Those that need no gradient are left out.
        head: the last layers, which must not be among `parameters`. They have their own rate, and Muon uses
            Adam for them.
        head_learning_rate: peak rate of `head`; None: the configuration's.

    Raises:
        ValueError: there is nothing to train.
    """
    groups: list[dict[str, Any]] = []
    rates = (config.learning_rate, config.learning_rate if head_learning_rate is None else head_learning_rate)
    for members, rate, is_head in zip(([*parameters], [*head]), rates, (False, True), strict=True):
        trained = [p for p in members if p.requires_grad]
        for decayed in (True, False):
            group = [p for p in trained if (p.ndim > 1) == decayed]
            if group:
                decay = config.weight_decay if decayed else 0.0
                groups.append({"params": group, "lr": rate, "peak": rate, "weight_decay": decay})
                if config.optimizer == "lars":
                    groups[-1]["adapt"] = decayed
                if config.optimizer == "muon":
                    groups[-1]["orthogonal"] = decayed and not is_head
    if not groups:
        raise ValueError("make_optimizer: no parameter needs a gradient, so there is nothing to train")
    if config.optimizer == "muon":
        return Muon(groups, lr=config.learning_rate)
    if config.optimizer == "lars":
        return LARS(groups, lr=config.learning_rate)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=MOMENTUM, nesterov=True)


def decay_by_depth(optimizer: Optimizer, depths: Mapping[nn.Parameter, int], decay: float) -> None:
    """Give lower layers smaller learning rates: the rate is multiplied by `decay` once per layer.

    Call it before the first step. Groups are split by depth, and keep their other options.

    Args:
        optimizer: its groups have `lr`.
        depths: the layer of a parameter, counted from 1 at the top. Others, such as heads, keep their rate.
        decay: factor per layer, above 0 to 1.
    """
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        by_depth: dict[int, list[Tensor]] = {}
        for parameter in group["params"]:
            by_depth.setdefault(depths.get(parameter, 0), []).append(parameter)
        for depth in sorted(by_depth):
            optimizer.add_param_group({**group, "params": by_depth[depth], "lr": group["lr"] * decay**depth})
